"""Evacuation: where the VMs of a server go that is to be emptied."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

from ..errors import NoCapacity
from .capacity import Demand, Server
from .placement import Planner, candidates, largest_first


@dataclasses.dataclass(frozen=True)
class Leaving:
    """A VM that leaves: to which server (id) and why there, or why it can not."""

    vm: str
    to: Optional[str] = None
    reason: str = ""
    error: Optional[NoCapacity] = None


def plan_evacuation(vms: Iterable[Demand], servers: Sequence[Server], source: str, reservations: Mapping[str, Sequence[Demand]]) -> tuple[Leaving, ...]:
    """Where each VM of the source (a server's id) goes, in the order in which they are moved: the largest first, while there is room everywhere.

    Each takes the room of those after it; what is promised to servers by moves under way is `reservations`.
    """
    planner = Planner(candidates(servers, source, reservations))
    return tuple(_leaving(vm, planner) for vm in sorted(vms, key=largest_first))


def _leaving(vm: Demand, planner: Planner) -> Leaving:
    try:
        placed = planner.place(vm)
    except NoCapacity as error:
        return Leaving(vm.name, error=error)
    return Leaving(vm.name, placed.server, placed.reason)
