"""A clustered pool of test hosts with kernels of their own: its VMs are seen from inside of each host, by a network card that no cut concerns."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tests.hosts import libvirt_tls
from tests.hosts.lab.commands import LabError
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import FOLDER, PoolSite

# Which QEMU has which disk open, one line for each: what counts is the kernel's word, not libvirt's.
LOOK = f"""for pid in $(pgrep '^qemu-system'); do
  ls -l /proc/$pid/fd 2>/dev/null | sed -n 's,.* -> {FOLDER}/VirtualDisks/\\(.*\\)[.]img$,\\1,p' | sort -u
done; true"""
# How long a machine without hardware virtualization may take for what takes a real one a second or two.
PATIENCE = 240.0
EVERY = 0.3


class MachineWatcher:
    """Looks at each host that answers until it is closed; `violations` has every VM that had its disk open on two hosts at once."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.violations: list[str] = []
        self.victims: set[str] = set()
        self.expected: set[str] = set()
        self.looks = 0
        self._hosts = list(hosts)
        self._seen: dict[str, set[str]] = {}
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(host,), daemon=True) for host in self._hosts]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it."""
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def running(self) -> dict[str, str]:
        """Which VM had its disk open on which host when that was looked at last; on two, both: `m1+m2`."""
        places: dict[str, str] = {}
        for name, vms in sorted(self._seen.items()):
            for vm in vms:
                places[vm] = f"{places[vm]}+{name}" if vm in places else name
        return places

    def vms_on(self, host: Host) -> set[str]:
        """The VMs that had their disks open on a host when it was looked at last."""
        return set(self._seen.get(host.name, ()))

    def _look(self, host: Host) -> None:
        """One host, over and over; one that is off has no VM, of one that does not answer the last look stays."""
        while not self._end.wait(EVERY):
            done = host.attempt("sh", "-c", LOOK, timeout=30) if host.is_running else None
            if done is None:
                self._seen[host.name] = set()
            elif done.code == 0:
                self._seen[host.name] = set(done.output.split())
                self.looks += 1
                self._compare(host)

    def _compare(self, host: Host) -> None:
        """The other one is looked at once more, and then this one: a VM that is there each time runs beside itself."""
        vms = self._seen[host.name]
        for other in self._hosts:
            if other is not host and vms & self._seen.get(other.name, set()) and other.is_running:
                again = [one.attempt("sh", "-c", LOOK, timeout=30) for one in (other, host)]
                both = vms.intersection(*(set(done.output.split()) if done.code == 0 else set() for done in again))
                self.violations += [f"{vm} has its disk open on {host.name} and on {other.name}" for vm in sorted(both)]


class MachinePool(PoolSite):
    """The pool of `hosts`, machines; its file system is the lab's shared folder, or, with `nas`, kernel NFS of that machine."""

    watcher: Any
    patience = PATIENCE

    def __init__(self, lab: Lab, hosts: Sequence[Host], power: PowerService, *, nas: Host | None = None, lease: int = 0, **pool: Any) -> None:
        self.nas, self.lease_seconds = nas, lease
        super().__init__(lab, hosts, power, **pool)

    def _watch(self) -> Any:
        return MachineWatcher(self.hosts)

    def _prepare_all(self) -> None:
        """All at once: each takes long."""
        if self.nas is not None:
            _export(self.nas, self.lease_seconds)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.prepare, self.hosts))
        libvirt_tls.enable(*self.hosts, patience=PATIENCE)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda host: host.run("systemctl", "start", "libvirtd.service", timeout=PATIENCE), self.hosts))

    def form(self) -> dict[str, Any]:
        """As in containers; and what was written is there after a power cut."""
        formed = super().form()
        for host in self.hosts:
            host.run("sync", timeout=PATIENCE)
        return formed

    def prepare(self, host: Host) -> None:
        """As in a container; and NFS in place of the shared folder."""
        if self.nas is not None:
            row = f"{self.nas.address}:/export/pool {FOLDER} nfs4 vers=4.2,hard,lookupcache=none,_netdev,nofail 0 0"
            host.shell(f"mkdir -p {FOLDER}; echo {row} >>/etc/fstab; mount {FOLDER}", timeout=PATIENCE)
        else:  # the shared folder lets nobody write the attributes in which libvirt remembers owners
            host.shell("echo 'remember_owner = 0' >>/etc/libvirt/qemu.conf")
        super().prepare(host)
        # On a real server the agent keeps libvirtd up; an emulated one takes long to start it.
        host.shell("echo 'LIBVIRTD_ARGS=\"\"' >/etc/default/libvirtd")

    def place_file(self, path: str, content: bytes) -> None:
        """Put a file of the pool where it is served from."""
        if self.nas is None:
            super().place_file(path, content)
        else:
            self.nas.write(f"/export/pool/{path}", content.decode())

    def has_restarted(self, vm: str) -> bool:
        """Does it run on one host that is not harmed, with its disk open?"""
        places = [host.name for host in self.hosts if vm in self.watcher.vms_on(host)]
        return len(places) == 1 and places[0] not in self.watcher.victims

    def place(self, vm: str) -> Host:
        """The host where a VM runs."""
        (name,) = [host.name for host in self.hosts if vm in self.watcher.vms_on(host)]
        return self.host(name)

    def harm(self, host: Host) -> None:
        """Say that a host is going to be harmed."""
        self.watcher.victims.add(host.name)


def _export(nas: Host, lease: int) -> None:
    """Be the NFS server of the pool file system; a lease of 0 is the kernel's own (90 s)."""
    nas.write("/etc/exports", "/export/pool *(rw,no_root_squash,no_subtree_check,sync)\n")
    if lease:
        nas.write("/etc/nfs.conf.d/lab.conf", f"[nfsd]\nlease-time={lease}\ngrace-time={lease}\n")
    folders = " ".join(f"/export/pool/{name}" for name in ("records", "lockspace", "VirtualDisks"))
    nas.shell(f"mkdir -p {folders}; systemctl start nfs-server", timeout=PATIENCE)


def lease_told(host: Host) -> int:
    """The lease that the NFS server has told this client, in seconds; 0: no NFS there."""
    found = re.search(r"lease_time=(\d+)", host.read("/proc/self/mountstats"))
    return int(found[1]) if found else 0


def wait_until_resets(host: Host, before: str, seconds: float) -> float:
    """Seconds until a host that is not asked to has booted again. Raises LabError when it has not by then."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with suppress(LabError):
            now = host.attempt("cat", "/proc/sys/kernel/random/boot_id", timeout=5)
            if now.code == 0 and now.output.strip() != before:
                return time.monotonic() - began
        time.sleep(0.5)
    raise LabError(f"{host.name} has not reset itself within {seconds:g} s:\n{host.console.read_text(errors='replace')[-1500:]}")
