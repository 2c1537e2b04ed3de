"""Spare room: new VMs leave so much of a pool free that it bears the loss of as many servers as its policy says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Optional

from .capacity import Demand, Server
from .loss import unbearable
from .placement import Planner, Room, least_full, no_room


class SparePlanner(Planner):
    """Places new VMs; a server whose pool could not bear such a loss with the VM on it does not do for it.

    What moves or is started anew needs no spare room: that is what it is kept for.
    """

    def _choose(self, vm: Demand, permitted: Iterable[Room]) -> Optional[Room]:
        left = list(permitted)
        while (best := least_full(vm, left)) is not None and self._spends(vm, best) is not None:
            left.remove(best)
        return best

    def _lack(self, vm: Demand, room: Room) -> Optional[str]:
        return no_room(vm, room) or self._spends(vm, room)

    def _spends(self, vm: Demand, room: Room) -> Optional[str]:
        """Why the pool of this server could not bear the loss with the VM on it; None when it can, or need not."""
        spare, pool = room.server.spare_servers, room.server.pool
        if not spare:
            return None
        members = [_as_server(one, (vm,) if one is room else ()) for one in self._rooms if one.server.pool == pool]
        short = unbearable(members, spare)
        kept = "a server" if spare == 1 else f"{spare} servers"
        return None if short is None else f"room is kept for the loss of {kept}: {short}"


def _as_server(room: Room, more: tuple[Demand, ...]) -> Server:
    return dataclasses.replace(room.server, vms=(*room.server.vms, *room.placed, *more))
