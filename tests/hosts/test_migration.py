"""Live migration between real hosts: libvirt, QEMU, agents, manager and certificates as they are in production."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.hosts import tiny_guest
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.migration_site import LOCAL, MigrationSite


@pytest.fixture(scope="module")
def site(lab: Lab, module_hosts: Hosts) -> Iterator[MigrationSite]:
    with closing(MigrationSite(lab, module_hosts(2))) as made:
        yield made


@pytest.fixture(autouse=True)
def no_guest_is_left(site: MigrationSite) -> Iterator[None]:
    """The guests of one test take no processor time from the next."""
    yield
    site.end_guests()


def test_a_vm_on_shared_storage_moves_while_it_runs_and_its_memory_is_encrypted(site: MigrationSite) -> None:
    before = site.make("shared1", fill=64)
    site.one.shell("tcpdump -i eth0 -s 0 -w /root/wire.pcap portrange 49152-49215 >/dev/null 2>&1 & sleep 1")
    job = site.fleet.ended(site.fleet.migrate("shared1", site.two))
    site.one.shell("pkill -INT tcpdump; sleep 1")
    assert job["state"] == "succeeded", job["error"]
    size = int(site.one.run("stat", "-c", "%s", "/root/wire.pcap"))
    assert size > 1 << 20, "nothing was caught on the wire"
    assert site.one.attempt("grep", "-c", tiny_guest.MARK, "/root/wire.pcap").output.strip() == "0"
    site.goes_on(site.two, "shared1")
    site.runs_once("shared1", site.two)
    vm = site.is_told("shared1", site.two)
    assert (vm["id"], vm["generation"], vm["request"]["state"]) == (before["id"], before["generation"], "effective")
    assert job["result"]["migration"]["downtime"] is not None
    back = site.fleet.ended(site.fleet.migrate("shared1", site.one, multifd=2))
    assert back["state"] == "succeeded", back["error"]
    site.runs_once("shared1", site.one)


def test_disks_of_the_sources_own_are_copied_along_with_notes_and_seed(site: MigrationSite) -> None:
    user_data = "#cloud-config\nhostname: copied1\n"
    site.make("copied1", "local", autostart=True, cloud_init={"user_data": user_data})
    refused = site.fleet.client.post("/api/v1/vms/copied1/migrate?check=true", {"server": site.two.name})
    assert not refused["possible"] and any("--copy-storage" in error["remedy"] for error in refused["errors"])
    job = site.fleet.ended(site.fleet.migrate("copied1", site.two, copy_storage=True))
    assert job["state"] == "succeeded", job["error"]
    site.goes_on(site.two, "copied1", "local")
    site.runs_once("copied1", site.two)
    site.is_told("copied1", site.two)
    assert site.one.run("ls", f"{LOCAL}/VirtualDisks", f"{LOCAL}/.domus/virtual_disk").split() == [f"{LOCAL}/.domus/virtual_disk:", f"{LOCAL}/VirtualDisks:"]
    assert "copied1-root.json" in site.two.run("ls", f"{LOCAL}/.domus/virtual_disk")
    assert "copied1-cloud-init" in site.two.run("ls", f"{LOCAL}/VirtualDisks")
    assert "enable" in site.two.run("virsh", "dominfo", "copied1").split("Autostart:")[1].split()[0]
    disks = site.fleet.client.get("/api/v1/virtual-disks", name="copied1-root")["items"]
    assert [disk["server"] for disk in disks] == [site.two.name]


def test_a_bandwidth_limit_holds_progress_is_told_and_a_cancelled_one_stays_where_it_was(site: MigrationSite) -> None:
    site.make("slow1", "local", fill=128)
    job = site.fleet.migrate("slow1", site.two, copy_storage=True, bandwidth=10)
    lines = _progress(site, job)
    site.fleet.client.post(f"/api/v1/jobs/{job['id']}/cancel", {})
    ended = site.fleet.ended(job)
    assert ended["state"] == "cancelled", ended["error"]
    assert any("MiB left" in line for line in lines)
    assert not any("noticed late" in line for line in lines), "the unit of the agent does not let it take QEMU's sockets"
    assert f"it is on {site.one.name}" in str(ended["error"])
    site.goes_on(site.one, "slow1", "local")
    site.runs_once("slow1", site.one)
    assert site.two.attempt("ls", f"{LOCAL}/VirtualDisks/slow1-root.img").code != 0
    site.is_told("slow1", site.one)
    assert site.fleet.ended(site.fleet.migrate("slow1", site.two, copy_storage=True))["state"] == "succeeded"


def _progress(site: MigrationSite, job: dict[str, Any]) -> list[str]:
    """Progress lines once it is well under way."""

    def look() -> Any:
        events = site.fleet.client.get(f"/api/v1/jobs/{job['id']}/events")["items"]
        lines = [event["data"]["line"] for event in events if event["kind"] == "progress"]
        assert any("MiB left" in line for line in lines), lines
        return lines

    return list(site.fleet.stack.wait_for(look, "progress of the migration"))


def test_post_copy_moves_a_guest_that_writes_faster_than_the_network_carries(site: MigrationSite) -> None:
    if not site.two.read("/proc/sys/vm/unprivileged_userfaultfd").startswith("1"):
        _refuses_post_copy(site)
        return
    site.make("busy1", fill=32, more="dirty=48")
    job = site.fleet.ended(site.fleet.migrate("busy1", site.two, post_copy=True, bandwidth=60, timeout=120))
    assert job["state"] == "succeeded", job["error"]
    site.goes_on(site.two, "busy1")
    site.runs_once("busy1", site.two)
    site.is_told("busy1", site.two)


def _refuses_post_copy(site: MigrationSite) -> None:
    """The hosts share this machine's kernel, which may not allow it."""
    site.make("busy1", fill=32)
    told = site.fleet.client.post("/api/v1/vms/busy1/migrate?check=true", {"server": site.two.name, "post_copy": True})
    assert [error["field"] for error in told["errors"]] == ["post_copy"]


def test_a_stopped_vm_moves_on_shared_storage(site: MigrationSite) -> None:
    site.make("still1", state="running")
    assert site.fleet.ended(site.fleet.client.post("/api/v1/vms/still1/kill", {}))["state"] == "succeeded"
    job = site.fleet.ended(site.fleet.migrate("still1", site.two))
    assert job["state"] == "succeeded", job["error"]
    assert (site.state(site.one, "still1"), site.state(site.two, "still1")) == ("absent", "shut off")
    site.is_told("still1", site.two)


def test_what_can_not_work_is_refused_beforehand_with_every_reason(site: MigrationSite) -> None:
    site.make("stuck1")
    network = {"name": "only-here", "mode": "isolated", "servers": [site.one.name]}
    assert site.fleet.apply({"site": "default", "networks": [network]})["state"] == "succeeded"
    nic = {"site": "default", "vms": [{"name": "stuck1", "server": site.one.name, "nics": [{"name": "eth0", "network": "only-here"}]}]}
    assert site.fleet.apply(nic)["state"] == "succeeded"
    told = site.fleet.client.post("/api/v1/vms/stuck1/migrate?check=true", {"server": site.two.name})
    assert not told["possible"]
    assert any(error["value"] == "only-here" for error in told["errors"])
    job = site.fleet.ended(site.fleet.migrate("stuck1", site.two))
    assert job["state"] == "failed" and "only-here" in str(job["error"])
    site.runs_once("stuck1", site.one)


# --- faults


def _begin(site: MigrationSite, name: str, **options: Any) -> dict[str, Any]:
    """A slow migration with copied storage, under way."""
    site.make(name, "local", fill=96)
    job = site.fleet.migrate(name, site.two, copy_storage=True, bandwidth=12, **options)
    _progress(site, job)
    return job


def test_the_agent_of_the_source_is_killed_and_libvirt_goes_on(site: MigrationSite) -> None:
    job = _begin(site, "kill1")
    site.one.run("systemctl", "kill", "-s", "KILL", "domus-agent")
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    site.runs_once("kill1", site.two)
    site.goes_on(site.two, "kill1", "local")
    site.is_told("kill1", site.two)
    assert site.one.attempt("ls", f"{LOCAL}/VirtualDisks/kill1-root.img").code != 0


def test_the_agent_of_the_destination_is_killed(site: MigrationSite) -> None:
    job = _begin(site, "kill2")
    site.two.run("systemctl", "kill", "-s", "KILL", "domus-agent")
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    site.runs_once("kill2", site.two)
    site.fleet.stack.wait_for(lambda: site.is_told("kill2", site.two), "the manager's view", 30)


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_libvirtd_of_the_source_is_restarted(site: MigrationSite, signal: str) -> None:
    """libvirt gives the migration up, or (asked kindly) ends it first: what is told is what is."""
    name = f"libvirt-{signal.lower()}"
    job = _begin(site, name)
    site.one.run("systemctl", "kill", "--kill-whom=main", "-s", signal, "libvirtd")
    site.one.run("systemctl", "start", "libvirtd")
    ended = site.fleet.ended(job)
    owner = site.is_settled(name, ended)
    site.fleet.stack.wait_for(lambda: site.is_told(name, owner), "the manager's view", 30)


def test_libvirtd_of_the_destination_is_restarted(site: MigrationSite) -> None:
    job = _begin(site, "libvirt2")
    site.two.run("systemctl", "restart", "libvirtd")
    ended = site.fleet.ended(job)
    owner = site.is_settled("libvirt2", ended)
    site.fleet.stack.wait_for(lambda: site.is_told("libvirt2", owner), "the manager's view", 30)


def test_the_manager_is_killed_and_says_afterwards_where_it_is(site: MigrationSite) -> None:
    job = _begin(site, "manager1")
    site.fleet.stack.end("manager", 9)
    time.sleep(2)
    site.fleet.stack.start("manager")
    site.fleet.stack.wait_until_up()
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    site.runs_once("manager1", site.two)
    site.fleet.stack.wait_for(lambda: site.is_told("manager1", site.two), "the manager's view", 30)


def test_the_manager_is_away_until_it_has_arrived(site: MigrationSite) -> None:
    job = _begin(site, "manager2")
    site.fleet.stack.end("manager", 9)
    site.fleet.stack.wait_for(lambda: site.state(site.one, "manager2") == "absent", "the move without a manager")
    site.runs_once("manager2", site.two)
    site.fleet.stack.start("manager")
    site.fleet.stack.wait_until_up()
    assert site.fleet.ended(job)["state"] == "succeeded"
    site.fleet.stack.wait_for(lambda: site.is_told("manager2", site.two), "the manager's view", 30)


def test_the_network_between_them_is_cut_in_the_middle(site: MigrationSite) -> None:
    job = _begin(site, "cut1")
    site.one.part(site.two)
    try:
        ended = site.fleet.ended(job, 400)  # QEMU gives the disks' connection up when TCP does
        assert ended["state"] == "failed", ended["state"]
        assert f"it is on {site.one.name}" in str(ended["error"])
        site.goes_on(site.one, "cut1", "local")
    finally:
        site.one.restore()
        site.two.restore()
    site.fleet.stack.wait_for(lambda: site.runs_once("cut1", site.one), "one VM only", 60)
    site.fleet.stack.wait_for(lambda: site.is_told("cut1", site.one), "the manager's view", 30)


def test_the_network_between_them_is_cut_before_it_begins(site: MigrationSite) -> None:
    site.make("cut2", "local")
    site.one.part(site.two)
    try:
        ended = site.fleet.ended(site.fleet.migrate("cut2", site.two, copy_storage=True), 300)
        assert ended["state"] == "failed", ended["state"]
        site.goes_on(site.one, "cut2", "local")
    finally:
        site.one.restore()
        site.two.restore()
    site.runs_once("cut2", site.one)
    assert site.two.attempt("ls", f"{LOCAL}/VirtualDisks/cut2-root.img").code != 0


@pytest.mark.parametrize("moment", ["stands", "goes_on"])
def test_the_network_between_them_is_cut_at_the_switch(site: MigrationSite, moment: str) -> None:
    """At the moment when the source has stopped it, or the destination has let it go on: one side runs it, during the cut and after."""
    name = f"switch-{moment.replace('_', '-')}"
    site.make(name, "local", fill=96)
    host, word = (site.one, "Suspended") if moment == "stands" else (site.two, "Resumed")
    host.run("systemd-run", f"--unit=watch-{name}", "sh", "-c", f"exec virsh event --event lifecycle --loop >/root/events-{name} 2>&1")
    job = site.fleet.migrate(name, site.two, copy_storage=True)
    site.fleet.stack.wait_for(lambda: _happened(host, name, word), f"{word} at {host.name}")
    site.one.part(site.two)
    try:
        ended = site.fleet.ended(job, 300)
        owner = site.is_settled(name, ended)
    finally:
        site.one.restore()
        site.two.restore()
    site.fleet.stack.wait_for(lambda: _one_runs(site, name), "one VM only", 90)
    assert site.state(owner, name) == "running"
    site.goes_on(owner, name, "local")
    site.fleet.stack.wait_for(lambda: site.is_told(name, owner), "the manager's view", 30)


def _happened(host: Host, name: str, word: str) -> None:
    assert word in host.attempt("cat", f"/root/events-{name}").output


def _one_runs(site: MigrationSite, name: str) -> None:
    assert sorted(site.state(host, name) == "running" for host in (site.one, site.two)) == [False, True]


def test_the_destination_loses_its_power(site: MigrationSite) -> None:
    job = _begin(site, "power1")
    site.two.power_off()
    ended = site.fleet.ended(job, 300)
    assert ended["state"] == "failed", ended["state"]
    assert f"it is on {site.one.name}" in str(ended["error"])
    site.goes_on(site.one, "power1", "local")
    site.two.power_on()
    site.fleet.stack.wait_for(lambda: site.runs_once("power1", site.one), "one VM only", 60)
    site.fleet.stack.wait_for(lambda: _absent(site.two, f"{LOCAL}/VirtualDisks/power1-root.img"), "the half copy gone", 200)


def _absent(host: Host, path: str) -> None:
    assert host.attempt("test", "-e", path).code != 0


def test_the_source_loses_its_power(site: MigrationSite) -> None:
    job = _begin(site, "power2")
    site.one.power_off()
    ended = site.fleet.ended(job, 300)
    assert ended["state"] == "failed", ended["state"]
    assert site.state(site.two, "power2") == "absent"
    site.one.power_on()
    assert site.state(site.one, "power2") == "shut off"
    site.fleet.stack.wait_for(lambda: _absent(site.two, f"{LOCAL}/VirtualDisks/power2-root.img"), "the half copy gone", 200)
    site.fleet.stack.wait_for(lambda: ":8899" in site.one.run("ss", "-ltn") or False, "the agent after the boot")
    started = site.fleet.ended(site.fleet.client.post("/api/v1/vms/power2/start", {}))
    assert started["state"] == "succeeded", started["error"]
    site.goes_on(site.one, "power2", "local")
