"""What if servers die: where their VMs would start again, and for which there is no room."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Optional

from ..errors import NoCapacity
from .capacity import Demand, Server
from .evacuation import Leaving
from .placement import Planner, largest_first

LOST = "is lost"


def plan_loss(servers: Sequence[Server], lost: Collection[str], vms: Optional[Iterable[Demand]] = None) -> tuple[Leaving, ...]:
    """Where each VM of the lost servers (ids) would be started again, the largest first, or why nowhere; `vms`: only these.

    A VM that starts anew needs no processor like the one it had: only its own rules hold.
    """
    left = [dataclasses.replace(one, closed=LOST, vms=()) if one.id in lost else one for one in servers]
    planner = Planner(left)
    wanted = [vm for one in servers if one.id in lost for vm in one.vms] if vms is None else list(vms)
    return tuple(_restarted(vm, planner) for vm in sorted(wanted, key=largest_first))


def _restarted(vm: Demand, planner: Planner) -> Leaving:
    try:
        placed = planner.place(vm)
    except NoCapacity as error:
        return Leaving(vm.name, error=error)
    return Leaving(vm.name, placed.server, placed.reason)


def unbearable(servers: Sequence[Server], spare: int) -> Optional[str]:
    """Why the servers can not bear the loss of so many of them; None when they can.

    Each is lost by itself with those that hold most memory beside it: all combinations would be too many to look at.
    """
    ranked = sorted((one for one in servers if one.closed is None), key=lambda one: (-sum(vm.memory for vm in one.vms), one.name))
    for first in ranked if spare else ():
        lost = [first, *[one for one in ranked if one is not first][: spare - 1]]
        homeless = [one.vm for one in plan_loss(servers, {one.id for one in lost}) if one.to is None]
        if homeless:
            return f"without {', '.join(sorted(one.name for one in lost))} there is no place for {len(homeless)} VMs, vm {homeless[0]} first"
    return None
