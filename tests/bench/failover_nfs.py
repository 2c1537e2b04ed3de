"""`failover-nfs`: how long a VM is down whose server loses its power, on kernel NFSv4.2: three machines with kernels of their own, the NFS server a fourth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hosts.lab.lab import Lab, lab_name
from tests.hosts.lab.power import PowerService
from tests.hosts.machine_pool import PATIENCE, MachinePool, lease_told

from .measuring import format_seconds, line, median, spread

# The shortest that the kernel's NFS server is run with in practice; its own is 90 s.
LEASE = 20
ROUNDS, VM = 1, "ha0"
# Emulated machines on busy processors: with Domus's own 3000 ms they lose each other for want of time.
TOKEN = 5000
MOST = 300.0


def measure(directory: Path) -> Iterator[str]:
    """From the power cut until the VM has its disk open on another server."""
    lab = Lab(lab_name("bench-nfs"))
    lab.claim()
    lab.destroy()
    try:
        lab.up()
        with lab.fresh(4, kind="machine", memory=768, processors=1) as hosts, PowerService(lab) as power:
            site = MachinePool(lab, hosts[1:], power, nas=hosts[0], lease=LEASE, token=TOKEN, lock_patience=LEASE + 40)
            with contextlib.closing(site):
                site.add_vm(VM)
                site.apply()
                site.wait_for_vms(PATIENCE)
                yield _measured(site)
    finally:
        lab.destroy()


def _measured(site: MachinePool) -> str:
    seconds = []
    for number in range(ROUNDS):
        seconds.append(_one(site))
        if number + 1 < ROUNDS:
            site.heal()
    if site.watcher.violations:
        raise RuntimeError("; ".join(site.watcher.violations))
    facts = [f"spread={spread(seconds)}", f"lease={LEASE}s", f"beyond_lease={format_seconds(max(0.0, median(seconds) - LEASE))}", "wanted=<=failover+lease"]
    return line("failover-nfs", median(seconds), None, *facts, "vms=1", f"runs={len(seconds)}", f"fence={site.power.seconds:g}s", f"token={site.token}ms")


def _one(site: MachinePool) -> float:
    victim = site.place(VM)
    told = lease_told(victim)
    if told != LEASE:
        raise RuntimeError(f"the NFS server has told {victim.name} a lease of {told} s")
    site.harm(victim)
    began = time.monotonic()
    victim.power_off()
    site.wait(lambda: site.has_restarted(VM), "the VM running elsewhere", MOST, every=0.1)
    return time.monotonic() - began
