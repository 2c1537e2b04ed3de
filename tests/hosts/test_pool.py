"""A clustered pool of three servers is harmed in every way, one at a time, while the watcher looks at every host: see watcher.py for what it forbids."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator

import pytest
from domus_core.cluster.cib import VM

from tests.hosts import tiny_guest
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import FOLDER, PoolSite

# A fence agent has 60 s by Pacemaker's own measure; a BMC takes 3 to 10.
SLOW_SECONDS = 30.0
HEAVY_SECONDS = 60.0
LIBVIRT = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tls.socket", "libvirtd.service")


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
    pool.harm(host)
    return host


def vms_on(pool: PoolSite, host: Host) -> set[str]:
    return {vm for vm, place in pool.watcher.running().items() if place == host.name}


def are_started_again(pool: PoolSite, vms: set[str]) -> None:
    """Each of the victim's VMs comes to run again: elsewhere, or there when it is back first."""
    pool.wait(lambda: all(map(pool.has_restarted, vms)), "the VMs running again", 120)


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
    are_started_again(pool, lost)
    pool.wait(lambda: ("reboot", host.name) in pool.power.asked, "the host being fenced")


@pytest.mark.parametrize("coordinator", [False, True], ids=["member", "coordinator"])
def test_the_network_of_a_server_is_cut(pool: PoolSite, coordinator: bool) -> None:
    host = victim_of(pool, coordinator)
    lost = vms_on(pool, host)
    host.cut("both")
    are_started_again(pool, lost)
    assert ("reboot", host.name) in pool.power.asked


@pytest.mark.parametrize("direction", ["from", "to"])
def test_the_network_of_a_server_is_cut_one_way(pool: PoolSite, direction: str) -> None:
    host = victim_of(pool)
    lost = vms_on(pool, host)
    host.cut(direction)  # type: ignore[arg-type]
    are_started_again(pool, lost)
    assert {plug for _, plug in pool.power.asked} == {host.name}, "a healthy server was cut"


def test_a_server_freezes_and_is_fenced(pool: PoolSite) -> None:
    host = victim_of(pool)
    lost = vms_on(pool, host)
    host.freeze()
    are_started_again(pool, lost)
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
    are_started_again(pool, lost)


def test_the_fence_device_is_slow(pool: PoolSite) -> None:
    """It takes far longer than a BMC does, and less than its time-out: nothing starts before it has answered, and it is asked once."""
    host = victim_of(pool)
    lost = vms_on(pool, host)
    usual, pool.power.seconds = pool.power.seconds, SLOW_SECONDS
    patient, pool.watcher.silence = pool.watcher.silence, pool.watcher.silence + SLOW_SECONDS
    pool.power.done.clear()
    try:
        host.power_off()
        pool.wait(lambda: pool.power.asked, "the host being fenced")
        pool.wait(lambda: any(host.name in alert for alert in pool.alerts()), "somebody saying so", SLOW_SECONDS / 2)
        while not pool.power.done:
            running = pool.watcher.running()
            assert pool.power.done or not lost & running.keys(), f"started before the device has answered: {running}"
            time.sleep(0.2)
        are_started_again(pool, lost)
    finally:
        pool.power.seconds, pool.watcher.silence = usual, patient
    assert pool.power.asked == [("reboot", host.name)]


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


def unharmed(pool: PoolSite, seconds: float = 30) -> None:
    """For so long nothing moves, nothing ends, nobody is cut; that nothing restarts the watcher says."""
    before = pool.watcher.running()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert pool.watcher.running() == before
        time.sleep(0.5)
    assert pool.power.asked == []


def test_corosync_is_killed(pool: PoolSite) -> None:
    """To the others the server is lost: they cut it before they start its VMs."""
    host = victim_of(pool)
    lost = vms_on(pool, host)
    host.run("systemctl", "kill", "--signal=KILL", "corosync.service")
    are_started_again(pool, lost)
    assert {plug for _, plug in pool.power.asked} == {host.name}


@pytest.mark.parametrize("unit", ["pacemaker", "libvirtd", "virtlockd", "virtlogd"])
def test_a_daemon_is_killed_and_no_vm_notices(pool: PoolSite, unit: str) -> None:
    host = busy_host(pool)
    host.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", f"{unit}.service")
    unharmed(pool)
    pool.wait_for_members()


def busy_host(pool: PoolSite) -> Host:
    """A host that runs VMs and that nobody harms."""
    running = set(pool.watcher.running().values())
    return next(host for host in pool.hosts if host.name in running)


def test_libvirt_is_gone_for_long_and_no_vm_notices(pool: PoolSite) -> None:
    host = busy_host(pool)
    host.run("systemctl", "stop", *LIBVIRT)
    unharmed(pool)


def test_a_vm_that_is_started_by_hand_elsewhere_is_refused(pool: PoolSite) -> None:
    here = pool.place("vm0")
    other = next(host for host in pool.hosts if host is not here)
    other.write("/run/vm0.xml", pool.definition("vm0"))
    done = other.attempt("virsh", "create", "/run/vm0.xml")
    assert done.code != 0 and "lock" in done.errors, done
    pool.wait(lambda: len(pool.watcher.lives("vm0")) == 1, "the refused QEMU being gone")
    unharmed(pool, 5)


def test_a_lock_falls_late(pool: PoolSite) -> None:
    """The dead server's lock holds on, as on NFS: the start waits for it, does not fail, and no server is banned."""
    host = victim_of(pool)
    vm = next(iter(vms_on(pool, host)))
    lease = pool.lease(vm)
    pool.watcher.excused.add(vm)  # QEMU is begun before its lock is asked for, and ended when that is refused
    host.power_off()
    with open(lease, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        others = [one for one in pool.hosts if one is not host]
        pool.wait(lambda: any(pool.is_starting(one) for one in others), "its start", 60)
        time.sleep(10)
        assert any(pool.is_starting(one) for one in others), "its start has not waited"
    are_started_again(pool, {vm})
    assert [alert for alert in pool.status().alerts if vm in alert] == []


def test_a_server_is_evacuated_and_its_vms_move_live(pool: PoolSite) -> None:
    host = pool.place("guest")
    pool.evacuate(host)
    pool.wait(lambda: not vms_on(pool, host), "the host being empty")
    pool.wait_for_vms()
    places = pool.watcher.running()
    pool.evacuate()
    unharmed(pool, 10)
    assert pool.watcher.running() == places, "a VM went home by itself"
    pool.wait_for_counting("guest")


def test_a_migration_fails_and_the_vm_runs_on(pool: PoolSite) -> None:
    host = pool.place("vm0")
    before = vms_on(pool, host)
    others = [other for other in pool.hosts if other is not host]
    for other in others:
        other.run("systemctl", "stop", "libvirtd-tls.socket", "libvirtd.service")
        other.run("systemctl", "start", "libvirtd.socket", "libvirtd.service")
    pool.evacuate(host)
    pool.wait(lambda: any("vm0" in alert and "migrate" in alert for alert in pool.status().alerts), "the failed migration being told")
    unharmed(pool, 20)
    assert vms_on(pool, host) == before
    for other in others:
        other.run("systemctl", "stop", "libvirtd.service")
        other.run("systemctl", "start", "libvirtd-tls.socket", "libvirtd.service")
    pool.evacuate()
    pool.agent(pool.living(), "clear")
    pool.wait(lambda: not pool.status().alerts, "nothing to tell any more")
    unharmed(pool, 15)


def begin_slow_migration(pool: PoolSite) -> tuple[Host, Host]:
    """The guest under way from one host to another, which it will be for long: its source and destination."""
    source = pool.place("guest")
    source.run("virsh", "migrate-setspeed", "guest", "1")
    pool.evacuate(source)
    pool.wait(lambda: len(pool.watcher.lives("guest")) == 2, "the migration's destination")
    return source, next(pool.host(life.host) for life in pool.watcher.lives("guest") if life.host != source.name)


def test_the_source_dies_while_a_vm_migrates(pool: PoolSite) -> None:
    source, _ = begin_slow_migration(pool)
    lost = {life.vm for life in pool.watcher.everything() if life.host == source.name}
    pool.harm(source)
    source.power_off()
    are_started_again(pool, lost)


def test_the_destination_dies_while_a_vm_migrates(pool: PoolSite) -> None:
    source, destination = begin_slow_migration(pool)
    pool.harm(destination)
    destination.power_off()
    pool.wait(lambda: [life.host for life in pool.watcher.lives("guest")] == [source.name], "the guest being at its source alone")
    pool.wait_for_counting("guest")
    pool.wait(lambda: ("reboot", destination.name) in pool.power.asked, "the destination being fenced")
    source.run("virsh", "migrate-setspeed", "guest", "10000")
    pool.evacuate()


def test_the_pool_file_system_is_gone_on_one_host(pool: PoolSite) -> None:
    host = busy_host(pool)
    pool.hide_file_system(host)
    try:
        unharmed(pool)
    finally:
        pool.show_file_system(host)


def test_the_pool_file_system_is_gone_on_all_hosts(pool: PoolSite) -> None:
    """No mass reset; a VM that crashes meanwhile can not be started, which is told, and starts when it is back."""
    for host in pool.hosts:
        pool.hide_file_system(host)
    try:
        unharmed(pool)
        crash(pool, "vm1")
        pool.wait(lambda: any("vm1" in alert for alert in pool.status().alerts), "an alert that names it", 60)
    finally:
        for host in pool.hosts:
            pool.show_file_system(host)
    pool.living().run("crm_resource", "--cleanup", "--resource", "domus-vm-vm1")
    pool.wait_for_vms()
    assert pool.power.asked == []


def test_heavy_writing_to_the_repository_fences_nobody(pool: PoolSite) -> None:
    """All hosts write to the pool file system as fast as they can, and have it synced; HA looks at Corosync and processes, not at storage."""
    writers = [(host, f"{FOLDER}/heavy-{host.name}-{number}") for host in pool.hosts for number in range(2)]
    command = "while dd if=/dev/zero of={} bs=1M count=64 conv=notrunc,fsync status=none; do :; done"
    for host, file in writers:
        host.run("systemd-run", "--quiet", f"--unit={os.path.basename(file)}", "sh", "-c", command.format(file))
    try:
        unharmed(pool, HEAVY_SECONDS)
        assert all(
            host.attempt("systemctl", "is-active", os.path.basename(file)).code == 0 and host.attempt("test", "-s", file).code == 0 for host, file in writers
        )
        assert pool.status().alerts == ()
    finally:
        for host, file in writers:
            host.attempt("systemctl", "stop", os.path.basename(file))
            host.attempt("rm", "-f", file)


def crash(pool: PoolSite, vm: str) -> None:
    """Its QEMU ends, as by a bug."""
    pool.watcher.excused.add(vm)
    (life,) = pool.watcher.lives(vm)
    os.kill(life.pid, signal.SIGKILL)


def test_a_vm_that_crashes_is_started_again(pool: PoolSite) -> None:
    (before,) = pool.watcher.lives("vm2")
    crash(pool, "vm2")
    pool.wait(lambda: [life for life in pool.watcher.lives("vm2") if life != before], "its new QEMU")
    pool.wait_for_vms()
    assert pool.power.asked == []


def test_a_member_leaves_and_joins_again_and_no_vm_notices(pool: PoolSite) -> None:
    host = pool.place("vm0")
    pool.add_vm("plain", ha=False)
    host.write("/run/plain.xml", pool.definition("plain"))
    host.run("virsh", "create", "/run/plain.xml")
    refused = host.attempt("domus-agent", "pool", "leave")
    assert refused.code == 1 and "domus-vm-vm0" in refused.errors
    pool.evacuate(host)
    pool.wait(lambda: vms_on(pool, host) == {"plain"}, "its HA VMs moving away")
    pool.wait_for_vms()
    pool.wait(lambda: all(host.name not in servers for vm, servers in pool.status().vms.items() if vm.startswith(VM)), "Pacemaker seeing that they have")
    pool.agent(host, "leave")
    place = pool.hosts.index(host)
    pool.hosts.remove(host)
    try:
        assert pool.form()["gone"] == [host.name]
        assert set(pool.status().members) == {other.name for other in pool.hosts}
        assert pool.apply(check=True)["changes"] == []
        unharmed(pool, 10)
    finally:
        pool.hosts.insert(place, host)
        pool.evacuated.clear()
        pool.form()
    pool.wait_for_members()
    unharmed(pool, 30)
    pool.watcher.excused.add("plain")
    host.run("virsh", "destroy", "plain")


def test_a_member_tells_how_the_pool_is_and_tests_its_fence_device(pool: PoolSite) -> None:
    host = pool.living()
    others = {other.name for other in pool.hosts if other is not host}
    told = pool.agent(host, "status")
    assert told["quorate"] and told["problems"] == [] and set(told["members"].values()) == {"online"}
    assert {link["member"] for link in told["links"] if link["connected"]} == others
    assert {test["server"]: test["state"] for test in pool.agent(host, "fence-test")["tests"]} == dict.fromkeys(others, "on")
    pool.power.is_broken = True
    failed = host.attempt("domus-agent", "pool", "fence-test")
    pool.power.is_broken = False
    assert failed.code == 1 and "the device is broken" in failed.output
    assert pool.power.asked == [], "asking cuts nobody"


def test_a_member_stops_and_starts_a_vm_without_the_manager(pool: PoolSite) -> None:
    pool.watcher.excused.add("vm0")
    pool.watcher.expected = pool.watcher.expected - {"vm0"}
    host = pool.living()
    assert pool.agent(host, "stop-vm", "vm0")["changes"] == ["vm vm0 stopped"]
    assert "vm0" not in pool.watcher.running()
    assert pool.agent(host, "start-vm", "vm0")["changes"] == ["vm vm0 started"]
    pool.wait_for_vms()
    assert pool.agent(host, "start-vm", "vm0")["changes"] == []
