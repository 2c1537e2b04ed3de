"""Whole servers that freeze, are cut off, lose power or are no longer to be trusted: what the manager says of them, and that it is over when it is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.support.stack_faults import descendants_of

DISCONNECTED, OFFLINE = 5, 12
PATIENCE = 90.0
NETWORK = {"name": "lan", "mode": "isolated"}
Act = Callable[[Host], None]


@pytest.fixture(scope="module")
def fleet(lab: Lab, module_hosts: Hosts) -> Iterator[Fleet]:
    """Two servers with a network that is everywhere."""
    made = Fleet(lab, module_hosts(2), disconnected_seconds=DISCONNECTED, offline_seconds=OFFLINE)
    try:
        job = made.apply({"networks": [NETWORK]})
        assert job["state"] == "succeeded", job
        yield made
    finally:
        made.close()


def state(fleet: Fleet, host: Host) -> str:
    return str(fleet.client.get(f"/api/v1/servers/{host.name}")["state"])


def becomes(fleet: Fleet, host: Host, wanted: str) -> None:
    fleet.stack.wait_for(lambda: state(fleet, host) == wanted, f"{host.name} to be {wanted}", PATIENCE)


def told(fleet: Fleet, since: int) -> list[tuple[str, str, str]]:
    """What was told of the servers' states since an event."""
    kinds = ("server.running", "server.disconnected", "server.offline", "server.unknown")
    page = fleet.client.get("/api/v1/events", since=since, limit=1000)["items"]
    return [(one["server"], one["kind"], one["severity"]) for one in page if one["kind"] in kinds]


def latest(fleet: Fleet) -> int:
    found = fleet.client.get("/api/v1/events", limit=1)["items"]
    return int(found[0]["id"]) if found else 0


def place(fleet: Fleet, host: Host) -> dict[str, Any]:
    """The network on one server, out of the view of the site."""
    (found,) = [one for one in fleet.client.get("/api/v1/site/networks/lan")["servers"] if one["server"] == host.name]
    return dict(found)


def lose_power(host: Host) -> None:
    host.power_off()


FAULTS: dict[str, tuple[Act, Act]] = {
    "frozen": (lambda host: host.freeze(), lambda host: host.thaw()),
    "cut off": (lambda host: host.cut(), lambda host: host.restore()),
    "deaf": (lambda host: host.cut("to"), lambda host: host.restore()),
    "without power": (lose_power, lambda host: host.power_on()),
    "without its agent": (lambda host: host.run("systemctl", "stop", "domus-agent"), lambda host: host.run("systemctl", "start", "domus-agent")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_falls_silent_is_told_and_comes_back(fleet: Fleet, fault: str) -> None:
    one, other = fleet.hosts
    harm, mend = FAULTS[fault]
    for host in fleet.hosts:
        becomes(fleet, host, "running")
    since = latest(fleet)
    harm(one)
    try:
        becomes(fleet, one, "disconnected")
        assert place(fleet, one)["stale"] is True and place(fleet, one)["state"] == "active"
        becomes(fleet, one, "offline")
        fleet.stack.wait_for(lambda: fleet.client.get(f"/api/v1/servers/{one.name}")["problems"] != [], "why it is silent", PATIENCE)
        assert place(fleet, other)["stale"] is False
    finally:
        mend(one)
    becomes(fleet, one, "running")
    expected = [("server.disconnected", "warning"), ("server.offline", "error"), ("server.running", "info")]
    assert told(fleet, since) == [(one.name, kind, severity) for kind, severity in expected]
    found = fleet.client.get(f"/api/v1/servers/{one.name}")
    assert found["problems"] == [] and place(fleet, one)["stale"] is False


def test_a_manager_that_was_stopped_condemns_nobody(fleet: Fleet) -> None:
    for host in fleet.hosts:
        becomes(fleet, host, "running")
    since = latest(fleet)
    processes = [*descendants_of(fleet.stack, "manager"), fleet.stack.processes["manager"].pid]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(OFFLINE + 3)
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    time.sleep(DISCONNECTED + 3)
    assert told(fleet, since) == []
    fleet.stack.end("manager", signal.SIGKILL)
    time.sleep(OFFLINE + 3)
    fleet.stack.start("manager")
    fleet.stack.wait_until_up()
    time.sleep(DISCONNECTED + 3)
    assert told(fleet, since) == []
    assert [state(fleet, host) for host in fleet.hosts] == ["running", "running"]


def test_what_is_offline_while_the_manager_is_restarted_stays_offline_until_it_is_heard(fleet: Fleet) -> None:
    one = fleet.hosts[0]
    since = latest(fleet)
    one.freeze()
    try:
        becomes(fleet, one, "offline")
        fleet.stack.end("manager")
        fleet.stack.start("manager")
        fleet.stack.wait_until_up()
        time.sleep(DISCONNECTED + 2)
        assert state(fleet, one) == "offline"
    finally:
        one.thaw()
    becomes(fleet, one, "running")
    assert [kind for dummy, kind, dummy in told(fleet, since)] == ["server.disconnected", "server.offline", "server.running"]


def test_a_server_in_maintenance_keeps_the_mode_over_a_loss_of_power(fleet: Fleet) -> None:
    one = fleet.hosts[0]
    fleet.client.put(f"/api/v1/servers/{one.name}/maintenance", {"enabled": True, "reason": "new memory"})
    assert state(fleet, one) == "maintenance"
    one.power_off()
    becomes(fleet, one, "offline")
    assert fleet.client.get(f"/api/v1/servers/{one.name}")["maintenance"] is True
    one.power_on()
    becomes(fleet, one, "maintenance")
    fleet.client.put(f"/api/v1/servers/{one.name}/maintenance", {"enabled": False})
    assert state(fleet, one) == "running"


def test_the_facts_and_figures_of_a_server_are_its_own(fleet: Fleet) -> None:
    one = fleet.hosts[0]
    facts = fleet.client.get(f"/api/v1/servers/{one.name}")["facts"]
    assert facts["kernel"] == one.run("uname", "-r").strip() and facts["distribution"].startswith("Debian")
    card = next(card for card in facts["interfaces"] if card["name"] == "eth0")
    assert card["link"] is True and card["mac"] in one.run("cat", "/sys/class/net/eth0/address")
    assert facts["uuid"] == one.traits.uuid and "<model" in facts["cpu"]["xml"] and facts["numa_cells"][0]["memory"] > 0

    def measured() -> dict[str, Any]:
        items = fleet.client.get(f"/api/v1/servers/{one.name}/statistics")["items"]
        assert items and "eth0" in items[-1]["net"] and items[-1]["memory"] == facts["memory"] // 1024 * 1024 or items[-1]["memory"] > 0
        return dict(items[-1])

    assert fleet.stack.wait_for(measured, "its statistics", PATIENCE)["load"]


def test_two_servers_of_one_host_uuid_are_told_and_shown(fleet: Fleet) -> None:
    one, other = fleet.hosts

    def give(uuid: str) -> None:
        other.shell(f"sed -i 's/^host_uuid.*/host_uuid = \"{uuid}\"/' /etc/libvirt/libvirtd.conf; systemctl restart libvirtd; systemctl restart domus-agent")

    since = latest(fleet)
    give(one.traits.uuid)
    try:
        fleet.stack.wait_for(lambda: fleet.client.get(f"/api/v1/servers/{one.name}")["problems"] != [], "the problem", PATIENCE)
        for host, twin in ((one, other), (other, one)):
            (problem,) = fleet.client.get(f"/api/v1/servers/{host.name}")["problems"]
            assert f"same host UUID as {twin.name}" in problem and "libvirtd.conf" in problem
        events = [one for one in fleet.client.get("/api/v1/events", since=since)["items"] if one["kind"] == "server.same_host_uuid"]
        assert len(events) == 1 and events[0]["severity"] == "error"
    finally:
        give(other.traits.uuid)
    fleet.stack.wait_for(lambda: fleet.client.get(f"/api/v1/servers/{one.name}")["problems"] == [], "the end of the problem", PATIENCE)


def test_a_server_that_has_lost_its_certificate_is_unknown_and_says_why(fleet: Fleet) -> None:
    one = fleet.hosts[0]
    since = latest(fleet)
    one.shell("systemctl stop domus-agent; mv /var/lib/domus/agent /var/lib/domus/agent.kept; systemctl start domus-agent")
    try:
        becomes(fleet, one, "unknown")
        (problem,) = fleet.client.get(f"/api/v1/servers/{one.name}")["problems"]
        assert "certificate" in problem or "fingerprint" in problem, problem
    finally:
        one.shell("systemctl stop domus-agent; rm -rf /var/lib/domus/agent; mv /var/lib/domus/agent.kept /var/lib/domus/agent; systemctl start domus-agent")
    becomes(fleet, one, "running")
    assert ("server.unknown", "error") in [(kind, severity) for dummy, kind, severity in told(fleet, since)]
