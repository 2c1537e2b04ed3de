"""Two servers and a quorum device on a third host, trusted by what the role does: one server is lost, or the device, and the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import FOLDER, PoolSite
from tests.hosts.site import changes, run_playbook


class Device:
    """corosync-qnetd on `host`, and the play that has two servers trust it."""

    def __init__(self, lab: Lab, directory: Path, host: Host, servers: list[Host]) -> None:
        self.host, self.directory = host, directory
        known = json.loads(lab.inventory.read_text())["all"]
        hosts = known["children"]["servers"]["hosts"]
        groups = {"servers": {one.name: hosts[one.name] for one in servers}, "others": {host.name: hosts[host.name]}}
        children = {name: {"hosts": members} for name, members in groups.items()}
        (directory / "inventory.yml").write_text(json.dumps({"all": {"vars": known["vars"], "children": children}}))
        told = {"host": host.address, "algorithm": "ffsplit"}
        variables = {"server_pool_name": "pool1", "server_pool_file_system": FOLDER, "server_pool_quorum_device": told, "server_pool_quorum_host": host.name}
        task = {"ansible.builtin.include_role": {"name": "domus.virt.server_pool", "tasks_from": "prepare"}, "vars": variables}
        (directory / "play.yml").write_text(json.dumps([{"hosts": "servers", "gather_facts": False, "tasks": [task]}]))

    def play(self) -> dict[str, int]:
        """Make the servers ready; how many tasks changed something on each."""
        done = run_playbook(self.directory, self.directory / "inventory.yml", self.directory / "play.yml")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return changes(done.stdout)


@pytest.fixture(scope="module")
def device(lab: Lab, module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Device:
    one, two, third = module_hosts(3, disk="3G")
    (lab.shared / "pool").mkdir(exist_ok=True)
    made = Device(lab, tmp_path_factory.mktemp("device"), third, [one, two])
    assert set(made.play()) == {one.name, two.name}
    return made


@pytest.fixture(scope="module")
def pool(lab: Lab, device: Device) -> Iterator[PoolSite]:
    servers = [host for host in lab.hosts() if host.name != device.host.name]
    with PowerService(lab) as power:
        site = PoolSite(lab, servers, power, quorum_device={"host": device.host.address})
        try:
            site.add_vm("vm0")
            site.apply()
            site.wait_for_vms()
            yield site
        finally:
            site.close()


def votes(host: Host) -> tuple[int, bool]:
    """All votes that are there, as a server sees it, and whether the quorum device gives one."""
    told = host.run("corosync-quorumtool", "-s")
    total = next(int(line.split(":")[1]) for line in told.splitlines() if line.startswith("Total votes:"))
    return total, "A,V," in told


def test_the_role_has_it_trusted_once(device: Device) -> None:
    assert set(device.play().values()) == {0}


def test_it_has_a_vote(pool: PoolSite) -> None:
    for host in pool.hosts:
        pool.wait(lambda host=host: votes(host) == (3, True), f"three votes on {host.name}")
        assert "two_node" not in host.read("/etc/corosync/corosync.conf")


def test_a_server_is_lost_and_the_other_goes_on(pool: PoolSite) -> None:
    victim = pool.place("vm0")
    pool.harm(victim)
    victim.power_off()
    pool.wait(lambda: pool.has_restarted("vm0"), "its VM running on the other server", 120)
    assert pool.power.asked == [("reboot", victim.name)]
    pool.heal()
    assert pool.watcher.violations == []


def test_the_device_is_lost_and_nobody_notices(pool: PoolSite, device: Device) -> None:
    pool.power.asked.clear()
    before = pool.watcher.running()
    device.host.run("systemctl", "stop", "corosync-qnetd")
    for host in pool.hosts:
        pool.wait(lambda host=host: votes(host) == (2, False), f"its vote being gone on {host.name}")
        assert pool.status(host).is_quorate
    assert pool.watcher.running() == before and pool.power.asked == []
    device.host.run("systemctl", "start", "corosync-qnetd")
    for host in pool.hosts:
        pool.wait(lambda host=host: votes(host) == (3, True), f"three votes on {host.name}")
    assert pool.watcher.violations == []
