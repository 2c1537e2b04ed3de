"""`failover-nfs`: how long a VM is down whose server loses its power, on kernel NFSv4.2: three machines with kernels of their own, the NFS server a fourth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hosts.lab.lab import Lab, lab_name
from tests.hosts.lab.power import PowerService
from tests.hosts.machine_pool import PATIENCE, MachinePool, lease_told

from .measuring import format_seconds, line

# The shortest that the kernel's NFS server is run with in practice; its own is 90 s.
LEASE = 20
VM = "ha0"
# Emulated machines on busy processors: with Domus's own 3000 ms they lose each other for want of time.
TOKEN = 5000
MOST = 300.0


def measure(directory: Path) -> Iterator[str]:
    """From the power cut until the VM has its disk open on another server; `without_nfs`: the same machines on a shared folder, whose locks fall at once."""
    lab = Lab(lab_name("bench-nfs"))
    lab.claim()
    lab.destroy()
    try:
        lab.up()
        with PowerService(lab) as power:
            without, seconds = (_in_pool(lab, power, has_nfs=has_nfs) for has_nfs in (False, True))
        facts = [f"lease={LEASE}s", f"without_nfs={format_seconds(without)}", f"added={format_seconds(max(0.0, seconds - without))}", "wanted_added=<=lease"]
        yield line("failover-nfs", seconds, None, *facts, "vms=1", "runs=1", f"fence={power.seconds:g}s", f"token={TOKEN}ms")
    finally:
        lab.destroy()


def _in_pool(lab: Lab, power: PowerService, *, has_nfs: bool) -> float:
    """Seconds without the VM in a pool of three new machines."""
    with lab.fresh(3 + has_nfs, kind="machine", memory=768, processors=1) as hosts:
        nfs: dict[str, Any] = {"nas": hosts[0], "lease": LEASE, "lock_patience": LEASE + 40} if has_nfs else {}
        with contextlib.closing(MachinePool(lab, hosts[-3:], power, token=TOKEN, **nfs)) as site:
            site.add_vm(VM)
            site.apply()
            site.wait_for_vms(PATIENCE)
            found = _one(site, LEASE if has_nfs else 0)
            if site.watcher.violations:
                raise RuntimeError("; ".join(site.watcher.violations))
            return found


def _one(site: MachinePool, lease: int) -> float:
    victim = site.place(VM)
    told = lease_told(victim)
    if told != lease:
        raise RuntimeError(f"the NFS server has told {victim.name} a lease of {told} s, not of {lease} s")
    site.harm(victim)
    began = time.monotonic()
    victim.power_off()
    site.wait(lambda: site.has_restarted(VM), "the VM running elsewhere", MOST, every=0.1)
    return time.monotonic() - began
