"""Live migration between real hosts: libvirt, QEMU, agents, manager and certificates as they are in production."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import tiny_guest
from tests.hosts.conftest import Hosts
from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab

POOL, LOCAL = "/srv/shared/pool", "/srv/local"


class Site:
    """Two servers with a shared and a local repository, and VMs that are made when asked for."""

    def __init__(self, lab: Lab, hosts: list[Host]) -> None:
        self.fleet = Fleet(lab, hosts)
        self.one, self.two = hosts
        names = [host.name for host in hosts]
        shared = {"name": "pool", "path": POOL, "shared": True, "servers": names}
        repositories = [shared, {"name": "local", "path": LOCAL, "servers": names}]
        assert self.fleet.apply({"site": "default", "repositories": repositories})["state"] == "succeeded"
        tiny_guest.build(lab.shared / "pool" / "Templates")

    def make(self, name: str, repository: str = "pool", fill: int = 64, more: str = "", **fields: Any) -> dict[str, Any]:
        """A VM that runs on the first host, once its guest is up."""
        arguments = f"console=ttyS0 quiet fill={fill} disk=1 {more}".strip()
        kernel = {"kernel": "pool/vmlinuz", "initrd": "pool/initrd.img", "arguments": arguments}
        disk = {"name": "root", "repository": repository, "size": "32MiB", "format": "raw"}
        vm = {"name": name, "server": self.one.name, "memory": f"{fill + 192}MiB", "virtualization": "qemu", "kernel": kernel, "disks": [disk]}
        job = self.fleet.apply({"site": "default", "vms": [{**vm, "state": "running", **fields}]})
        assert job["state"] == "succeeded", job["error"]
        self.fleet.stack.wait_for(lambda: self.count(self.one, name, repository) > 3, f"the guest {name}")
        return self.fleet.vm(name)

    def count(self, host: Host, name: str, repository: str = "pool") -> int:
        """How far the guest has counted on its disk."""
        folder = POOL if repository == "pool" else LOCAL
        told = host.attempt("grep", "-aoE", "disk [0-9]+", f"{folder}/VirtualDisks/{name}-root.img").output
        return max((int(number) for number in re.findall(r"\d+", told)), default=0)

    def goes_on(self, host: Host, name: str, repository: str = "pool") -> None:
        """The guest counts on there."""
        before = self.count(host, name, repository)
        self.fleet.stack.wait_for(lambda: self.count(host, name, repository) > before + 2, f"{name} going on at {host.name}", 20)

    def state(self, host: Host, name: str) -> str:
        """The domain's state there, or absent."""
        told = host.attempt("virsh", "domstate", name)
        return told.output.strip() if told.code == 0 else "absent"

    def runs_once(self, name: str, on: Host) -> None:
        """Exactly this host runs it."""
        other = self.two if on is self.one else self.one
        assert self.state(on, name) == "running"
        assert self.state(other, name) in ("absent", "shut off")

    def is_told(self, name: str, on: Host) -> dict[str, Any]:
        """The manager says that it is there, without conflict or drift."""
        vm = self.fleet.vm(name)
        assert (vm["server"], vm["conflict"], vm["drift"], vm["stale"]) == (on.name, None, [], False)
        events = self.fleet.client.get("/api/v1/events", kind="vm.conflict")["items"]
        assert [event for event in events if (event.get("object") or {}).get("id") == vm["id"]] == []
        return vm


@pytest.fixture(scope="module")
def site(lab: Lab, module_hosts: Hosts) -> Iterator[Site]:
    made = Site(lab, module_hosts(2))
    try:
        yield made
    finally:
        made.fleet.close()


def test_a_vm_on_shared_storage_moves_while_it_runs_and_its_memory_is_encrypted(site: Site) -> None:
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


def test_disks_of_the_sources_own_are_copied_along_with_notes_and_seed(site: Site) -> None:
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


def test_a_bandwidth_limit_holds_progress_is_told_and_a_cancelled_one_stays_where_it_was(site: Site) -> None:
    site.make("slow1", "local", fill=128)
    job = site.fleet.migrate("slow1", site.two, copy_storage=True, bandwidth=10)
    lines = _progress(site, job)
    site.fleet.client.post(f"/api/v1/jobs/{job['id']}/cancel", {})
    ended = site.fleet.ended(job)
    assert ended["state"] == "cancelled", ended["error"]
    assert any("MiB left" in line for line in lines)
    assert f"it is on {site.one.name}" in str(ended["error"])
    site.goes_on(site.one, "slow1", "local")
    site.runs_once("slow1", site.one)
    assert site.two.attempt("ls", f"{LOCAL}/VirtualDisks/slow1-root.img").code != 0
    site.is_told("slow1", site.one)
    assert site.fleet.ended(site.fleet.migrate("slow1", site.two, copy_storage=True))["state"] == "succeeded"


def _progress(site: Site, job: dict[str, Any]) -> list[str]:
    """Progress lines once it is well under way."""

    def look() -> Any:
        events = site.fleet.client.get(f"/api/v1/jobs/{job['id']}/events")["items"]
        lines = [event["data"]["line"] for event in events if event["kind"] == "progress"]
        assert any("MiB left" in line for line in lines), lines
        return lines

    return list(site.fleet.stack.wait_for(look, "progress of the migration"))


def test_post_copy_moves_a_guest_that_writes_faster_than_the_network_carries(site: Site) -> None:
    site.make("busy1", fill=32, more="dirty=48")
    job = site.fleet.ended(site.fleet.migrate("busy1", site.two, post_copy=True, bandwidth=60, timeout=120))
    assert job["state"] == "succeeded", job["error"]
    site.goes_on(site.two, "busy1")
    site.runs_once("busy1", site.two)
    site.is_told("busy1", site.two)


def test_a_stopped_vm_moves_on_shared_storage(site: Site) -> None:
    site.make("still1", state="running")
    assert site.fleet.ended(site.fleet.client.post("/api/v1/vms/still1/kill", {}))["state"] == "succeeded"
    job = site.fleet.ended(site.fleet.migrate("still1", site.two))
    assert job["state"] == "succeeded", job["error"]
    assert (site.state(site.one, "still1"), site.state(site.two, "still1")) == ("absent", "shut off")
    site.is_told("still1", site.two)


def test_what_can_not_work_is_refused_beforehand_with_every_reason(site: Site) -> None:
    site.make("stuck1")
    site.one.run("virsh", "snapshot-create-as", "--disk-only", "--no-metadata", "stuck1") if False else None
    site.two.run("sh", "-c", "mv /srv/shared/pool/.domus /srv/shared/pool/.domus-away; mv /srv/shared/pool/.domus-away /srv/shared/pool/.domus")
    site.fleet.apply({"site": "default", "networks": [{"name": "only-here", "forward": "isolated", "servers": [site.one.name]}]})
    nic = {"site": "default", "vms": [{"name": "stuck1", "server": site.one.name, "nics": [{"name": "eth0", "network": "only-here"}]}]}
    assert site.fleet.apply(nic)["state"] == "succeeded"
    told = site.fleet.client.post("/api/v1/vms/stuck1/migrate?check=true", {"server": site.two.name})
    assert not told["possible"]
    assert any(error["value"] == "only-here" for error in told["errors"])
    job = site.fleet.ended(site.fleet.migrate("stuck1", site.two))
    assert job["state"] == "failed" and "only-here" in str(job["error"])
    site.runs_once("stuck1", site.one)


# --- faults


def _begin(site: Site, name: str, **options: Any) -> dict[str, Any]:
    """A slow migration with copied storage, under way."""
    site.make(name, "local", fill=96)
    job = site.fleet.migrate(name, site.two, copy_storage=True, bandwidth=12, **options)
    _progress(site, job)
    return job


def test_the_agent_of_the_source_is_killed_and_libvirt_goes_on(site: Site) -> None:
    job = _begin(site, "kill1")
    site.one.run("systemctl", "kill", "-s", "KILL", "domus-agent")
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    site.runs_once("kill1", site.two)
    site.goes_on(site.two, "kill1", "local")
    site.is_told("kill1", site.two)
    assert site.one.attempt("ls", f"{LOCAL}/VirtualDisks/kill1-root.img").code != 0


def test_the_agent_of_the_destination_is_killed(site: Site) -> None:
    job = _begin(site, "kill2")
    site.two.run("systemctl", "kill", "-s", "KILL", "domus-agent")
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    site.runs_once("kill2", site.two)
    site.fleet.stack.wait_for(lambda: site.is_told("kill2", site.two), "the manager's view", 30)


def test_libvirtd_of_the_source_is_restarted(site: Site) -> None:
    job = _begin(site, "libvirt1")
    site.one.run("systemctl", "restart", "libvirtd")
    ended = site.fleet.ended(job)
    assert ended["state"] == "failed", ended["state"]
    assert f"it is on {site.one.name}" in str(ended["error"])
    site.runs_once("libvirt1", site.one)
    site.goes_on(site.one, "libvirt1", "local")


def test_libvirtd_of_the_destination_is_restarted(site: Site) -> None:
    job = _begin(site, "libvirt2")
    site.two.run("systemctl", "restart", "libvirtd")
    ended = site.fleet.ended(job)
    assert ended["state"] == "failed", ended["state"]
    site.runs_once("libvirt2", site.one)


def test_the_manager_is_killed_and_says_afterwards_where_it_is(site: Site) -> None:
    job = _begin(site, "manager1")
    site.fleet.stack.end("manager", 9)
    time.sleep(2)
    site.fleet.stack.start("manager")
    site.fleet.stack.wait_until_up()
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    site.runs_once("manager1", site.two)
    site.is_told("manager1", site.two)


def test_the_manager_is_away_until_it_has_arrived(site: Site) -> None:
    job = _begin(site, "manager2")
    site.fleet.stack.end("manager", 9)
    site.fleet.stack.wait_for(lambda: site.state(site.one, "manager2") == "absent", "the move without a manager")
    site.runs_once("manager2", site.two)
    site.fleet.stack.start("manager")
    site.fleet.stack.wait_until_up()
    assert site.fleet.ended(job)["state"] == "succeeded"
    site.is_told("manager2", site.two)
