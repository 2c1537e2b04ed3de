"""Placement: on which server a VM is to be made, or moved to; why there, and why nowhere else.

Best fit is the balanced one: the server whose fuller half, memory or vCPUs, is least full with the VM on it; of equals the first by name.
A batch is placed largest VM first, so it does not depend on the order of a document. Nothing is tried twice: a VM is refused
when no server that may take it has room left after those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Optional, Union

from ..errors import NoCapacity
from ..model.quantities import UNITS
from .capacity import Demand, Server

IN_MAINTENANCE = "is in maintenance"
MOST_NAMED, MOST_REASONS = 3, 20
_GIB, _MIB = UNITS["GiB"], UNITS["MiB"]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a VM goes, by server id, and why."""

    server: str
    reason: str


class Room:
    """A server while VMs are being placed: what is left of it, and who is there."""

    __slots__ = ("cpus", "cpus_used", "groups", "index", "memory", "memory_used", "placed", "server")

    def __init__(self, index: int, server: Server) -> None:
        self.index, self.server = index, server
        self.placed: list[Demand] = []
        self.memory, self.cpus = server.memory or 0, server.cpus or 0
        self.memory_used = sum(vm.memory for vm in server.vms)
        self.cpus_used = sum(vm.cpus for vm in server.vms)
        self.groups: dict[str, str] = {group: vm.name for vm in server.vms for group in vm.anti_affinity}

    def take(self, vm: Demand) -> None:
        self.placed.append(vm)
        self.memory_used += vm.memory
        self.cpus_used += vm.cpus
        self.groups.update(dict.fromkeys(vm.anti_affinity, vm.name))


class Planner:
    """Places VMs on servers one after the other; each takes the room of those that come later."""

    def __init__(self, servers: Iterable[Server]) -> None:
        ordered = sorted(servers, key=lambda one: (one.name, one.id))
        self._rooms = [Room(index, server) for index, server in enumerate(ordered)]
        self._permitted: dict[tuple[object, ...], list[Room]] = {}

    def place(self, vm: Demand) -> Placement:
        """Where the VM goes; its room is taken. Raises NoCapacity with the reason of every server."""
        permitted = self._permitting(vm)
        best = self._choose(vm, permitted)
        if best is None:
            raise self._refusal(vm)
        reason = _why(vm, best, len(permitted), len(self._rooms))
        best.take(vm)
        return Placement(best.server.id, reason)

    def reasons(self, vm: Demand) -> dict[str, Optional[str]]:
        """Per server id why it can not take the VM now; None for those that can."""
        return {room.server.id: rule_broken(vm, room.server) or self._lack(vm, room) for room in self._rooms}

    def _choose(self, vm: Demand, permitted: Iterable[Room]) -> Optional[Room]:
        return least_full(vm, permitted)

    def _lack(self, vm: Demand, room: Room) -> Optional[str]:
        return no_room(vm, room)

    def _permitting(self, vm: Demand) -> list[Room]:
        """The servers that no lasting rule forbids: worked out once for all VMs that ask for the same."""
        key = (vm.server_tags, vm.cpu_group, vm.pool, vm.needs, vm.avoid)
        if key not in self._permitted:
            self._permitted[key] = [room for room in self._rooms if rule_broken(vm, room.server) is None]
        return self._permitted[key]

    def _refusal(self, vm: Demand) -> NoCapacity:
        if not self._rooms:
            return NoCapacity("there is no server to put it on", field="server", remedy="Take one over first: domus server add")
        names = {room.server.id: room.server.name for room in self._rooms}
        told = told_reasons({names[id]: reason or "" for id, reason in self.reasons(vm).items()})
        return NoCapacity(f"no server can take it: {told}", field="server", remedy="Make room, ask for less, or change the rules that forbid it")


def place_all(vms: Iterable[Demand], servers: Iterable[Server], planners: type[Planner] = Planner) -> dict[str, Union[Placement, NoCapacity]]:
    """Where each VM of a batch goes, or why it goes nowhere, by name; `planners` makes the planner that places them."""
    planner = planners(servers)
    placed: dict[str, Union[Placement, NoCapacity]] = {}
    for vm in sorted(vms, key=largest_first):
        try:
            placed[vm.name] = planner.place(vm)
        except NoCapacity as error:
            placed[vm.name] = error
    return placed


def choose_destination(vm: Demand, servers: Sequence[Server], source: str, reservations: Mapping[str, Sequence[Demand]]) -> Placement:
    """Where a VM moves that must leave its server (by id); `reservations` are promised to servers by moves under way. Raises NoCapacity.

    It moves only within its CPU compatibility group.
    """
    return Planner(candidates(servers, source, reservations)).place(vm)


def candidates(servers: Sequence[Server], source: str, reservations: Mapping[str, Sequence[Demand]]) -> list[Server]:
    """The servers as a VM that leaves its server sees them: what is promised is taken, and those of another CPU are closed."""
    left = next((one for one in servers if one.id == source), None)
    seen = []
    for server in servers:
        closed = server.closed or (None if left is None else not_movable(left, server))
        taken = (*server.vms, *(vm for vm in reservations.get(server.id, ()) if vm.name not in {one.name for one in server.vms}))
        seen.append(dataclasses.replace(server, closed=closed, vms=taken))
    return seen


def not_movable(source: Server, server: Server) -> Optional[str]:
    """Why a running VM can not move between these servers, whichever it is; None when it can."""
    if server.id == source.id:
        return "it is there now"
    if source.cpu_group is not None and server.cpu_group is not None and server.cpu_group != source.cpu_group:
        return f"is of CPU group {server.cpu_group}, not {source.cpu_group}"
    return None


def largest_first(vm: Demand) -> tuple[int, int, str]:
    """The order in which VMs are placed and moved: the largest is the hardest to place."""
    return (-vm.memory, -vm.cpus, vm.name)


def rule_broken(vm: Demand, server: Server) -> Optional[str]:
    """Why the VM may not be on this server however empty it is; None when it may. Anti-affinity is not looked at."""
    if server.closed is not None:
        return server.closed
    for avoided, reason in sorted(vm.avoid):
        if avoided == server.id:
            return reason
    if vm.pool is not None and vm.pool != server.pool:
        return f"is in pool {server.pool}" if server.pool else "is in no pool"
    lacking = sorted(vm.server_tags - server.tags)
    if lacking:
        return f"lacks tag {' and '.join(lacking)}"
    if vm.cpu_group is not None and vm.cpu_group != server.cpu_group:
        return f"is of CPU group {server.cpu_group}" if server.cpu_group else "is of no CPU group"
    missing = sorted(vm.needs - server.offers)
    if missing:
        return "has no " + " and no ".join(f"{kind.replace('_', ' ')} {key}" for kind, key in missing[:MOST_NAMED])
    return None if server.memory is not None and server.cpus is not None else "has not told how much memory it has"


def broken_by_name(vm: Demand, server: Server) -> Optional[str]:
    """The same for a server that was named: who names it answers for its room, but not for its rules; that it is silent comes out by itself."""
    closed = server.closed if server.closed == IN_MAINTENANCE else None
    return rule_broken(vm, dataclasses.replace(server, closed=closed, memory=0, cpus=0)) or separated_from(vm, server)


def separated_from(vm: Demand, server: Server) -> Optional[str]:
    """Why an anti-affinity group of the VM forbids this server; None when none does."""
    for other in server.vms:
        for group in sorted(vm.anti_affinity & other.anti_affinity):
            if other.name != vm.name:
                return f"has vm {other.name} of anti-affinity group {group}"
    return None


def no_room(vm: Demand, room: Room) -> Optional[str]:
    for group in sorted(vm.anti_affinity):
        if group in room.groups:
            return f"has vm {room.groups[group]} of anti-affinity group {group}"
    if room.memory_used + vm.memory > room.memory:
        return f"{_size(max(0, room.memory - room.memory_used))} of memory free, {_size(-vm.memory)} needed"
    if room.cpus_used + vm.cpus > room.cpus:
        return f"{max(0, room.cpus - room.cpus_used)} vCPUs free, {vm.cpus} needed"
    return None


def least_full(vm: Demand, rooms: Iterable[Room]) -> Optional[Room]:
    """The innermost loop: for 1,000 VMs on 256 servers it looks at a quarter of a million rooms."""
    memory, cpus, groups = vm.memory, vm.cpus, vm.anti_affinity
    best, least = None, 2.0
    for room in rooms:
        memory_then, cpus_then = room.memory_used + memory, room.cpus_used + cpus
        if memory_then > room.memory or cpus_then > room.cpus or (groups and not groups.isdisjoint(room.groups)):
            continue
        full = max(memory_then / room.memory, cpus_then / room.cpus)
        if full < least:
            best, least = room, full
    return best


def _why(vm: Demand, room: Room, permitted: int, known: int) -> str:
    memory, cpus = (room.memory_used + vm.memory) * 100 // room.memory, (room.cpus_used + vm.cpus) * 100 // room.cpus
    of = f"the least full of {permitted} servers that may take it" if permitted > 1 else "the only server that may take it"
    others = f" ({known} are known)" if known > permitted else ""
    return f"{of}{others}: with it {memory} % of the memory and {cpus} % of the vCPUs are placed"


def told_reasons(reasons: Mapping[str, str]) -> str:
    """The reasons of servers by name as one text; servers with the same reason share it."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    told = [f"{_names(names)}: {reason}" for reason, names in list(by_reason.items())[:MOST_REASONS]]
    left = sum(len(names) for names in list(by_reason.values())[MOST_REASONS:])
    return "; ".join(told + ([f"and {left} more servers likewise full or forbidden"] if left else []))


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _size(size: int) -> str:
    """A size with one decimal, rounded down; that of a negative number is rounded up: so what is free never looks as large as what is needed."""
    unit, name = (_GIB, "GiB") if abs(size) >= _GIB else (_MIB, "MiB")
    tenths = abs(size * 10 // unit)
    return f"{tenths // 10}.{tenths % 10} {name}" if tenths % 10 else f"{tenths // 10} {name}"
