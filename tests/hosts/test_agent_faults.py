"""Agents and libvirt that die at work on real servers, where systemd starts them again; and an agent of the version before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.version import VERSION

from tests.hosts.conftest import Hosts
from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.support.stack_faults import FORCED, VERBS


@pytest.fixture(scope="module")
def fleet(lab: Lab, module_hosts: Hosts) -> Iterator[Fleet]:
    made = Fleet(lab, module_hosts(2))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def no_vm_is_left(fleet: Fleet) -> Iterator[None]:
    yield
    absent = [{"name": vm["name"], "state": "absent"} for vm in fleet.client.pages("/api/v1/vms")]
    if absent:
        assert fleet.apply({"vms": absent})["state"] == "succeeded"


def vm(name: str, host: Host, state: str = "running") -> dict[str, Any]:
    """A VM without disks."""
    return {"name": name, "server": host.name, "memory": "16MiB", "virtualization": "qemu", "state": state}


def kill_agent(fleet: Fleet, host: Host) -> None:
    """At once; systemd starts it again."""
    host.run("systemctl", "kill", "-s", "KILL", "domus-agent")
    fleet.stack.wait_for(lambda: host.attempt("systemctl", "is-active", "domus-agent").output.strip() == "active" or False, "systemd starting it again")


def domain_state(host: Host, name: str) -> str:
    """As libvirt has it."""
    told = host.attempt("virsh", "domstate", name)
    return told.output.strip() if told.code == 0 else "absent"


@pytest.mark.parametrize("delay", [0.0, 0.3])
@pytest.mark.parametrize(("verb", "before", "options", "after"), VERBS, ids=[verb[0] for verb in VERBS])
def test_an_agent_killed_during_a_verb(fleet: Fleet, verb: str, before: str, options: dict[str, Any], after: str, delay: float) -> None:
    """The job has an end and tells it; the VM is in one of the two states; asked again, the verb does what is left of it."""
    host, name = fleet.hosts[0], f"killed-{verb}"
    assert fleet.apply({"vms": [vm(name, host, "running" if before == "suspended" else before)]})["state"] == "succeeded"
    if before == "suspended":
        assert fleet.ended(fleet.client.post(f"/api/v1/vms/{name}/suspend", {}))["state"] == "succeeded"
    job = fleet.client.post(f"/api/v1/vms/{name}/{verb}", options)
    time.sleep(delay)
    kill_agent(fleet, host)
    told = fleet.ended(job)
    assert told["state"] == "succeeded" or told["error"]["code"] in ("interrupted", "unreachable"), told
    # What libvirt was asked before, it does: for a moment it may still be at it.
    fleet.stack.wait_for(lambda: domain_state(host, name) in ("running", "shut off"), "one of the two states")

    def again() -> Any:
        ended = fleet.ended(fleet.client.post(f"/api/v1/vms/{name}/{'start' if after == 'running' else verb}", options))
        assert ended["state"] == "succeeded", ended["error"]
        return ended

    fleet.stack.wait_for(again, f"{verb} asked again")
    assert domain_state(host, name) == {"running": "running"}.get(after, "shut off")
    fleet.stack.wait_for(lambda: _is(fleet, name, after), f"the manager's view of {name}")


def _is(fleet: Fleet, name: str, state: str) -> None:
    found = fleet.vm(name)
    assert (found["state"], found["drift"], found["conflict"]) == (state, [], None)


@pytest.mark.parametrize("delay", [0.0, 0.4, 0.8])
def test_an_agent_killed_during_an_apply(fleet: Fleet, delay: float) -> None:
    host = fleet.hosts[0]
    document = {"vms": [vm(f"half{number}", host) for number in range(4)]}
    job = fleet.client.post("/api/v1/apply", document)
    time.sleep(delay)
    kill_agent(fleet, host)
    told = fleet.ended(job)
    assert told["state"] == "succeeded" or told["error"]["code"] in ("interrupted", "unreachable"), told
    if told["state"] != "succeeded":
        relaunched = fleet.ended(fleet.client.post(f"/api/v1/jobs/{job['id']}/relaunch", {}))
        assert relaunched["state"] == "succeeded", relaunched["error"]
    assert sorted(host.run("virsh", "list", "--name").split()) == [f"half{number}" for number in range(4)]
    assert fleet.apply(document)["changed"] is False


@pytest.mark.parametrize("way", ["restart", "kill", "stop"])
def test_libvirtd_is_restarted_under_the_agent(fleet: Fleet, way: str) -> None:
    """The VMs run on, the agent stays, what happened meanwhile is told, and work goes on without anybody's help."""
    host = fleet.hosts[0]
    assert fleet.apply({"vms": [vm("stays", host), vm("ends", host)]})["state"] == "succeeded"
    qemu = host.run("pgrep", "-f", "guest=stays")
    agent = host.run("systemctl", "show", "-p", "MainPID", "domus-agent")
    ends = host.run("pgrep", "-f", "guest=ends").split()[0]
    if way == "restart":
        host.run("systemctl", "restart", "libvirtd")
    elif way == "kill":
        host.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "libvirtd")
    else:
        host.run("systemctl", "stop", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tls.socket", "libvirtd.service")
        fleet.stack.wait_for(lambda: fleet.client.get(f"/api/v1/servers/{host.name}")["problems"], "the server's problem")
    host.run("kill", "-9", ends)
    if way == "stop":
        host.run("systemctl", "start", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tls.socket", "libvirtd.service")
    fleet.stack.wait_for(lambda: fleet.vm("ends")["state"] == "stopped" or False, "what happened meanwhile")
    fleet.stack.wait_for(lambda: not fleet.client.get(f"/api/v1/servers/{host.name}")["problems"] or False, "no problem any more")
    assert host.run("pgrep", "-f", "guest=stays") == qemu
    assert host.run("systemctl", "show", "-p", "MainPID", "domus-agent") == agent
    assert fleet.apply({"vms": [vm("stays", host), vm("ends", host)]})["state"] == "succeeded"
    assert host.run("pgrep", "-f", "guest=stays") == qemu


def test_an_agent_of_the_version_before_works_and_is_upgraded_under_running_vms(fleet: Fleet) -> None:
    host = fleet.hosts[1]
    fleet.install(host, old=True)
    fleet.stack.wait_for(lambda: fleet.client.get(f"/api/v1/servers/{host.name}")["behind"], "the manager seeing that it is older")
    assert fleet.apply({"vms": [vm("across", host)]})["state"] == "succeeded"
    assert fleet.ended(fleet.client.post("/api/v1/vms/across/restart", FORCED))["state"] == "succeeded"
    qemu = host.run("pgrep", "-f", "guest=across")
    fleet.install(host)
    fleet.stack.wait_for(lambda: fleet.client.get(f"/api/v1/servers/{host.name}")["version"] == VERSION or False, "the upgraded agent")
    assert fleet.apply({"vms": [vm("across", host)]})["changed"] is False
    assert host.run("pgrep", "-f", "guest=across") == qemu
