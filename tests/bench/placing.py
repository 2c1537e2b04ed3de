"""`place`: where 1,000 new VMs go on 256 servers that hold 5,000 already."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from domus_core.planning.capacity import Demand, Server
from domus_core.planning.placement import Placement, place_all

from .measuring import line, median, spread

VMS, SERVERS, THERE, ROUNDS = 1000, 256, 5000, 5
GIB = 1 << 30


def measure(directory: Path) -> Iterator[str]:
    """Wall time of `place_all` in a process that has it loaded, every VM placed; it has no peer."""
    seconds = []
    for seed in range(ROUNDS):
        vms, servers = _site(random.Random(seed))
        began = time.perf_counter()
        placed = place_all(vms, servers)
        seconds.append(time.perf_counter() - began)
        if not all(isinstance(one, Placement) for one in placed.values()):
            raise RuntimeError("a VM had no place")
    yield line("place", median(seconds), None, f"spread={spread(seconds)}", f"vms={VMS}", f"servers={SERVERS}", "wanted<=1s")


def _site(chance: random.Random) -> tuple[list[Demand], list[Server]]:
    """Of the VMs one in two asks for a tag, one in five is of an anti-affinity group of four."""
    there: list[list[Demand]] = [[] for _ in range(SERVERS)]
    for number in range(THERE):
        there[number % SERVERS].append(_vm(f"old{number}", chance))
    tags = [frozenset({f"rack{number % 8}", "ssd"} if number % 2 else {f"rack{number % 8}"}) for number in range(SERVERS)]
    servers = [Server(f"id{number:03}", f"srv{number:03}", memory=256 * GIB, cpus=256, tags=tags[number], vms=tuple(vms)) for number, vms in enumerate(there)]
    asked = [frozenset({"ssd"}) if number % 2 else frozenset[str]() for number in range(VMS)]
    groups = [frozenset({f"group{number // 20}"}) if number % 5 == 0 else frozenset[str]() for number in range(VMS)]
    return [_vm(f"new{number}", chance, asked[number], groups[number]) for number in range(VMS)], servers


def _vm(name: str, chance: random.Random, tags: frozenset[str] = frozenset(), group: frozenset[str] = frozenset()) -> Demand:
    return Demand(name, chance.choice([1, 2, 4, 8]), chance.choice([1, 2, 4, 8, 16]) * GIB, tags, group)
