"""Power management (DPM): the load on as few servers as carry it, the others switched off, and woken when they are needed.

A round does one of three things: it wakes a server, where that helps one that is too full or because no loss can be borne; it relieves
servers as balancing does; or it empties the least loaded server onto the others, and switches it off once it is empty. The server that is
being emptied stays the least loaded one, so a round that was broken off is gone on with by the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Optional, Union

from .balancing import Aims, Move, after, plan_balance
from .capacity import Demand, Server
from .cluster_state import Cluster
from .loss import unbearable
from .placement import largest_first
from .spread import Dimension

WAKE, POWER_OFF = "wake", "power off"
OFF = "is switched off"


@dataclasses.dataclass(frozen=True)
class Switch:
    """A server (id) that is to be woken or switched off, and why."""

    action: str
    server: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Round:
    """What is to be done now: moves first, then switches; `waiting` says why nothing more is saved."""

    moves: tuple[Move, ...] = ()
    switches: tuple[Switch, ...] = ()
    waiting: str = ""


def plan_power(
    servers: Sequence[Server],
    asleep: Collection[str],
    dimensions: Sequence[Dimension],
    aims: Aims,
    *,
    fixed: Collection[str] = (),
    least_on: int = 1,
    may_sleep: Optional[Collection[str]] = None,
) -> Round:
    """The next round. `asleep` are the servers (ids) that were switched off by this and can be woken, `may_sleep` those that may be
    switched off (None: all). The dimensions' thresholds say how full servers may get."""
    awake = [one for one in servers if one.id not in asleep]
    sleeping = sorted((one for one in servers if one.id in asleep), key=lambda one: (one.name, one.id))
    relief, short = plan_balance(awake, dimensions, aims, fixed), unbearable(awake, aims.spare_servers)
    if short is not None and sleeping:
        return Round(relief.moves, (Switch(WAKE, sleeping[0].id, short),))
    woken = _helper(awake, sleeping, dimensions, aims, fixed)
    if woken is not None:
        return Round(relief.moves, (woken,))
    if relief.moves or short is not None:
        return Round(relief.moves, waiting="" if short is None else f"{short}, and no server is asleep")
    return _saving(Cluster(awake, dimensions, fixed), dimensions, aims, least_on, may_sleep)


def _helper(awake: Sequence[Server], sleeping: Sequence[Server], dimensions: Sequence[Dimension], aims: Aims, fixed: Collection[str]) -> Optional[Switch]:
    """The first sleeping server that would be of use where the others can not help themselves: to a server that is too full, or a misplaced VM."""
    whole = dataclasses.replace(aims, most_moves=sum(len(one.vms) for one in awake))
    settled = Cluster(after(awake, plan_balance(awake, dimensions, whole, fixed).moves), dimensions, fixed)
    need = _need(settled)
    for one in sleeping if need is not None else ():
        opened = [*settled.as_servers(), dataclasses.replace(one, closed=None)]
        if any(move.to == one.id for move in plan_balance(opened, dimensions, whole, fixed).moves):
            return Switch(WAKE, one.id, str(need))
    return None


def _need(cluster: Cluster) -> Optional[str]:
    """What is wrong with the servers; None when nothing is."""
    for number, one in enumerate(cluster.servers):
        if (over := cluster.spread.over(number)) is not None:
            return f"{one.name} is above the threshold of {over}"
        if cluster.overfull(number):
            return f"{one.name} promises more than it has"
        for vm, why in cluster.misplaced(number):
            return f"vm {vm.name} may not be on {one.name}: that {why}"
    return None


def _saving(cluster: Cluster, dimensions: Sequence[Dimension], aims: Aims, least_on: int, may_sleep: Optional[Collection[str]]) -> Round:
    """Empty the least loaded server that may sleep, or switch it off. One that can not be emptied for want of room ends it: fuller ones can even less."""
    running = [number for number, one in enumerate(cluster.servers) if one.closed is None]
    candidates = [number for number in running if may_sleep is None or cluster.servers[number].id in may_sleep]
    candidates = [number for number in candidates if not _bound(cluster, number)]
    if len(running) <= least_on:
        return Round(waiting=f"{least_on} servers are to stay on")
    if not candidates:
        return Round(waiting="every server has a VM that can not move, may not be switched off, or was not seen to be able to be woken again")
    chosen = min(candidates, key=lambda number: (cluster.memory[number], cluster.cpus[number], cluster.servers[number].name))
    name, emptied = cluster.servers[chosen].name, _emptied(cluster, chosen)
    if isinstance(emptied, str):
        return Round(waiting=f"{name} is the least loaded, but {emptied}")
    left = [one for number, one in enumerate(cluster.as_servers()) if number != chosen]
    short = unbearable(left, aims.spare_servers)
    if short is not None:
        return Round(waiting=f"{name} is the least loaded, but {short}")
    off = (Switch(POWER_OFF, cluster.servers[chosen].id, "its VMs have room on the others"),) if len(emptied) <= aims.most_moves else ()
    return Round(tuple(emptied[: aims.most_moves]), off)


def _bound(cluster: Cluster, number: int) -> bool:
    """Is there a VM that no room elsewhere would help, or one elsewhere that may not be where it is, and may be here? Such a server never sleeps."""
    there = cluster.vms[number].values()
    if any(vm.name in cluster.fixed or not cluster.permitted(vm, number) - {number} for vm in there):
        return True
    others = (other for other in range(len(cluster.servers)) if other != number)
    return any(number in cluster.permitted(vm, other) for other in others for vm, dummy in cluster.misplaced(other))


def _emptied(cluster: Cluster, source: int) -> Union[list[Move], str]:
    """The moves that empty the server; the cluster is as it is then. Or why not all can go."""
    moves: list[Move] = []
    for vm in sorted(cluster.vms[source].values(), key=largest_first):
        target = _fullest(cluster, vm, source)
        if target is None:
            return f"there is no room for vm {vm.name} below the thresholds"
        one = cluster.servers[target]
        cluster.move(vm.name, source, target)
        moves.append(Move(vm.name, cluster.servers[source].id, one.id, f"{cluster.servers[source].name} can be switched off without it", cluster.spread.score))
    return moves


def _fullest(cluster: Cluster, vm: Demand, source: int) -> Optional[int]:
    """The server with the least memory left that takes it."""
    targets = [one for one in cluster.targets(vm, source, range(len(cluster.servers))) if cluster.spread.over(one, vm.name) is None]
    return min(targets, key=lambda one: ((cluster.servers[one].memory or 0) - cluster.memory[one], cluster.servers[one].name), default=None)
