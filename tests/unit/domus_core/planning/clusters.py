"""Random small clusters for the planners of balancing, and what a plan makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from domus_core.planning.balancing import Move
from domus_core.planning.capacity import Demand, Server
from domus_core.planning.spread import Dimension
from hypothesis import strategies as st

GIB = 1 << 30
TAGS = st.frozensets(st.sampled_from(["ssd", "dmz"]), max_size=1)
GROUPS = st.frozensets(st.sampled_from(["db", "web"]), max_size=1)
CPU_GROUPS = st.sampled_from([None, None, "old", "new"])


def server(name: str, *vms: Demand, **more: Any) -> Server:
    """A server with room for 16 GiB and 16 vCPUs."""
    return Server(**{"id": f"id-{name}", "name": name, "memory": 16 * GIB, "cpus": 16, "vms": vms, **more})


def vm(name: str, gib: int = 1, cpus: int = 1, **more: Any) -> Demand:
    """A VM that needs so much."""
    return Demand(name, cpus, gib * GIB, **more)


def dimensions(servers: Iterable[Server], thresholds: dict[str, float] | None = None, weights: dict[str, float] | None = None) -> list[Dimension]:
    """Memory and vCPUs of the servers."""
    there = list(servers)
    made = []
    for name, field in (("memory", "memory"), ("vcpus", "cpus")):
        loads = {one.name: float(getattr(one, field)) for each in there for one in each.vms}
        capacities = {one.id: float(getattr(one, field) or 0) for one in there}
        made.append(Dimension(name, loads, capacities, (weights or {}).get(name, 1.0), (thresholds or {}).get(name)))
    return made


@st.composite
def clusters(draw: st.DrawFn, rules: bool = True) -> list[Server]:
    """Servers with VMs wherever; with `rules` some break them."""
    count = draw(st.integers(2, 5))
    there: list[list[Demand]] = [[] for _ in range(count)]
    for number in range(draw(st.integers(0, 14))):
        needs: dict[str, Any] = {"gib": draw(st.integers(1, 6)), "cpus": draw(st.integers(1, 4))}
        if rules:
            needs |= {"server_tags": draw(TAGS), "anti_affinity": draw(GROUPS), "cpu_group": draw(CPU_GROUPS)}
        there[draw(st.integers(0, count - 1))].append(vm(f"vm{number:02}", **needs))
    made = []
    for number, vms in enumerate(there):
        more: dict[str, Any] = {}
        if rules:
            more = {"tags": draw(TAGS), "cpu_group": draw(CPU_GROUPS), "closed": draw(st.sampled_from([None, None, None, "is in maintenance"]))}
        made.append(server(f"srv{number}", *vms, memory=draw(st.sampled_from([16, 24])) * GIB, **more))
    return made


def moved(servers: list[Server], moves: Iterable[Move]) -> list[Server]:
    """The servers after the moves; each VM must be where the move takes it from."""
    there = {one.id: {vm.name: vm for vm in one.vms} for one in servers}
    for move in moves:
        there[move.to][move.vm] = there[move.source].pop(move.vm)
    return [dataclasses.replace(one, vms=tuple(there[one.id].values())) for one in servers]


def homes(servers: Iterable[Server]) -> dict[str, str]:
    """Where each VM is."""
    return {vm.name: one.id for one in servers for vm in one.vms}
