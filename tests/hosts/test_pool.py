"""A clustered pool of three servers is harmed in every way, one at a time, while the watcher looks at every host: see watcher.py for what it forbids."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.hosts import tiny_guest
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import PoolSite

PLAIN = "plain"  # a VM without HA


@pytest.fixture(scope="module")
def made(lab: Lab, module_hosts: Hosts) -> Iterator[PoolSite]:
    with PowerService(lab) as power:
        site = PoolSite(lab, module_hosts(3, disk="3G"), power)
        try:
            tiny_guest.build(site.shared)
            site.add_vm("guest", guest=True)
            for number in range(3):
                site.add_vm(f"vm{number}")
            site.apply()
            site.wait_for_vms()
            yield site
        finally:
            site.close()


@pytest.fixture
def pool(made: PoolSite) -> Iterator[PoolSite]:
    """The pool, whole, under the watcher's eye until it is whole again."""
    made.heal()
    made.power.asked.clear()
    made.watcher.violations.clear()
    samples = made.watcher.samples
    assert {disk for disks in made.watcher.writers.values() for disk in disks} >= {f"{vm['name']}.img" for vm in made.vms}, "the watcher is blind"
    yield made
    made.heal()
    assert made.watcher.violations == []
    assert made.watcher.samples > samples


def victim_of(pool: PoolSite, coordinator: bool = False) -> Host:
    """A host that runs HA VMs, which the test will harm; the coordinator, or another one."""
    chosen = pool.status().coordinator
    running = set(pool.watcher.running().values())
    host = next(host for host in pool.hosts if host.name in running and (host.name == chosen) == coordinator)
    pool.watcher.victims.add(host.name)
    return host


def vms_on(pool: PoolSite, host: Host) -> set[str]:
    return {vm for vm, place in pool.watcher.running().items() if place == host.name}


def others_run_on(pool: PoolSite, host: Host, vms: set[str]) -> None:
    """Each of the victim's VMs comes to run on another host."""
    pool.wait(lambda: all(pool.watcher.running().get(vm, host.name) not in (host.name, "") for vm in vms), "the VMs running elsewhere", 120)


def test_applying_again_changes_nothing(pool: PoolSite) -> None:
    before = pool.watcher.running()
    assert pool.apply(check=True)["changes"] == []
    for host in pool.hosts:
        assert pool.agent(host, "write", "--check", "-f", "-", text=pool.document())["changes"] == []
        assert pool.agent(host, "start")["changes"] == []
    assert pool.apply() == {"changes": [], "foreign": pool.apply()["foreign"], "gone": [], "dropped": [], "restarted": []}
    assert pool.watcher.running() == before


@pytest.mark.parametrize("coordinator", [False, True], ids=["member", "coordinator"])
def test_a_server_loses_its_power(pool: PoolSite, coordinator: bool) -> None:
    host = victim_of(pool, coordinator)
    lost = vms_on(pool, host)
    host.power_off()
    others_run_on(pool, host, lost)
    pool.wait(lambda: ("reboot", host.name) in pool.power.asked, "the host being fenced")


@pytest.mark.parametrize("coordinator", [False, True], ids=["member", "coordinator"])
def test_the_network_of_a_server_is_cut(pool: PoolSite, coordinator: bool) -> None:
    host = victim_of(pool, coordinator)
    lost = vms_on(pool, host)
    host.cut("both")
    others_run_on(pool, host, lost)
    assert ("reboot", host.name) in pool.power.asked


@pytest.mark.parametrize("direction", ["from", "to"])
def test_the_network_of_a_server_is_cut_one_way(pool: PoolSite, direction: str) -> None:
    host = victim_of(pool)
    lost = vms_on(pool, host)
    host.cut(direction)  # type: ignore[arg-type]
    others_run_on(pool, host, lost)
    assert {plug for _, plug in pool.power.asked} == {host.name}, "a healthy server was cut"


def test_a_server_freezes_and_is_fenced(pool: PoolSite) -> None:
    host = victim_of(pool)
    lost = vms_on(pool, host)
    host.freeze()
    others_run_on(pool, host, lost)
    assert ("reboot", host.name) in pool.power.asked


def test_a_server_freezes_and_can_not_be_fenced(pool: PoolSite) -> None:
    """It thaws after every time-out is over, with its VMs: until then nothing was started on hope, and it was shown."""
    host = victim_of(pool)
    lost = vms_on(pool, host)
    pool.power.is_broken = True
    host.freeze()
    is_not_started_elsewhere(pool, host, lost)
    host.thaw()
    time.sleep(5)
    pool.power.is_broken = False
    pool.wait_for_members(180)
    pool.wait_for_vms()


def is_not_started_elsewhere(pool: PoolSite, host: Host, vms: set[str], seconds: float = 40) -> None:
    """For longer than any time-out the VMs are where they were, and an alert is up."""
    pool.wait(lambda: pool.status().alerts, "an alert", 60)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert all(pool.watcher.running().get(vm, host.name) == host.name for vm in vms), pool.watcher.running()
        time.sleep(0.5)
    assert pool.status().alerts


def test_the_fence_device_can_not_be_reached(pool: PoolSite) -> None:
    host = victim_of(pool)
    lost = vms_on(pool, host)
    pool.power.is_broken = True
    host.power_off()
    pool.wait(lambda: any(host.name in alert for alert in pool.status().alerts), "an alert that names the host", 60)
    is_not_started_elsewhere(pool, host, lost, 30)
    pool.power.is_broken = False  # somebody has repaired it
    others_run_on(pool, host, lost)


def test_the_fence_device_lies(pool: PoolSite) -> None:
    """It says that the server is off, which lives and has its disks open: the disks' locks keep the VMs from running twice."""
    host = victim_of(pool)
    lost = vms_on(pool, host)
    pool.power.lies = True
    host.cut("both")
    pool.wait(lambda: ("reboot", host.name) in pool.power.asked, "the host being fenced", 60)
    pool.wait(lambda: any("start" in alert for alert in pool.status().alerts), "starts that fail", 120)
    assert all(pool.watcher.running()[vm] == host.name for vm in lost)
    host.power_off()
