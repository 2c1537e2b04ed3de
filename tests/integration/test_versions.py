"""This version and the one before it, in one site: an upgrade goes server by server, and meanwhile all of it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import DomusError, Unsupported
from domus_core.version import VERSION

from tests.support import release
from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import Stack
from tests.support.stack_faults import ended

pytestmark = pytest.mark.libvirt

VM = {"name": "old", "memory": "16MiB", "state": "stopped"}
NETWORK = {"name": "lan", "mode": "isolated"}


@pytest.fixture
def old_agent(private_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    """Today's manager with an agent of version N-1, and one of today."""
    yield from _running(Stack([private_libvirtd.uri, "test:///default"], old=["agent0"]), private_libvirtd)


@pytest.fixture
def old_manager(private_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    """A manager of version N-1 with an agent of today."""
    yield from _running(Stack([private_libvirtd.uri], old=["manager"]), private_libvirtd)


def _running(stack: Stack, private_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    try:
        yield stack.up()
        for name in stack.processes:
            assert "Traceback" not in stack.log(name), stack.log(name)
    finally:
        stack.close()
        private_libvirtd.clear()


def apply(stack: Stack, **sections: Any) -> dict[str, Any]:
    document = {"servers": [{"name": "s0", "virtualization": "qemu"}], **sections}
    return ended(stack, stack.client.post("/api/v1/apply", document)["id"])


def works(stack: Stack) -> None:
    """What a manager and its agents do all day: apply, verbs, reports, events, statistics; and nothing left of it."""
    job = apply(stack, vms=[{**VM, "server": "s0"}], networks=[{**NETWORK, "servers": ["s0"]}])
    assert job["state"] == "succeeded", job
    assert apply(stack, vms=[{**VM, "server": "s0"}], networks=[{**NETWORK, "servers": ["s0"]}])["changed"] is False
    for verb, state in (("start", "running"), ("kill", "stopped")):
        assert ended(stack, stack.client.post(f"/api/v1/vms/old/{verb}")["id"])["state"] == "succeeded"
        stack.wait_for(lambda state=state: stack.client.get("/api/v1/vms/old")["state"] == state, f"the VM to be {state}")  # type: ignore[misc]
    stack.wait_for(lambda: {"vm.started", "vm.stopped"} <= {one["kind"] for one in stack.client.pages("/api/v1/events", server="s0")}, "its events")
    assert stack.client.get("/api/v1/networks/lan")["server"] == "s0"
    gone = apply(stack, vms=[{"name": "old", "state": "absent"}], networks=[{"name": "lan", "state": "absent", "servers": ["s0"]}])
    assert gone["state"] == "succeeded", gone


def test_an_agent_of_the_version_before_works_is_marked_and_is_upgraded(old_agent: Stack) -> None:
    stack = old_agent
    found = {one["name"]: one for one in stack.client.pages("/api/v1/servers")}
    assert (found["s0"]["version"], found["s0"]["behind"]) == (release.VERSION, True)
    assert (found["s1"]["version"], found["s1"]["behind"]) == (VERSION, False)
    works(stack)
    stack.end("agent0")
    stack.upgrade("agent0")
    stack.start("agent0")
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["version"] == VERSION, "the upgraded agent")
    works(stack)
    assert stack.client.get("/api/v1/servers/s0")["facts"]["numa_cells"]


def test_what_an_older_agent_can_not_do_is_explained(old_agent: Stack) -> None:
    stack = old_agent
    with pytest.raises(Unsupported, match="older") as caught:
        stack.client.post("/api/v1/servers/s0/renew")
    assert "Upgrade the agent" in caught.value.remedy
    with pytest.raises(DomusError) as refused:
        job = apply(stack, repositories=[{"name": "nas", "servers": ["s0"], "nfs": {"server": "192.0.2.1", "export": "/x"}}])
        assert job["state"] == "failed", job
        raise DomusError(job["error"]["message"], remedy=job["error"].get("remedy", ""))
    assert "nfs" in str(refused.value)
    assert stack.client.get("/api/v1/servers/s0")["state"] == "running"


def test_an_agent_that_is_newer_than_its_manager_works(old_manager: Stack) -> None:
    stack = old_manager
    assert stack.client.get("/api/v1/health")["version"] == release.VERSION
    assert stack.client.get("/api/v1/servers/s0")["version"] == VERSION
    works(stack)
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["facts"]["numa_cells"], "facts that the old manager only passes on")


def test_a_manager_is_upgraded_on_its_old_database(old_manager: Stack) -> None:
    stack = old_manager
    job = apply(stack, vms=[{**VM, "server": "s0"}])
    assert job["state"] == "succeeded", job
    for name in ("manager", "runner"):
        stack.end(name)
    stack.upgrade("manager")
    began = time.time()
    for name in ("runner", "manager"):
        stack.start(name)
    stack.wait_until_up()
    stack.wait_for(lambda: stack.client.get("/api/v1/health")["version"] == VERSION, "the new manager")
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["state"] == "running", "the server's report")
    assert stack.client.get("/api/v1/vms/old")["server"] == "s0"
    told = [one for one in stack.client.pages("/api/v1/events", kind="server.*") if one["severity"] != "info"]
    assert told == [], (told, began)
    assert ended(stack, stack.client.post("/api/v1/vms/old/start")["id"])["state"] == "succeeded"
    assert apply(stack, vms=[{"name": "old", "state": "absent"}])["state"] == "succeeded"
