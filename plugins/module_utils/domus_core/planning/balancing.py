"""Balancing (DRS): which VMs move so that rules hold again and servers are evenly used, a step after the other, each with its reason.

Each step is the best that can be seen from where things are: first what breaks a rule, then what lowers the score most. Nothing is remembered
from step to step, so a plan that is broken off and made anew ends in the same place.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import mul
from typing import Optional

from .capacity import Demand, Server
from .cluster_state import Cluster
from .placement import largest_first
from .spread import Dimension

# How many VMs are looked at more closely at a time, until one is found, and at most; and how many servers for each.
LOOKS, MOST_LOOKS, MOST_TARGETS = 24, 192, 4
# A step that lowers the score by less may be one of rounding.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Aims:
    """What balancing is to reach.

    Shares that are within the tolerance of the mean are equal; a step lowers the score by such a part of it at least; with so many servers
    lost there is room for what was on them, if there was before.
    """

    most_moves: int = 10
    tolerance: float = 0.05
    least_gain: float = 0.001
    spare_servers: int = 0


@dataclasses.dataclass(frozen=True)
class Move:
    """One VM that moves, from and to servers by id, and why; `score` is what the score is then."""

    vm: str
    source: str
    to: str
    reason: str
    score: float = 0.0


@dataclasses.dataclass(frozen=True)
class Balance:
    """A plan: the moves in their order, the score before and after, and why VMs stay that are where they may not be."""

    moves: tuple[Move, ...]
    before: float
    after: float
    stuck: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Step:
    vm: Demand
    source: int
    target: int
    reason: str


def plan_balance(servers: Sequence[Server], dimensions: Sequence[Dimension], aims: Aims, fixed: Collection[str] = ()) -> Balance:
    """The moves that mend broken rules and spread the load, at most so many; `fixed` are VMs (by name) that are not to move."""
    cluster = Cluster(servers, dimensions, fixed)
    before, moves = cluster.spread.score, list[Move]()
    while len(moves) < aims.most_moves:
        step = next(_mending(cluster), None) or _spreading(cluster, aims)
        if step is None:
            break
        source, to = cluster.servers[step.source], cluster.servers[step.target]
        cluster.move(step.vm.name, step.source, step.target)
        moves.append(Move(step.vm.name, source.id, to.id, step.reason, cluster.spread.score))
    return Balance(tuple(moves), before, cluster.spread.score, dict(_stuck(cluster)))


def after(servers: Sequence[Server], moves: Sequence[Move]) -> list[Server]:
    """The servers once the moves are made."""
    there = {one.id: {vm.name: vm for vm in one.vms} for one in servers}
    for move in moves:
        there[move.to][move.vm] = there[move.source].pop(move.vm)
    return [dataclasses.replace(one, vms=tuple(there[one.id].values())) for one in servers]


def _mending(cluster: Cluster) -> Iterator[_Step]:
    """What puts an end to a broken rule: a VM that may not be where it is, then a server that promises more than it has."""
    everywhere = range(len(cluster.servers))
    for vm, source, why in sorted(_misplaced(cluster), key=lambda one: largest_first(one[0])):
        target = _least_score(cluster, vm, source, cluster.targets(vm, source, everywhere))
        if target is not None and vm.name not in cluster.fixed:
            yield _Step(vm, source, target, f"it may not be on {cluster.servers[source].name}: that {why}")
    for source in filter(cluster.overfull, everywhere):
        for vm in sorted(cluster.movable(source), key=largest_first):
            target = _least_score(cluster, vm, source, cluster.targets(vm, source, everywhere))
            if target is not None:
                yield _Step(vm, source, target, f"{cluster.servers[source].name} promises more than it has")


def _misplaced(cluster: Cluster) -> Iterator[tuple[Demand, int, str]]:
    for source in range(len(cluster.servers)):
        for vm, why in cluster.misplaced(source):
            yield vm, source, why


def _stuck(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """VMs that break a rule and have nowhere to go."""
    for vm, source, why in _misplaced(cluster):
        if vm.name in cluster.fixed:
            yield vm.name, f"{cluster.servers[source].name} {why}, and it is not to move"
        elif not cluster.targets(vm, source, range(len(cluster.servers))):
            yield vm.name, f"{cluster.servers[source].name} {why}, and no other server can take it"


def _least_score(cluster: Cluster, vm: Demand, source: int, targets: Sequence[int]) -> Optional[int]:
    return min(targets, key=lambda one: (cluster.spread.after(vm.name, source, one), one), default=None)


def _spreading(cluster: Cluster, aims: Aims) -> Optional[_Step]:
    """The move that lowers the score most among the most promising ones, if that is enough, of those that keep what is to be kept free."""
    field, spread = _Field(cluster, aims), cluster.spread
    spares = aims.spare_servers if aims.spare_servers and cluster.bears_loss_of(aims.spare_servers) else 0
    best, found = field.least, None
    for look, (name, source) in enumerate(field.promising(MOST_LOOKS)):
        if look % LOOKS == 0 and found is not None:
            break
        left, vm = spread.leaving(name, source), cluster.vms[source][name]
        for target in field.targets(vm, source):
            gain = spread.score - spread.arriving(left, target)
            if gain > best and spread.over(target, name) is None and not (spares and not _still_bears(cluster, name, source, target, spares)):
                best, found = gain, (vm, source, target)
    return None if found is None else _Step(*found, _why(cluster, found[1], found[2], best))


class _Field:
    """The servers as they stand to each other: those to take from, and those to give to."""

    def __init__(self, cluster: Cluster, aims: Aims) -> None:
        self._cluster, spread, numbers = cluster, cluster.spread, range(len(cluster.servers))
        above, below = ([one for one in numbers if spread.is_apart(one, aims.tolerance, sign)] for sign in (1, -1))
        if any(one is not None for one in spread.thresholds):
            above, below = [one for one in numbers if spread.over(one) is not None], []
        self._open = [one for one in numbers if cluster.servers[one].closed is None]
        self._above, self._low = frozenset(above), [one for one in self._open if one in frozenset(below)]
        self._sources = list(numbers) if self._low else above
        self.least = max(aims.least_gain * spread.score, ROUNDING)
        self._estimate = spread.estimate(self._open)

    def promising(self, most: int) -> Iterator[tuple[str, int]]:
        """So many VMs with their servers, in the order of what their moving may gain; then those of which only a bound is known to be enough."""
        cluster = self._cluster
        estimated: list[tuple[float, str, int]] = []
        for source in self._sources if self._open else ():
            factors = self._estimate.leaving(source)
            for name in cluster.vms[source]:
                gain = sum(map(mul, cluster.spread.terms[name], factors))
                if gain >= self.least:
                    estimated.append((-gain, name, source))
        movable = [one for one in heapq.nsmallest(most, estimated) if one[1] not in cluster.fixed]
        yield from ((name, source) for dummy, name, source in movable)
        yield from self._bounded(most, {name for dummy, name, dummy in movable})

    def _bounded(self, most: int, looked_at: Collection[str]) -> Iterator[tuple[str, int]]:
        """The score is convex: no move gains more than the linear part of the estimate."""
        cluster = self._cluster
        bounded: list[tuple[float, str, int]] = []
        for source in self._sources:
            factors = self._estimate.leaving(source)[: len(cluster.spread.weights)]
            for name in cluster.vms[source]:
                bound = sum(map(mul, cluster.spread.loads[name], factors))
                if bound >= self.least and name not in cluster.fixed and name not in looked_at:
                    bounded.append((-bound, name, source))
        return ((name, source) for dummy, name, source in heapq.nsmallest(most, bounded))

    def targets(self, vm: Demand, source: int) -> list[int]:
        """The few servers that are best for the VM of those that can take it."""
        terms, arriving = self._cluster.spread.terms[vm.name], self._estimate.arriving
        ranked = sorted((sum(map(mul, terms, arriving[one])), one) for one in (self._open if source in self._above else self._low))
        found = (target for dummy, target in ranked if self._cluster.may_take(vm, source, target))
        return list(itertools.islice(found, MOST_TARGETS))


def _still_bears(cluster: Cluster, name: str, source: int, target: int, lost: int) -> bool:
    cluster.move(name, source, target)
    try:
        return cluster.bears_loss_of(lost)
    finally:
        cluster.move(name, target, source)


def _why(cluster: Cluster, source: int, target: int, gain: float) -> str:
    name, share = cluster.spread.farthest(source)
    lower = cluster.spread.shares[target][cluster.spread.position(name)]
    names = cluster.servers[source].name, cluster.servers[target].name
    return f"{name}: {share:.0%} of {names[0]} is used and {lower:.0%} of {names[1]}; the spread falls by {gain:.4f}"
