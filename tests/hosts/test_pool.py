"""A pool on three hosts, with Corosync, Pacemaker, real fencing and `ocf:domus:vm`, as Domus configures them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from domus_core.cluster.corosync import assign_node_ids, corosync_conf
from domus_core.cluster.pool import FenceDevice, HaVm, Member, Pool
from domus_core.cluster.record_files import write_record
from domus_core.cluster.records import PoolRecord
from domus_core.model.quantities import UNITS

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PowerService

ROOT = Path(__file__).resolve().parents[2]
MIB = UNITS["MiB"]
POOL = "/srv/shared/pool"
DEFINITION = """<domain type="qemu"><name>{name}</name><uuid>{uuid}</uuid><memory unit="MiB">32</memory><vcpu>1</vcpu>
<os><type>hvm</type></os><features><acpi/></features>
<devices><disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{pool}/{name}.img"/><target dev="vda" bus="virtio"/></disk></devices>
</domain>"""
# Pacemaker runs on the host of whom it is asked; the pool comes as Python's own text of it.
APPLY = """import json, sys
sys.path.insert(0, "/opt/domus/agent")
from domus_core.cluster.pacemaker import Pacemaker
from domus_core.cluster.pool import FenceDevice, HaVm, Member, Pool, QuorumDevice
change = Pacemaker().apply({pool!r}, {ids!r})
print(json.dumps([change.changes, change.foreign, change.restarted]))
"""


class PoolOfHosts:
    """Three hosts with room that is told to Pacemaker: 1 GiB, 64 MiB and 16 MiB, whatever they really have."""

    def __init__(self, lab: Lab, hosts: list[Host], power: PowerService) -> None:
        self.lab, self.hosts, self.power = lab, hosts, power
        self.shared = Path(lab.shared) / "pool"
        shutil.rmtree(self.shared, ignore_errors=True)  # of the test before
        (self.shared / "records").mkdir(parents=True)
        self.shared.chmod(0o755)
        room = (1024, 64, 16)
        members = tuple(Member(host.name, (host.address,), amount * MIB, 16) for host, amount in zip(hosts, room))
        options = {"ip": lab.network.gateway, "password": PASSWORD}
        devices = tuple(FenceDevice(f"power-{host.name}", "fence_domus_test", {host.name: host.name}, options) for host in hosts)
        self.pool = Pool("rack1", members, devices, token=1500)
        self.ids = assign_node_ids([host.name for host in hosts], {})
        self.key = base64.b64encode(os.urandom(256)).decode()
        for host in hosts:
            self.prepare(host)
        self.eventually(lambda: hosts[0].attempt("crm_node", "--quorum").output.strip() == "1", "quorum")

    def prepare(self, host: Host) -> None:
        """What the role will do."""
        host.shell("mkdir -p /opt/domus/agent /etc/domus /usr/lib/ocf/resource.d/domus")
        host.copy_to(ROOT / "plugins" / "module_utils" / "domus_core", "/opt/domus/agent/domus_core")
        host.copy_to(ROOT / "agent" / "domus_agent", "/opt/domus/agent/domus_agent")
        host.shell("ln -sfn /opt/domus/agent/domus_agent/ocf/vm /usr/lib/ocf/resource.d/domus/vm")
        host.write("/etc/domus/pool.json", json.dumps({"records": f"{POOL}/records", "server": host.name, "lock_patience": 30}))
        host.write("/etc/corosync/corosync.conf", corosync_conf(self.pool, self.ids))
        host.write("/root/key", self.key)
        host.shell("base64 -d /root/key >/etc/corosync/authkey; chmod 400 /etc/corosync/authkey")
        self.power.install(host)
        host.shell("systemctl start libvirtd; systemctl enable --now corosync pacemaker", timeout=120)

    def add(self, name: str, memory: int, at: Host, **more: int) -> None:
        """An HA VM that starts at a host."""
        identity = str(uuid.uuid4())
        (self.shared / f"{name}.img").write_bytes(b"\0" * MIB)
        (self.shared / f"{name}.img").chmod(0o666)
        definition = DEFINITION.format(name=name, uuid=identity, pool=POOL)
        write_record(str(self.shared / "records"), PoolRecord(identity, name, definition, stop_timeout=2), "", lambda: True)
        vm = HaVm(name, identity, memory * MIB, 1, wanted=True, preferred_servers=(at.name,), stop_timeout=2, **more)
        self.pool = Pool(**{**vars(self.pool), "vms": (*self.pool.vms, vm)})

    def apply(self, asked: Host) -> list[list[str]]:
        """Changes, foreign, restarted."""
        told: list[list[str]] = json.loads(asked.run("python3", "-", text=APPLY.format(pool=self.pool, ids=self.ids), timeout=120))
        return told

    def pids(self, name: str) -> dict[str, str]:
        """On which hosts a VM's QEMU runs, and as which process there."""
        found = {host.name: host.attempt("pgrep", "-f", f"guest={name},").output.split() for host in self.hosts if host.is_running}
        return {host: pids[0] for host, pids in found.items() if pids}

    def where(self, *names: str) -> list[str]:
        """The host of each VM, or hosts, by commas."""
        return [",".join(self.pids(name)) for name in names]

    def set_role(self, asked: Host, name: str, role: str) -> None:
        """What Domus's verbs will do."""
        asked.run("crm_resource", "--resource", f"domus-vm-{name}", "--meta", "--set-parameter", "target-role", "--parameter-value", role)

    def role(self, asked: Host, name: str) -> str:
        """The role that Pacemaker is to give it."""
        return asked.attempt("crm_resource", "--resource", f"domus-vm-{name}", "--meta", "--get-parameter", "target-role").output.strip()

    def eventually(self, question: Callable[[], bool], what: str, seconds: float = 180) -> None:
        """Wait for it."""
        give_up = time.monotonic() + seconds
        while not question():
            assert time.monotonic() < give_up, f"waited in vain for {what}:\n{self.told()}"
            time.sleep(0.3)

    def told(self) -> str:
        """What Pacemaker says, by whoever answers."""
        return "\n".join(host.attempt("crm_mon", "-1", "-r").output for host in self.hosts if host.is_running)[-4000:]


@pytest.fixture
def pool(lab: Lab, hosts: Hosts) -> Iterator[PoolOfHosts]:
    with PowerService(lab) as power:
        yield PoolOfHosts(lab, hosts(3), power)


@pytest.mark.parametrize("coordinator_dies", [False, True], ids=["member", "coordinator"])
def test_a_server_without_power_loses_its_vms_to_others_and_nobody_else_notices(pool: PoolOfHosts, coordinator_dies: bool) -> None:
    one, two, three = pool.hosts
    pool.add("high", 64, one, priority=100)
    pool.add("small", 16, one)
    pool.add("low", 64, two)
    asked = three
    if coordinator_dies:
        pool.eventually(lambda: _coordinator(asked) != "", "a coordinator")
        for other in (two, three):  # whoever is the coordinator hands that on when it is restarted
            if _coordinator(one) == other.name:
                other.shell("systemctl restart pacemaker", timeout=120)
    assert pool.apply(asked)[0]
    pool.eventually(lambda: [list(pool.pids(name)) for name in ("high", "small", "low")] == [[one.name], [one.name], [two.name]], "the VMs")
    assert pool.apply(asked) == [[], [], []], "applying again changes nothing"
    healthy = pool.pids("low")
    pool.eventually(lambda: asked.run("cibadmin", "--query").count('name="domus-up" value="1"') == 3, "the marks")
    one.power_off()
    begun = time.monotonic()
    pool.eventually(lambda: list(pool.pids("small")) == [three.name], "the VM that has room")
    print(f"failover: {time.monotonic() - begun:.1f} s, the coordinator was {'' if coordinator_dies else 'not '}lost")
    assert pool.pids("low") == healthy, f"a healthy VM had to give its room to a lost one\n{pool.told()}"
    assert list(pool.pids("high")) in ([], [one.name]), "it has no room but on the server that it was on"
    pool.eventually(lambda: ("reboot", one.name) in pool.power.asked or ("off", one.name) in pool.power.asked, "the power cut by Pacemaker")
    pool.eventually(lambda: one.is_running and list(pool.pids("high")) == [one.name], "the server back, and with it the VM that waited")
    assert pool.pids("low") == healthy and list(pool.pids("small")) == [three.name], "a server that is back moves nobody"
    assert pool.apply(two)[0] == [] and pool.apply(one)[0] == []


def _coordinator(host: Host) -> str:
    words = host.attempt("crmadmin", "--dc_lookup", "--quiet").output.split()
    return words[-1] if words else ""


def test_what_befalls_a_vm_on_its_server(pool: PoolOfHosts) -> None:
    """One after the other, on one cluster: a crash, libvirtd gone, saved to disk by hand, a live migration that can not be."""
    one, two, dummy = pool.hosts
    pool.add("vm1", 64, one)
    pool.add("vm2", 16, one)
    assert pool.apply(two)[0]
    pool.eventually(lambda: pool.where("vm1", "vm2") == [one.name, one.name], "the VMs")
    neighbour = pool.pids("vm2")

    first = pool.pids("vm1")
    one.run("kill", "-9", first[one.name])
    pool.eventually(lambda: pool.where("vm1") == [one.name] and pool.pids("vm1") != first, "the crashed VM, started again where it was")

    second = pool.pids("vm1")
    one.shell("systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd", timeout=120)
    time.sleep(25)  # two monitors
    assert pool.pids("vm1") == second and pool.pids("vm2") == neighbour, f"VMs do not depend on libvirtd\n{pool.told()}"
    pool.set_role(two, "vm1", "Stopped")
    pool.eventually(lambda: pool.pids("vm1") == {}, "the VM stopped without libvirtd")
    one.shell("systemctl start libvirtd.socket libvirtd", timeout=120)
    pool.set_role(two, "vm1", "Started")
    pool.eventually(lambda: pool.where("vm1") == [one.name], "the VM started again")

    one.run("virsh", "managedsave", "vm1", timeout=120)
    pool.eventually(lambda: pool.role(two, "vm1") == "Stopped", "the wish that it stays off, told to Pacemaker by the agent")
    time.sleep(12)
    assert pool.pids("vm1") == {}, "who saves a VM to disk wants it to be off"
    pool.set_role(two, "vm1", "Started")
    pool.eventually(lambda: pool.where("vm1") == [one.name], "the VM, gone on with its memory")
    assert "Managed save:   no" in one.run("virsh", "dominfo", "vm1")

    third = pool.pids("vm1")
    two.run("crm_resource", "--ban", "--resource", "domus-vm-vm1", "--node", one.name)  # there are no certificates for a migration
    pool.eventually(lambda: "migrate_to" in two.run("crm_mon", "-1", "-r") and "blocked" in two.run("crm_mon", "-1", "-r"), "the migration that fails")
    time.sleep(12)
    assert pool.pids("vm1") == third, f"a failed migration leaves the healthy VM where it is\n{pool.told()}"
    assert pool.pids("vm2") == neighbour, "its neighbour has noticed nothing of all that"
