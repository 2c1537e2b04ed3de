"""Nobody can cut power in this pool: the watchdog (softdog) of a machine resets it when it has lost the others, and its VMs start elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.machine_pool import PATIENCE, MachinePool, wait_until_resets

# Machines without hardware virtualization, on processors that others want too: Corosync and SBD get more time than in a real pool.
TIMEOUT, TOKEN = 15, 10000


@pytest.fixture(scope="module")
def pool(lab: Lab, module_hosts: Hosts) -> Iterator[MachinePool]:
    with PowerService(lab) as power:
        hosts = module_hosts(3, kind="machine", memory=768, processors=1)
        for host in hosts:
            host.shell("echo softdog >/etc/modules-load.d/domus-watchdog.conf; modprobe softdog; test -c /dev/watchdog")
        site = MachinePool(lab, hosts, power, devices=[], watchdog={"timeout": TIMEOUT}, token=TOKEN)
        try:
            site.add_vm("vm0")
            site.apply()
            site.wait_for_vms(PATIENCE)
            yield site
        finally:
            site.close()


def test_each_server_is_watched_and_nobody_can_cut(pool: MachinePool) -> None:
    for host in pool.hosts:
        assert host.run("systemctl", "is-active", "sbd.service").strip() == "active"
        assert host.run("systemctl", "is-enabled", "sbd.service").strip() == "enabled"
    host = pool.hosts[0]
    assert "stonith-watchdog-timeout" in host.run("cibadmin", "--query", "--xpath", f"//nvpair[@value='{2 * TIMEOUT}s']")
    assert "stonith:" not in host.run("crm_resource", "--list")
    assert pool.apply(check=True)["changes"] == []


def test_who_is_cut_off_resets_itself_and_its_vm_starts_elsewhere(pool: MachinePool) -> None:
    victim = pool.place("vm0")
    others = [host for host in pool.hosts if host is not victim]
    boots = {host.name: host.boot_id() for host in pool.hosts}
    pool.harm(victim)
    victim.cut("both")
    taken = wait_until_resets(victim, boots[victim.name], 2 * PATIENCE)
    pool.wait(lambda: pool.has_restarted("vm0"), "its VM running elsewhere", PATIENCE)
    print(f"{victim.name} had booted again {taken:.0f} s after its network was cut; vm0 runs on {pool.place('vm0').name}")
    assert {host.name: host.boot_id() for host in others} == {host.name: boots[host.name] for host in others}, "a healthy server was reset"
    assert pool.power.asked == [] and pool.watcher.violations == []
    victim.restore()
    pool.wait_for_members(PATIENCE)
    pool.watcher.victims.clear()


def test_a_server_that_is_stopped_in_good_order_is_not_reset(pool: MachinePool) -> None:
    host = next(host for host in pool.hosts if "vm0" not in pool.watcher.vms_on(host))
    before = host.boot_id()
    host.run("systemctl", "stop", "pacemaker", "corosync", timeout=PATIENCE)
    pool.wait(lambda: host.attempt("systemctl", "is-active", "sbd.service").output.strip() != "active", "SBD being off")
    host.run("sleep", str(2 * TIMEOUT), timeout=PATIENCE)
    assert host.boot_id() == before
    host.run("systemctl", "start", "corosync", "pacemaker", timeout=PATIENCE)
    pool.wait_for_members(PATIENCE)
