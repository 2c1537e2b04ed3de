"""A manager and two agents with a libvirt each: a policy comes by a document, keeps room for new VMs, looks by itself, and backs off when its moves fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import Conflict, Forbidden, NoCapacity

from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import Stack
from tests.support.stack_faults import ended

pytestmark = pytest.mark.libvirt

MIB = 1 << 20
SETTINGS = {"policy_start_seconds": 1, "disconnected_seconds": 10}


@pytest.fixture(scope="module")
def other_libvirtd() -> Iterator[PrivateLibvirtd]:
    libvirtd = PrivateLibvirtd()
    yield libvirtd
    libvirtd.close()


@pytest.fixture(scope="module")
def stack(private_libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    made = Stack([private_libvirtd.uri, other_libvirtd.uri], settings=SETTINGS)
    try:
        made.up()
        made.wait_for(lambda: require(all(one["facts"] for one in made.client.get("/api/v1/servers")["items"])), "the facts of both")
        yield made
    finally:
        made.close()
        private_libvirtd.clear()


def require(condition: Any) -> bool:
    assert condition
    return True


def apply(stack: Stack, **document: Any) -> dict[str, Any]:
    """Apply a document and return its job, which has succeeded."""
    job = ended(stack, str(stack.client.post("/api/v1/apply", document)["id"]))
    assert job["state"] == "succeeded", job
    return job


def pool(stack: Stack, **policy: Any) -> dict[str, Any]:
    """Apply the pool with this policy; return the pool as it is shown."""
    apply(stack, server_pools=[{"name": "rack1", "servers": ["s0", "s1"], "clustered": False, "policy": policy}])
    stack.wait_for(lambda: require({one["pool"] for one in stack.client.get("/api/v1/servers")["items"]} == {"rack1"}), "the servers' pool")
    return dict(stack.client.get("/api/v1/server-pools/rack1"))


def limit(stack: Stack, mib: int) -> None:
    """Have each server promise so much memory."""
    told = stack.client.get("/api/v1/servers")["items"]
    servers = [{"name": one["name"], "virtualization": "qemu", "memory_reserve": one["facts"]["memory"] - mib * MIB} for one in told]
    apply(stack, servers=servers)


def vm(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "memory": "16MiB", **more}


def test_new_vms_leave_the_room_that_the_policy_keeps(stack: Stack) -> None:
    limit(stack, 64)
    shown = pool(stack, spare_servers=1)
    assert shown["policy"]["spec"] == {"spare_servers": 1} and not shown["policy"]["on"]
    apply(stack, vms=[vm(f"vm{number}") for number in range(4)])
    with pytest.raises(NoCapacity) as raised:
        stack.client.post("/api/v1/apply", {"vms": [vm("onemore")]})
    told = str(raised.value)
    assert "s0: room is kept for the loss of a server: without s0 there is no place for 1 VMs" in told and "s1: room is kept" in told
    pool(stack, spare_servers=0)
    apply(stack, vms=[vm("onemore")])
    apply(stack, vms=[vm(name, state="absent") for name in ("vm0", "vm1", "vm2", "vm3", "onemore")])


def test_a_policy_looks_by_itself_and_backs_off_when_its_moves_fail(stack: Stack) -> None:
    """Two servers of one machine have one host UUID: libvirt moves nothing between them."""
    limit(stack, 256)
    apply(stack, vms=[vm(f"vm{number}", server="s0", state="running") for number in range(4)])
    pool(stack, mode="drs", period=1, tolerance=1, most_moves=1)
    job = stack.wait_for(lambda: stack.client.get("/api/v1/jobs", kind="balance")["items"][0], "the first look", 60)
    job = ended(stack, job["id"])
    assert (job["state"], job["created_by"], job["changed"]) == ("failed", "policy of rack1", False)
    assert job["error"]["object"].startswith("vm vm") and job["error"]["message"]
    failed = stack.wait_for(lambda: stack.client.get("/api/v1/events", kind="pool.policy_failed")["items"][0], "that the failure is told", 30)
    assert failed["data"]["job"] == job["id"] and failed["severity"] == "warning" and failed["data"]["resting"]
    shown = stack.client.get("/api/v1/server-pools/rack1")["policy"]
    assert (shown["on"], shown["failures"], shown["found"]["job"]) == (True, 1, job["id"]) and shown["next_at"] > shown["looked_at"]
    assert "of s0 is used" in shown["found"]["moves"][0]["reason"]
    assert not pool(stack, mode="off")["policy"]["on"]
    with pytest.raises(Conflict, match="VMs run on it"):
        stack.client.post("/api/v1/servers/s0/power-off")
    apply(stack, vms=[vm(f"vm{number}", state="absent", force_stop=True) for number in range(4)])


def test_a_server_whose_agent_may_not_switch_it_off_stays_on(stack: Stack) -> None:
    """These agents' server is this machine."""
    job = ended(stack, str(stack.client.post("/api/v1/servers/s1/power-off")["id"]))
    assert (job["state"], job["error"]["code"]) == ("failed", Forbidden.code), job
    server = stack.client.get("/api/v1/servers/s1")
    assert (server["state"], server["powered_off"]) == ("running", None)
