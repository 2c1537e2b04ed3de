"""Agents, libvirt and jobs that end at the wrong moment, and changes behind the manager's back, on real guests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.clients.agent import AgentClient

from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import Stack
from tests.support.stack_faults import ENDED, VERBS, agent_client, ended, items, kill_agent, nothing_is_left, operations, start_agent

pytestmark = pytest.mark.libvirt

QEMU = {"servers": [{"name": "s0", "virtualization": "qemu"}]}
SOON = 8.0


@pytest.fixture(scope="module")
def stack(libvirt_stack: Stack) -> Stack:
    return libvirt_stack


@pytest.fixture(autouse=True)
def nothing_is_left_behind(stack: Stack) -> Iterator[None]:
    yield
    nothing_is_left(stack)
    assert "Traceback" not in stack.log("agent0") + stack.log("manager")


def vm(name: str, state: str = "running", **more: Any) -> dict[str, Any]:
    """A VM without disks."""
    return {"name": name, "memory": "16MiB", "state": state, **more}


def apply(stack: Stack, *vms: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Apply and wait; the job, which has succeeded."""
    job = ended(stack, stack.client.post("/api/v1/apply", {**QEMU, "vms": list(vms), **more})["id"])
    assert job["state"] == "succeeded", job
    return job


def shown(stack: Stack, name: str) -> dict[str, Any]:
    """The VM as the API shows it."""
    return dict(stack.client.get(f"/api/v1/vms/{name}"))


def is_shown(stack: Stack, name: str, state: str) -> None:
    """Wait until the API shows it in that state."""
    stack.wait_for(lambda: shown(stack, name)["state"] == state, f"{name} {state}")


def end_of(client: AgentClient, operation: str) -> dict[str, Any]:
    """The status of an operation once it has ended."""
    while True:
        status = dict(client.call("status", operation=operation, wait=5))
        if status["state"] in ENDED:
            return status


# --- an agent killed at work


@pytest.mark.parametrize(("verb", "before", "options", "after"), VERBS, ids=[verb[0] for verb in VERBS])
def test_an_agent_killed_during_a_verb_completes_it_when_it_is_sent_again(
    stack: Stack, private_libvirtd: PrivateLibvirtd, verb: str, before: str, options: dict[str, Any], after: str
) -> None:
    name = f"killed-{verb}"
    apply(stack, vm(name, "running" if before == "suspended" else before))
    found = shown(stack, name)
    if before == "suspended":
        assert stack.client.post(f"/api/v1/vms/{name}/suspend", wait=30)["state"] == "succeeded"
    job = stack.client.post(f"/api/v1/vms/{found['id']}/{verb}", options or None)
    stack.wait_for(lambda: job["id"] in operations(stack, 0), "the operation")
    kill_agent(stack, 0)
    told = ended(stack, job["id"])
    # Unreachable: it died before it could answer that it has the operation.
    assert told["state"] == "succeeded" or told["error"]["code"] in ("interrupted", "unreachable"), told
    client = agent_client(stack, 0)
    asked = {"vm": found["id"], "verb": verb, "site": found["site"], "timeout": options.get("timeout"), "force": bool(options.get("force"))}
    client.call("submit", operation=job["id"], kind="verb", **asked)
    again = end_of(client, job["id"])
    client.close()
    assert (again["state"], again["error"]) == ("succeeded", None), again
    is_shown(stack, name, after)
    assert private_libvirtd.virsh("domstate", name) == {"running": "running"}.get(after, "shut off")
    assert shown(stack, name)["recorded"]["state"] == after
    unchanged = stack.client.post(f"/api/v1/vms/{found['id']}/{'start' if after == 'running' else verb}", options or None, wait=30)
    assert (unchanged["state"], unchanged["changed"]) == ("succeeded", False), unchanged


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0])
def test_an_agent_killed_during_an_apply_completes_it_when_the_same_id_comes_again(stack: Stack, private_libvirtd: PrivateLibvirtd, delay: float) -> None:
    names = [f"half-{delay:g}-{number}" for number in range(4)]
    operation, vms = str(uuid.uuid4()), [vm(name) for name in names]
    client = agent_client(stack, 0)
    asked = {"operation": operation, "kind": "apply", "document": {**QEMU, "site": "default", "vms": vms}, "server": "s0"}
    client.call("submit", **asked)
    time.sleep(delay)
    client.close()
    kill_agent(stack, 0)
    client = agent_client(stack, 0)
    client.call("submit", **asked)
    again = end_of(client, operation)
    client.close()
    assert again["state"] == "succeeded", again
    running = private_libvirtd.virsh("list", "--name").split()
    assert set(names) <= set(running)
    for name in names:
        is_shown(stack, name, "running")
    assert apply(stack, *vms)["changed"] is False


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_job_whose_agent_is_killed_ends_and_can_be_relaunched(stack: Stack, delay: float) -> None:
    vms = [vm(f"relaunched-{delay:g}-{number}") for number in range(4)]
    job = stack.client.post("/api/v1/apply", {**QEMU, "vms": vms})
    stack.wait_for(lambda: [one for one in operations(stack, 0) if one.startswith(job["id"])] or False, "the operation")
    time.sleep(delay)
    kill_agent(stack, 0)
    told = ended(stack, job["id"])
    # Killed before it had answered, it is sent the same once more, and then does it.
    if told["state"] != "succeeded":
        assert told["error"]["code"] == "interrupted", told
        again = ended(stack, stack.client.post(f"/api/v1/jobs/{job['id']}/relaunch")["id"])
        assert (again["state"], again["relaunch_of"]) == ("succeeded", job["id"]), again
    assert apply(stack, *vms)["changed"] is False


# --- cancel


def cancelled(stack: Stack, job_id: str) -> dict[str, Any]:
    """Cancel a job; it must end soon, with nothing left of it."""
    stack.client.post(f"/api/v1/jobs/{job_id}/cancel")
    job = ended(stack, job_id, SOON)
    assert (job["state"], job["error"]["code"], job["cancel_requested"]) == ("cancelled", "cancelled", True), job
    nothing_is_left(stack)
    assert all(operations(stack, 0)[one] == "cancelled" for one in operations(stack, 0) if one.startswith(job_id))
    return job


def test_cancel_ends_a_stop_that_would_wait_for_long(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    apply(stack, vm("deaf"))
    job = stack.client.post("/api/v1/vms/deaf/stop", {"timeout": 600})
    stack.wait_for(lambda: job["id"] in operations(stack, 0), "the operation")
    waiting = stack.client.post("/api/v1/vms/deaf/kill")
    stack.wait_for(lambda: stack.client.get(f"/api/v1/jobs/{waiting['id']}")["waiting_for"] == job["id"], "the other one to wait")
    stack.client.post(f"/api/v1/jobs/{waiting['id']}/cancel")
    assert ended(stack, waiting["id"], SOON)["state"] == "cancelled"
    cancelled(stack, job["id"])
    assert private_libvirtd.virsh("domstate", "deaf") == "running"
    killed = stack.client.post("/api/v1/vms/deaf/kill", wait=30)
    assert (killed["state"], killed["changed"]) == ("succeeded", True), killed


def test_cancel_ends_an_apply_that_waits_for_an_address(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    document = {**QEMU, "networks": [{"name": "silent", "mode": "isolated"}], "vms": [vm("mute", nics=[{"name": "eth0", "network": "silent"}])]}
    job = stack.client.post("/api/v1/apply", document, wait_for_address=300)
    stack.wait_for(lambda: "mute" in private_libvirtd.virsh("list", "--name").split(), "the VM")
    cancelled(stack, job["id"])
    assert "mute" in private_libvirtd.virsh("list", "--name").split()
    assert ended(stack, stack.client.post("/api/v1/apply", document)["id"])["state"] == "succeeded"


def test_cancel_ends_an_apply_before_it_has_reached_a_server(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    job = stack.client.post("/api/v1/apply", {**QEMU, "vms": [vm("never")]})
    stack.wait_for(lambda: stack.client.get(f"/api/v1/jobs/{job['id']}")["state"] == "running", "its start")
    cancelled(stack, job["id"])
    assert "never" not in private_libvirtd.virsh("list", "--all", "--name").split()


# --- libvirt gone and back, an agent restarted


def kinds_since(stack: Stack, since: int) -> list[str]:
    """The kinds of the events after a number, in their order."""
    return [event["kind"] for event in stack.client.get("/api/v1/events", since=since, limit=500)["items"]]


def last_event(stack: Stack) -> int:
    """The number of the newest event."""
    return int(stack.client.get("/api/v1/events", limit=1)["items"][0]["id"])


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_libvirt_gone_and_back_is_told_with_what_happened_meanwhile(stack: Stack, private_libvirtd: PrivateLibvirtd, way: str) -> None:
    apply(stack, vm(f"stays-{way}"), vm(f"dies-{way}"))
    stays, dies, since = private_libvirtd.guest(f"stays-{way}"), private_libvirtd.guest(f"dies-{way}"), last_event(stack)
    try:
        getattr(private_libvirtd, way)()
        stack.wait_for(lambda: "libvirt.lost" in kinds_since(stack, since), "libvirt.lost")
        stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["libvirt"] == "down", "libvirt down")
        refused = stack.client.post(f"/api/v1/vms/stays-{way}/suspend", wait=30)
        assert refused["state"] == "failed" and refused["error"]["remedy"], refused
        os.kill(dies, signal.SIGKILL)
    finally:
        private_libvirtd.start()
    stack.wait_for(lambda: "libvirt.back" in kinds_since(stack, since), "libvirt.back")
    is_shown(stack, f"dies-{way}", "stopped")
    is_shown(stack, f"stays-{way}", "running")
    kinds = kinds_since(stack, since)
    assert kinds.index("libvirt.lost") < kinds.index("libvirt.back")
    assert private_libvirtd.guest(f"stays-{way}") == stays
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["libvirt"] == "up", "libvirt up")


def test_an_agent_restarted_or_killed_touches_no_vm_and_tells_what_it_missed(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    apply(stack, vm("untouched"), vm("missed"))
    guest = private_libvirtd.guest("untouched")
    for number in (signal.SIGTERM, signal.SIGKILL):
        stack.end("agent0", number)
        assert private_libvirtd.guest("untouched") == guest
        private_libvirtd.virsh("destroy" if number == signal.SIGTERM else "start", "missed")
        start_agent(stack, 0)
        is_shown(stack, "missed", "stopped" if number == signal.SIGTERM else "running")
        is_shown(stack, "untouched", "running")
    assert private_libvirtd.guest("untouched") == guest


# --- behind our back


def has_drifted(drift: dict[str, Any], *fields: str) -> bool:
    """Fail with what there is unless these fields are among it."""
    assert set(fields) <= set(drift), drift
    return True


def test_a_change_behind_our_back_is_shown_and_never_mended_unasked(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    apply(stack, vm("drifts"), vm("steady"))
    private_libvirtd.virsh("destroy", "drifts")
    edited = stack.directory / "edited.xml"
    edited.write_text(private_libvirtd.virsh("dumpxml", "--inactive", "drifts").replace(">16384</currentMemory>", ">8192</currentMemory>"))
    private_libvirtd.virsh("define", str(edited))

    def drift() -> dict[str, Any]:
        found = [one for one in items(stack, "drift", kind="vm") if one["name"] == "drifts"]
        return {one["field"]: one for one in found[0]["drift"]} if found else {}

    stack.wait_for(lambda: has_drifted(drift(), "state", "memory"), "the drift")
    assert "steady" not in [one["name"] for one in items(stack, "drift", kind="vm")]
    assert (drift()["state"]["asked"], drift()["memory"]["asked"]) == ("running", 16 << 20), drift()
    jobs = len(items(stack, "jobs"))
    kill_agent(stack, 0)
    time.sleep(3)
    assert has_drifted(drift(), "state", "memory")
    assert private_libvirtd.virsh("domstate", "drifts") == "shut off"
    assert len(items(stack, "jobs")) == jobs
    assert apply(stack, vm("drifts"))["changed"] is True
    stack.wait_for(lambda: not drift(), "the end of the drift")
    assert private_libvirtd.virsh("domstate", "drifts") == "running"


def test_vcpus_that_somebody_plugs_show_although_libvirt_tells_of_it_in_no_event(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    apply(stack, vm("plugged", cpus=1, cpus_max=2))
    stack.wait_for(lambda: shown(stack, "plugged")["state"] == "running", "the VM")
    time.sleep(3)  # what its start brought is told by now
    private_libvirtd.virsh("setvcpus", "plugged", "2", "--live")

    def drift() -> list[tuple[str, Any, Any]]:
        found = [one for one in items(stack, "drift", kind="vm") if one["name"] == "plugged"]
        return [(one["field"], one["defined"], one["running"]) for one in found[0]["drift"]] if found else []

    stack.wait_for(lambda: drift() == [("cpus", 1, 2)], "the drift")
    assert stack.client.post("/api/v1/vms/plugged/kill", wait=30)["state"] == "succeeded"


def test_what_ran_before_domus_came_is_adopted_by_the_document_that_the_manager_writes(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    images = stack.directory / "images"
    images.mkdir()
    images.chmod(0o711)
    (images / "old.img").write_bytes(bytes(1 << 20))
    (images / "old.img").chmod(0o666)
    disk = f"<disk type='file'><driver name='qemu' type='raw'/><source file='{images}/old.img'/><target dev='vda' bus='virtio'/></disk>"
    definition = stack.directory / "old.xml"
    definition.write_text(
        "<domain type='qemu'><name>old</name><memory unit='MiB'>16</memory><os><type machine='pc'>hvm</type></os>"
        f"<features><acpi/></features><devices>{disk}</devices></domain>"
    )
    private_libvirtd.virsh("define", str(definition))
    before = private_libvirtd.virsh("dumpxml", "--inactive", "old")
    stack.wait_for(lambda: shown(stack, "old")["measured"]["managed"] is False, "the VM")
    started = stack.client.post("/api/v1/vms/old/start", wait=30)
    assert (started["state"], "not managed" in started["result"]["objects"][0]["note"]) == ("succeeded", True)
    assert stack.client.post("/api/v1/vms/old/kill", wait=30)["state"] == "succeeded"
    assert private_libvirtd.virsh("dumpxml", "--inactive", "old") == before, "a verb writes nothing into it"
    document = stack.client.post("/api/v1/servers/s0/adopt", {"vms": ["old"]})["document"]
    assert (document["vms"][0]["server"], document["repositories"][0]["servers"]) == ("s0", ["s0"])
    plan = stack.client.post("/api/v1/plans", document)
    assert plan["errors"] == [] and [(one["kind"], one["actions"]) for one in plan["objects"] if one["changed"]] == [
        ("repository", ["create"]),
        ("vm", ["update"]),
    ]
    assert [change["field"] for one in plan["objects"] if one["kind"] == "vm" for change in one["changes"]] == ["managed"]
    job = ended(stack, stack.client.post("/api/v1/apply", document)["id"])
    assert (job["state"], job["changed"]) == ("succeeded", True), job
    found = shown(stack, "old")
    assert found["measured"]["managed"] is True and found["drift"] == [] and found["site"] == document["site"]
    again = ended(stack, stack.client.post("/api/v1/apply", document)["id"])
    assert (again["state"], again["changed"]) == ("succeeded", False), again
    named = document["repositories"][0]["name"]
    (images / "other.img").write_bytes(bytes(1 << 20))
    (images / "other.img").chmod(0o666)
    apply(stack, vm("beside", disks=[{"name": "root", "file": f"{named}/other.img"}], server="s0"))
    assert apply(stack, vm("beside", "absent", force_stop=True), vm("old", "absent"))["changed"] is True


def local_ansible(stack: Stack, uri: str, **more: Any) -> dict[str, Any]:
    """What the module domus.virt.vm says when somebody runs it on the server itself."""
    arguments = {"name": "local", "memory": "16MiB", "state": "stopped", "uri": uri, "state_directory": str(stack.directory / "state0"), **more}
    environment = {
        **{"PATH": "/usr/bin:/bin", "HOME": str(stack.directory), "LANG": "C.UTF-8", "ANSIBLE_COLLECTIONS_PATH": str(stack.install / "collections")},
        "ANSIBLE_LOCAL_TEMP": str(stack.directory / "ansible"),
    }
    command = [str(stack.install / "venv/bin/ansible"), "localhost", "-e", "ansible_python_interpreter=/usr/bin/python3", "-m", "domus.virt.vm", "-a"]
    done = subprocess.run([*command, json.dumps(arguments)], env=environment, cwd="/", capture_output=True, text=True, check=False)
    head, arrow, told = done.stdout.partition(" => ")
    assert arrow, done.stdout + done.stderr
    return {"failed": "FAILED" in head, **json.loads(told)}


def test_a_local_change_is_refused_unless_forced_and_then_it_is_told(stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    since = last_event(stack)
    refused = local_ansible(stack, private_libvirtd.uri)
    assert refused["failed"] and refused["error"]["code"] == "owned_by_manager" and refused["error"]["remedy"], refused
    assert "local" not in private_libvirtd.virsh("list", "--all", "--name").split()
    forced = local_ansible(stack, private_libvirtd.uri, force_local=True)
    assert forced["changed"], forced
    stack.wait_for(lambda: "server.forced_local_change" in kinds_since(stack, since), "the event")
    is_shown(stack, "local", "stopped")
