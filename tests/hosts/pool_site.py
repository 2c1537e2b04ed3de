"""A clustered pool on test hosts: made by `domus-agent pool`, fenced by the lab's power service, with VMs by records and Pacemaker's configuration."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domus_core.cluster.disk_locks import lease_of
from domus_core.cluster.pool import Pool
from domus_core.cluster.pool_status import PoolStatus, status_from
from domus_core.cluster.records import PoolRecord, as_text, from_text
from domus_core.libvirt_driver.registry import write_atomically

from tests.hosts import libvirt_tls
from tests.hosts.agents import COMMAND, ROOT
from tests.hosts.lab.commands import LabError, wait_until
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PORT, PowerService
from tests.hosts.watcher import Life, Watcher

FOLDER = "/srv/shared/pool"
MIB = 2**20
UNITS = ("virtlockd.socket", "virtlogd.socket", "libvirtd.socket", "libvirtd-tls.socket", "libvirtd.service")
DEFINITION = """<domain type="qemu"><name>{name}</name><uuid>{uuid}</uuid><memory unit="MiB">{memory}</memory><vcpu>1</vcpu>
<os><type>hvm</type>{kernel}</os><features><acpi/></features>
<devices>
<disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{disk}"/><target dev="vda" bus="virtio"/></disk>
<serial type="null"/><memballoon model="none"/>
</devices></domain>"""
KERNEL = f"<kernel>{FOLDER}/vmlinuz</kernel><initrd>{FOLDER}/initrd.img</initrd><cmdline>console=ttyS0 quiet disk=1</cmdline>"


class PoolSite:
    """The pool of `hosts`, up and quorate, without VMs; `shared` is its file system as this machine sees it."""

    # How long a service of a host may take to start or stop, in seconds.
    patience = 60.0

    def __init__(self, lab: Lab, hosts: Sequence[Host], power: PowerService, **pool: Any) -> None:
        self.lab, self.hosts, self.power = lab, list(hosts), power
        self.more, self.vms, self.names = pool, list[dict[str, Any]](), dict[str, str]()
        self.evacuated: set[str] = set()
        self.before: set[Life] = set()
        self.authkey = base64.b64encode(os.urandom(256)).decode()
        self.shared = lab.shared / "pool"
        for name in ("records", "lockspace", "VirtualDisks"):
            (self.shared / name).mkdir(parents=True, exist_ok=True)
        self._prepare_all()
        self.form()
        self.watcher = self._watch()

    @property
    def token(self) -> int:
        """Corosync's token in milliseconds: ours unless the pool was made with another."""
        return int(self.more.get("token", Pool("", ()).token))

    def close(self) -> None:
        """End the watcher; the hosts are the lab's."""
        self.watcher.close()

    # -- making

    def _prepare_all(self) -> None:
        for host in self.hosts:
            self.prepare(host)
        libvirt_tls.enable(*self.hosts)

    def _watch(self) -> Watcher:
        return Watcher(self.lab.name, self.shared / "VirtualDisks", self.names, self.alerts)

    def prepare(self, host: Host) -> None:
        """What the roles put on a server: agent, fence agent, disk locks on the pool file system."""
        host.copy_to(ROOT / "agent/domus_agent", "/opt/domus/agent/domus_agent")
        host.copy_to(ROOT / "plugins/module_utils/domus_core", "/opt/domus/agent/domus_core")
        host.write("/usr/local/sbin/domus-agent", COMMAND, mode="755")
        self.power.install(host)
        host.write("/etc/libvirt/qemu-lockd.conf", f'auto_disk_leases = 1\nfile_lockspace_dir = "{FOLDER}/lockspace"\n')
        host.shell("grep -q ^lock_manager /etc/libvirt/qemu.conf || echo 'lock_manager = \"lockd\"' >>/etc/libvirt/qemu.conf")
        units = f"systemctl enable --quiet {' '.join(UNITS)}; systemctl start {' '.join(UNITS[:3])}"
        host.shell(f"systemctl stop libvirtd.service; {units}", timeout=self.patience)

    def form(self) -> dict[str, Any]:
        """Write, start and apply, as the role does."""
        for host in self.hosts:
            self.agent(host, "write", "-f", "-", text=self.document())
        for host in self.hosts:  # all at once: who waits for the others must not keep them waiting
            host.run("sh", "-c", "domus-agent pool start -o json >/run/domus-pool-start 2>&1 &")
        for host in self.hosts:
            self.agent(host, "start")
        return self.apply()

    def document(self) -> str:
        """The pool as `domus-agent pool` takes it."""
        room = {"memory": 2048 * MIB, "cpus": 64}
        members = [{"name": host.name, "addresses": [host.address], "evacuated": host.name in self.evacuated, **room} for host in self.hosts]
        options = {"ip": self.lab.network.gateway, "ipport": str(PORT)}
        device = {"name": "power", "agent": "fence_domus_test", "servers": {host.name: host.name for host in self.hosts}, "options": options}
        pool = {"name": "pool1", "members": members, "devices": [device], "vms": self.vms, **self.more}
        secrets = {one["name"]: {"password": PASSWORD} for one in pool["devices"]}
        settings = {"records": f"{FOLDER}/records", "unsafe_migration": True}
        known = {host.name: host.traits.index for host in self.hosts}
        told = {"pool": pool, "known_ids": known, "authkey": self.authkey, "secrets": secrets, "settings": settings}
        return json.dumps(told)

    def agent(self, host: Host, action: str, *arguments: str, text: str = "") -> dict[str, Any]:
        """What `domus-agent pool` says on a host."""
        told: dict[str, Any] = json.loads(host.run("domus-agent", "pool", action, "-o", "json", *arguments, text=text, timeout=2.5 * self.patience))
        return told

    def apply(self, *, check: bool = False) -> dict[str, Any]:
        """Put the pool into Pacemaker's configuration, by a member that answers."""
        arguments = ["-f", "-", *(["--check"] if check else [])]
        done = self.living().attempt("domus-agent", "pool", "apply", "-o", "json", *arguments, text=self.document(), timeout=120)
        if done.code not in (0, 2):
            raise LabError(f"pool apply: {done.code}: {done.errors} {done.output}")
        told: dict[str, Any] = json.loads(done.output)
        return told

    def add_vm(self, name: str, *, guest: bool = False, ha: bool = True, start: bool = True, **fields: Any) -> str:
        """Disk, record and (with `apply`) resource of a VM; returns its UUID. `guest`: it counts on its disk, else it has no system."""
        identity = str(uuid.uuid4())
        self.place_file(f"VirtualDisks/{name}.img", bytes(MIB))
        memory = 160 if guest else 32
        known = {"name": name, "uuid": identity, "memory": memory, "kernel": KERNEL if guest else "", "disk": f"{FOLDER}/VirtualDisks/{name}.img"}
        record = PoolRecord(identity, name, DEFINITION.format(**known), stop_timeout=2)
        self.place_file(f"records/{identity}.json", as_text(record).encode())
        self.names[identity] = name
        if ha:
            self.vms.append({"name": name, "uuid": identity, "memory": memory * MIB, "cpus": 1, "stop_timeout": 2, "wanted": start, **fields})
        return identity

    def place_file(self, path: str, content: bytes) -> None:
        """Put a file into the pool file system."""
        write_atomically(str(self.shared / path), content, 0o644)

    def definition(self, name: str) -> str:
        """The XML of a VM, from its record."""
        identity = next(key for key, value in self.names.items() if value == name)
        return from_text((self.shared / "records" / f"{identity}.json").read_text(), identity).definition

    def hide_file_system(self, host: Host) -> None:
        """Take the pool file system away from a host: whoever looks finds nothing, as after a mount that failed; open files stay open."""
        host.run("mount", "-t", "tmpfs", "-o", "ro,size=4k", "none", "/srv/shared")

    def show_file_system(self, host: Host) -> None:
        """Give it back."""
        host.attempt("umount", "/srv/shared")

    def evacuate(self, *hosts: Host) -> None:
        """Say which hosts are to take no VM."""
        self.evacuated = {host.name for host in hosts}
        self.apply()

    # -- asking

    def living(self) -> Host:
        """A host that is on, not harmed, and whose Pacemaker runs."""
        for host in self.hosts:
            if host.is_running and host.name not in self.watcher_victims() and host.attempt("crm_mon", "-1", timeout=10).code == 0:
                return host
        raise LabError("no host of the pool answers")

    def watcher_victims(self) -> set[str]:
        """Hosts that a test harms."""
        return self.watcher.victims if hasattr(self, "watcher") else set()

    def status(self, host: Host | None = None) -> PoolStatus:
        """The pool's status, as a host sees it."""
        asked = host or self.living()
        return status_from(asked.run("crm_mon", "--one-shot", "--output-as=xml", "--inactive", timeout=20).encode())

    def alerts(self) -> list[str]:
        """What the pool tells an operator to look at, by whoever answers; a pool that can not be asked has said so itself."""
        try:
            return list(self.status().alerts)
        except LabError as error:
            return [str(error)]

    def place(self, vm: str) -> Host:
        """The host where a VM runs, as the kernel has it."""
        lives = self.watcher.lives(vm)
        assert len(lives) == 1, lives
        return self.host(lives[0].host)

    def host(self, name: str) -> Host:
        """The host of this name."""
        return next(host for host in self.hosts if host.name == name)

    def lease(self, vm: str) -> Path:
        """The file on which virtlockd holds the lock of a VM's disk."""
        path = Path(lease_of(str(self.shared / "lockspace"), f"{FOLDER}/VirtualDisks/{vm}.img"))
        assert path.exists(), f"virtlockd keeps no lock for {vm}"
        return path

    def is_starting(self, host: Host) -> bool:
        """Is the OCF agent at work there, starting a VM?"""
        return host.attempt("pgrep", "-f", "ocf/vm.py start", timeout=10).code == 0

    def written(self, vm: str) -> bytes:
        """What the guest has on its disk, where it counts; what an earlier life of it counted may stand there, too."""
        return (self.shared / "VirtualDisks" / f"{vm}.img").read_bytes()

    def wait_for_counting(self, vm: str) -> None:
        """Until the guest has written to its disk since now: that it is the same life of it, the watcher sees."""
        before = self.written(vm)
        self.wait(lambda: self.written(vm) != before, f"{vm} counting on")

    def harm(self, host: Host) -> None:
        """Say that a host is going to be harmed."""
        self.before = self.watcher.everything()
        self.watcher.victims.add(host.name)

    def has_restarted(self, vm: str) -> bool:
        """Does it run, once, in a process that was not there before the host was harmed, with its disk open for writing?"""
        lives = self.watcher.lives(vm)
        return len(lives) == 1 and lives[0] not in self.before and bool(self.watcher.writers.get(lives[0]))

    # -- waiting

    def wait(self, true: Any, what: str, seconds: float = 90, every: float = 0.5) -> None:
        """Until it is true; tells how the pool is when it is not."""
        try:
            wait_until(true, seconds, what, every=every)
        except LabError as error:
            seen = "?"
            with contextlib.suppress(LabError):
                seen = self.living().attempt("crm_mon", "-1Afnr", "--inactive", timeout=20).output
            raise LabError(f"{error}\nrunning: {self.watcher.running()}\n{seen}") from error

    def wait_for_vms(self, seconds: float = 120) -> None:
        """Until every HA VM runs on exactly one host, and Pacemaker knows it."""

        def settled() -> bool:
            running = self.watcher.running()
            status = self.status()
            return all(status.servers_of(vm["name"]) == (running.get(vm["name"], ""),) for vm in self.vms)

        self.wait(settled, "every HA VM running", seconds)
        self.watcher.expected = {vm["name"] for vm in self.vms}

    def wait_for_members(self, seconds: float = 120, states: tuple[str, ...] = ("online",)) -> None:
        """Until every host is a living member of the pool, in the eyes of each."""

        def settled() -> bool:
            return all(host.is_running and set(self.status(host).members.values()) <= set(states) for host in self.hosts)

        def joined() -> bool:
            with contextlib.suppress(LabError, Exception):
                return settled()
            return False

        self.wait(joined, "all hosts being members", seconds)

    def heal(self) -> None:
        """Make everything whole: power, network, processes, failures that are shown, VMs."""
        self.power.lies = self.power.is_broken = False
        wait_until(lambda: not self.power.is_busy, 60, "the power service being idle")
        for host in self.hosts:
            with contextlib.suppress(OSError, LabError):
                host.thaw()
            if not host.is_running:
                host.power_on()
            host.restore()
        for host in self.hosts:
            host.wait()
            host.attempt("systemctl", "start", *UNITS)
            host.attempt("systemctl", "start", "corosync", "pacemaker")
        self.watcher.victims = set()
        self.wait_for_members(states=("online", "standby"))
        self.evacuated.clear()
        self.apply()
        self.wait_for_members()
        self.agent(self.living(), "clear")
        self.wait_for_vms()
        self.watcher.excused = set()
