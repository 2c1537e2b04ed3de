"""`ha-scale`: Pacemaker's scheduler on 32 servers with 640 HA VMs as Domus configures them, when one server is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from domus_core.cluster.pool import FenceDevice, HaVm, Member, Pool
from domus_core.model.quantities import UNITS

from tests.support.pool_simulation import Simulation

from .measuring import line, median, spread

SERVERS, VMS, ROUNDS = 32, 640, 3
GIB = UNITS["GiB"]


def measure(directory: Path) -> Iterator[str]:
    """Wall time of one `crm_simulate --run`, its start and the reading of the CIB included; it has no peer."""
    cluster = Simulation(directory, pool())
    places = {vm.name: f"srv{number % SERVERS:02}" for number, vm in enumerate(cluster.pool.vms)}
    cluster.show_running(places, probed=True)
    cluster.mark("srv05", False)
    source = directory / "cib.xml"
    cluster.write(source)
    seconds = [_schedule(source, lost="srv05") for dummy in range(ROUNDS)]
    began = time.perf_counter()
    changes = cluster.configure(cluster.pool).changes
    merged = time.perf_counter() - began
    yield line(
        "ha-scale",
        median(seconds),
        None,
        f"spread={spread(seconds)}",
        f"servers={SERVERS}",
        f"vms={VMS}",
        f"merge={merged * 1000:.0f}ms",
        f"changes={len(changes)}",
        "wanted<=3s",
    )


def pool() -> Pool:
    """A pool as a site might have it: CPU groups, tags, some preferences, a fifth of the VMs in anti-affinity pairs."""
    members = tuple(Member(f"srv{number:02}", (f"192.0.2.{number + 1}",), 256 * GIB, 256, frozenset(("ssd",)), cpu_group="rack1") for number in range(SERVERS))
    devices = tuple(FenceDevice(f"bmc-{member.name}", "fence_ipmilan", {member.name: ""}, {"ip": "192.0.2.200"}, ("password",)) for member in members)
    return Pool("rack1", members, devices, tuple(map(_vm, range(VMS))))


def _vm(number: int) -> HaVm:
    return HaVm(
        f"vm{number:03}",
        f"uuid-{number}",
        memory=4 * GIB,
        cpus=2,
        wanted=True,
        priority=number % 4,
        anti_affinity=frozenset((f"pair{number // 10}",)) if number % 10 < 2 else frozenset(),
        server_tags=frozenset(("ssd",)) if number % 3 == 0 else frozenset(),
        cpu_group="rack1",
        preferred_servers=(f"srv{number % SERVERS:02}",) if number % 5 == 0 else (),
    )


def _schedule(source: Path, lost: str) -> float:
    began = time.perf_counter()
    command = ["crm_simulate", "--run", f"--xml-file={source}", f"--node-fail={lost}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    moved = sum(f"{lost} -> " in text for text in done.stdout.splitlines() if "domus-vm-" in text)
    if moved != VMS // SERVERS:
        raise RuntimeError(f"{moved} VMs left the lost server, not {VMS // SERVERS}")
    return seconds
