"""`failover`, `failover-nomanager`: how long the VMs of a server that loses its power are down, in a pool of three as Domus configures it.

A manager has taken the servers over: for the first line it runs, for the second it has been killed. The peer is Proxmox VE as its own logs have it.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from domus_core.errors import DomusError

from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab, lab_name
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import PoolSite

from .measuring import format_seconds, line, median, spread

# A member and the coordinator are lost in turn.
ROUNDS, ROUNDS_ALONE, VMS = 10, 4, 10
# Published: the median of 34 recoveries in pve-ha-manager's regression logs, from the power cut to the first service that is started elsewhere.
PEER = 123.0


def measure(directory: Path) -> Iterator[str]:
    """From the power cut until the last of ten VMs has its disk open for writing again."""
    lab = Lab(lab_name("bench-failover"))
    lab.claim()
    lab.destroy()
    try:
        lab.up()
        with lab.fresh(3, disk="3G") as hosts, PowerService(lab) as power:
            site = PoolSite(lab, hosts, power)
            with contextlib.closing(site), contextlib.closing(Fleet(lab, hosts)) as fleet:
                for number in range(VMS):
                    site.add_vm(f"ha{number}")
                site.apply()
                site.wait_for_vms()
                site.watcher.silence = math.inf  # how long they are off is what is measured, and no fault
                yield _measured("failover", site, ROUNDS)
                _require_manager(fleet, True)
                kill_manager(fleet)
                yield _measured("failover-nomanager", site, ROUNDS_ALONE)
                _require_manager(fleet, False)
    finally:
        lab.destroy()


def kill_manager(fleet: Fleet) -> None:
    """End everything of the manager at once, as a power cut of its machine does."""
    for process in ("nginx", "manager", "runner"):
        fleet.stack.end(process, signal.SIGKILL)
    _require_manager(fleet, False)


def _require_manager(fleet: Fleet, is_there: bool) -> None:
    """Raise RuntimeError when the manager answers and should not, or the other way round: the figure would be of something else."""
    try:
        answers = bool(fleet.servers())
    except (DomusError, OSError):
        answers = False
    if answers != is_there:
        raise RuntimeError(f"the manager {'answers' if answers else 'does not answer'}")


def _measured(name: str, site: PoolSite, rounds: int) -> str:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        coordinator = number % 2 == 1
        seconds[coordinator].append(_one(site, coordinator))
        site.heal()
    if site.watcher.violations:
        raise RuntimeError("; ".join(site.watcher.violations))
    every = [*seconds[False], *seconds[True]]
    facts = [f"worst={format_seconds(max(every))}", f"spread={spread(every)}", "wanted=<=20s", "wanted_worst=<=35s"]
    facts += [f"member={format_seconds(median(seconds[False]))}", f"coordinator={format_seconds(median(seconds[True]))}"]
    return line(name, median(every), PEER, *facts, f"vms={VMS}", f"runs={rounds}", f"fence={site.power.seconds:g}s", f"token={site.token}ms")


def _one(site: PoolSite, coordinator: bool) -> float:
    victim = next(host for host in site.hosts if (host.name == site.status().coordinator) == coordinator)
    _gather(site, victim)
    site.harm(victim)
    began = time.monotonic()
    victim.power_off()
    site.wait(lambda: all(site.has_restarted(vm["name"]) for vm in site.vms), "every VM running again", 180, every=0.1)
    return time.monotonic() - began


def _gather(site: PoolSite, host: Host) -> None:
    """Move all VMs to one host, live; they stay there when the others take VMs again."""
    site.evacuate(*(other for other in site.hosts if other is not host))
    site.wait(lambda: set(site.watcher.running().values()) == {host.name}, f"all VMs on {host.name}", 180)
    site.evacuate()
    site.wait_for_vms()
