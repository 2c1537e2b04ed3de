"""How evenly servers are used: the one number that balancing lowers.

In each dimension (memory, vCPUs, CPU use, network use ...) a server's share is what its VMs load it with, by its capacity. The score is the
weighted sum of the standard deviations of the shares, as Ganeti's hbal has it. Everything is a function of who is where now, not of the way
there: sums are made anew, so a plan that was broken off goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, sqrt
from operator import add, sub
from typing import Optional

Vector = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Dimension:
    """What is to be spread: the load of each VM (by name), the capacity of each server (by id), and how much it counts.

    `threshold` is the share above which a server is too full; None: there is none.
    """

    name: str
    loads: Mapping[str, float]
    capacities: Mapping[str, float]
    weight: float = 1.0
    threshold: Optional[float] = None


class Estimate:
    """The change of the score by a move, about: linear in the VM's loads plus quadratic in them, for the server that it leaves and the one it gets to.

    It is the change of the squares of the shares, as if the deviations stayed; so it says little too little of what a move gains.
    """

    def __init__(self, slopes: Sequence[Vector], bends: Sequence[Vector], targets: Sequence[int]) -> None:
        self._slopes, self._bends = slopes, bends
        self.arriving: list[Vector] = [(*slope, *bend) for slope, bend in zip(slopes, bends)]
        self._lowest = tuple(min(column) for column in zip(*(slopes[one] for one in targets)))
        self._straightest = tuple(min(column) for column in zip(*(bends[one] for one in targets)))

    def leaving(self, source: int) -> Vector:
        """What a VM's loads, and their squares, are worth on a server, if there were a target that is best in all dimensions."""
        return (*map(sub, self._slopes[source], self._lowest), *(-one for one in map(add, self._bends[source], self._straightest)))


class Spread:
    """The shares of servers, which are known by their numbers; `vms` are the VMs on each."""

    def __init__(self, dimensions: Sequence[Dimension], servers: Sequence[str], vms: Sequence[Iterable[str]]) -> None:
        self.dimensions = [one for one in dimensions if one.weight > 0 and all(one.capacities.get(server, 0) > 0 for server in servers)]
        self.weights = tuple(one.weight for one in self.dimensions)
        self.thresholds = tuple(one.threshold for one in self.dimensions)
        # What one unit of a VM's load adds to the share of each server.
        self.units: list[Vector] = [tuple(1.0 / one.capacities[server] for one in self.dimensions) for server in servers]
        self.loads: dict[str, Vector] = {vm: tuple(one.loads.get(vm, 0.0) for one in self.dimensions) for there in vms for vm in there}
        self.terms = {vm: (*load, *(one * one for one in load)) for vm, load in self.loads.items()}
        self.shares: list[Vector] = [self._share(number, there) for number, there in enumerate(vms)]
        self._sum()

    def _share(self, server: int, vms: Iterable[str]) -> Vector:
        there = [self.loads[vm] for vm in vms]
        return tuple(fsum(load[position] for load in there) * unit for position, unit in enumerate(self.units[server]))

    def _sum(self) -> None:
        count = len(self.shares)
        columns = list(zip(*self.shares)) or [()] * len(self.weights)
        self.means: Vector = tuple(fsum(column) / count for column in columns)
        # Centred, so that nothing is lost where shares are nearly equal.
        self.squares: Vector = tuple(fsum((share - mean) ** 2 for share in column) for column, mean in zip(columns, self.means))
        self.deviations: Vector = tuple(sqrt(square / count) for square in self.squares)
        self.score = fsum(weight * deviation for weight, deviation in zip(self.weights, self.deviations))

    def update(self, changed: Mapping[int, Iterable[str]]) -> None:
        """Other VMs are on these servers now."""
        for server, there in changed.items():
            self.shares[server] = self._share(server, there)
        self._sum()

    def estimate(self, targets: Sequence[int]) -> Estimate:
        """How much moves gain, about, in a form that costs little for each VM."""
        count = len(self.shares)
        factors = [weight / (2 * count * deviation) if deviation > 0 else 0.0 for weight, deviation in zip(self.weights, self.deviations)]
        slopes = [
            tuple(2 * factor * (share - mean) * unit for factor, share, mean, unit in zip(factors, shares, self.means, units))
            for shares, units in zip(self.shares, self.units)
        ]
        bends = [tuple(factor * unit * unit for factor, unit in zip(factors, units)) for units in self.units]
        return Estimate(slopes, bends, targets)

    def is_apart(self, server: int, tolerance: float, sign: int) -> bool:
        """Is the server in some dimension more than the tolerance above (sign 1) or below (-1) the mean?"""
        return any((share - mean) * sign > tolerance for share, mean in zip(self.shares[server], self.means))

    def leaving(self, vm: str, source: int) -> list[tuple[float, float, float, float, float]]:
        """What `arriving` has to know of a VM that leaves its server, a tuple for each dimension."""
        root, told = sqrt(len(self.shares)), []
        for load, unit, share, mean, square, weight in zip(self.loads[vm], self.units[source], self.shares[source], self.means, self.squares, self.weights):
            taken = load * unit
            told.append((load, -taken, square + taken * (taken - 2 * (share - mean)), mean, weight / root))
        return told

    def arriving(self, left: Sequence[tuple[float, float, float, float, float]], target: int) -> float:
        """The score with the VM on the target: the innermost loop of balancing."""
        score, count = 0.0, len(self.shares)
        for (load, taken, square, mean, weight), unit, share in zip(left, self.units[target], self.shares[target]):
            given = load * unit
            total = taken + given
            squares = square + given * (given + 2 * (share - mean)) - total * total / count
            if squares > 0:
                score += weight * sqrt(squares)
        return score

    def after(self, vm: str, source: int, target: int) -> float:
        """The score with the VM moved from the source to the target."""
        return self.arriving(self.leaving(vm, source), target)

    def over(self, server: int, vm: Optional[str] = None) -> Optional[str]:
        """In which dimension the server is, or would be with the VM, above its threshold."""
        more = self.loads[vm] if vm is not None else None
        for position, threshold in enumerate(self.thresholds):
            if threshold is not None:
                share = self.shares[server][position] + (more[position] * self.units[server][position] if more else 0.0)
                if share > threshold:
                    return self.dimensions[position].name
        return None

    def farthest(self, server: int) -> tuple[str, float]:
        """The dimension in which the server is most above the mean, and its share there."""
        if not self.dimensions:
            return "", 0.0
        position = max(range(len(self.weights)), key=lambda one: (self.shares[server][one] - self.means[one]) * self.weights[one])
        return self.dimensions[position].name, self.shares[server][position]

    def position(self, name: str) -> int:
        """Where the dimension stands in the vectors."""
        return next(number for number, one in enumerate(self.dimensions) if one.name == name)
