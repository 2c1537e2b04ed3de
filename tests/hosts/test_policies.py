"""Policies at work on real hosts: VMs are spread by live migration, servers are switched off in order, not cut, and woken when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.hosts.agents import COMMAND
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PORT, PowerService
from tests.hosts.lab.wake_on_lan import WakeOnLan
from tests.hosts.migration_site import POOL as SHARED
from tests.hosts.migration_site import MigrationSite

MIB = 1 << 20
# Servers promise so much memory to guests of 208 MiB each, so that a few of them fill one.
ROOM, FILL = 1500, 16
NAMES = [f"guest{number}" for number in range(4)]


class PolicySite:
    """Three servers with a shared repository and guests on the first of them; `pool` applies the pool's document."""

    def __init__(self, lab: Lab, hosts: list[Host]) -> None:
        self.lab, self.hosts = lab, hosts
        self.site = MigrationSite(lab, hosts, policy_start_seconds=1, disconnected_seconds=10)
        for host in hosts:
            prepare_pool(host)
        self.fleet, self.client = self.site.fleet, self.site.fleet.client
        self.promise(ROOM)
        for name in NAMES:
            self.site.make(name, fill=FILL)

    def promise(self, mib: int, *names: str) -> None:
        """Have servers (all, if none is named) promise so much memory."""
        told = [one for one in self.fleet.servers() if (not names and one["state"] == "running") or one["name"] in names]
        servers = [{"name": one["name"], "memory_reserve": one["facts"]["memory"] - mib * MIB} for one in told]
        job = self.fleet.apply({"site": "default", "servers": servers})
        assert job["state"] == "succeeded", job["error"]

    def pool(self, name: str, policy: dict[str, Any], **more: Any) -> None:
        """Apply the pool's document with this policy."""
        pool = {"name": name, "servers": [host.name for host in self.hosts], "policy": policy, **more}
        job = self.fleet.apply({"site": "default", "server_pools": [pool]})
        assert job["state"] == "succeeded", job["error"]

    def balances(self) -> list[dict[str, Any]]:
        """The jobs of policies, the newest first."""
        return list(self.client.get("/api/v1/jobs", kind="balance")["items"])

    def where(self) -> dict[str, list[str]]:
        """On which hosts each guest runs, as libvirt there knows it."""
        return {name: [host.name for host in self.hosts if host.is_running and self.site.state(host, name) == "running"] for name in NAMES}

    def counts(self) -> dict[str, int]:
        """How many guests run on each host; each runs once."""
        where = self.where()
        assert all(len(places) == 1 for places in where.values()), where
        return {host.name: sum(places == [host.name] for places in where.values()) for host in self.hosts}

    def wait(self, holds: Any, what: str, seconds: float = 180) -> Any:
        """What `holds` gives once it is true."""

        def look() -> Any:
            found = holds()
            assert found
            return found

        return self.fleet.stack.wait_for(look, what, seconds)

    def state(self, host: Host) -> str:
        """The server's state, as the manager has it."""
        return next(str(one["state"]) for one in self.fleet.servers() if one["name"] == host.name)

    def alarms(self, since: int) -> list[str]:
        """Warnings and errors since an event."""
        items = self.client.get("/api/v1/events", since=since)["items"]
        return [f"{one['kind']} {one['server']}" for one in items if one["severity"] != "info"]

    def latest_event(self) -> int:
        """The number of the newest event."""
        return int(self.client.get("/api/v1/events", limit=1)["items"][0]["id"])

    def close(self) -> None:
        """End the manager."""
        self.site.close()


def prepare_pool(host: Host) -> None:
    """What the role `server_pool` does so that a server can be a member: disk locks on the pool file system."""
    host.run("mkdir", "-p", f"{SHARED}/lockspace")
    host.write("/etc/libvirt/qemu-lockd.conf", f'auto_disk_leases = 1\nfile_lockspace_dir = "{SHARED}/lockspace"\n')
    host.shell("grep -q ^lock_manager /etc/libvirt/qemu.conf || echo 'lock_manager = \"lockd\"' >>/etc/libvirt/qemu.conf")
    host.run("systemctl", "enable", "--now", "--quiet", "virtlockd.socket")
    host.run("systemctl", "restart", "libvirtd.service")
    host.write("/usr/local/sbin/domus-agent", COMMAND, mode="755")


@pytest.fixture(scope="module")
def power(lab: Lab) -> Iterator[PowerService]:
    with PowerService(lab) as made:
        yield made


@pytest.fixture(scope="module")
def site(lab: Lab, module_hosts: Hosts, power: PowerService) -> Iterator[PolicySite]:
    with closing(PolicySite(lab, module_hosts(3))) as made:
        yield made


def test_a_policy_spreads_the_guests_by_live_migration(site: PolicySite) -> None:
    assert site.counts() == {site.hosts[0].name: 4, site.hosts[1].name: 0, site.hosts[2].name: 0}
    site.pool("default", {"mode": "drs", "period": 1, "tolerance": 1, "most_moves": 2}, clustered=False)
    site.wait(lambda: sorted(site.counts().values()) == [1, 1, 2], "that the guests are spread")
    site.wait(lambda: all(one["state"] == "succeeded" for one in site.balances()), "the end of the jobs", 60)
    assert site.balances(), "there was no job"
    moves = [one for job in site.balances() for one in site.client.get(f"/api/v1/jobs/{job['id']}")["result"]["objects"]]
    assert len(moves) >= 2 and all(one["actions"] == ["migrate"] and "is used" in one["note"] for one in moves)
    for name, (place,) in site.where().items():
        site.site.goes_on(next(host for host in site.hosts if host.name == place), name)
    site.pool("default", {"mode": "off"}, clustered=False)


def test_a_server_is_switched_off_by_a_person_and_woken_by_its_network_card(site: PolicySite) -> None:
    host, before = site.hosts[2], site.latest_event()
    if not site.counts()[host.name]:
        assert site.fleet.ended(site.fleet.migrate(NAMES[0], host))["state"] == "succeeded"
    with pytest.raises(Exception, match="VMs run on it"):
        site.client.post(f"/api/v1/servers/{host.name}/power-off")
    assert site.fleet.ended(site.client.post(f"/api/v1/servers/{host.name}/evacuate"))["state"] == "succeeded"
    job = site.fleet.ended(site.client.post(f"/api/v1/servers/{host.name}/power-off", reason="holidays"), 120)
    assert job["state"] == "succeeded", job["error"]
    site.wait(lambda: not host.is_running, "that the host is off", 60)
    assert site.state(host) == "off" and site.alarms(before) == []
    with WakeOnLan(site.lab) as card:
        job = site.fleet.ended(site.client.post(f"/api/v1/servers/{host.name}/power-on"), 240)
        assert job["state"] == "succeeded", job["error"]
        assert card.woken == [host.name]
    assert site.state(host) == "running" and site.alarms(before) == []
    assert site.counts()[host.name] == 0


def clustered(site: PolicySite, power: PowerService) -> dict[str, Any]:
    """What a clustered pool needs on these hosts, and its document."""
    for host in site.hosts:
        power.install(host)
    network = site.lab.network
    names = [{"name": host.name, "plug": host.name} for host in site.hosts]
    options = [{"name": "ip", "value": network.gateway}, {"name": "ipport", "value": str(PORT)}, {"name": "password", "secret": PASSWORD}]
    device = {"name": "power", "agent": "fence_domus_test", "servers": names, "options": options}
    return {"heartbeat": [{"name": "lab", "subnet": network.subnet}], "file_system": "pool", "fencing": [device]}


def test_a_policy_switches_a_member_off_without_its_pool_cutting_it_and_wakes_it_when_it_is_needed(site: PolicySite, power: PowerService) -> None:
    site.pool("default", {}, state="absent")
    more = clustered(site, power)
    site.pool("rack1", {"mode": "off"}, **more)
    site.wait(lambda: site.client.get("/api/v1/server-pools/rack1")["quorate"], "that the pool has quorum")
    assert site.client.post("/api/v1/server-pools/rack1/fence-test")["passed"]
    site.wait(lambda: {one["pool"] for one in site.fleet.servers()} == {"rack1"}, "the trust of the pool")
    power.asked.clear()
    before = site.latest_event()
    saving = {"mode": "dpm", "period": 1, "memory_threshold": 90, "cpu_threshold": 100, "network_threshold": 100}
    site.pool("rack1", saving, **more)
    asleep = site.wait(lambda: next((host for host in site.hosts if site.state(host) == "off"), None), "that a server sleeps", 240)
    site.wait(lambda: not asleep.is_running, "that the host is off", 60)
    assert site.counts()[asleep.name] == 0 and power.asked == [], "it was emptied, and nobody cut it"
    pool = site.client.get("/api/v1/server-pools/rack1")
    assert pool["state"] == "healthy" and pool["quorate"], pool["problems"]
    assert {one["server"]: (one["state"], one["off"]) for one in pool["members"]}[asleep.name] == ("offline", True)
    assert "2 servers are to stay on" in site.wait(lambda: site.client.get("/api/v1/server-pools/rack1")["policy"]["found"]["waiting"], "the next look", 120)
    assert site.alarms(before) == []
    fullest = max((host for host in site.hosts if host is not asleep), key=lambda host: site.counts()[host.name])
    site.promise(220 * site.counts()[fullest.name], fullest.name)
    others = [host.name for host in site.hosts if host not in (asleep, fullest)]
    site.promise(220 * max(1, site.counts()[others[0]]), *others)
    site.wait(lambda: site.state(asleep) == "running", "that it was woken", 240)
    assert ("on", asleep.name) in power.asked and all(action == "on" for action, dummy in power.asked)
    site.wait(lambda: site.client.get("/api/v1/server-pools/rack1")["state"] == "healthy", "that it is a member again")
    assert all(len(places) == 1 for places in site.where().values())
