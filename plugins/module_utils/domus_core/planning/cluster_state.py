"""Servers and their VMs while VMs are being moved about: who may go where, who is where it may not be, and how evenly all is spread."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Optional

from .capacity import Demand, Server
from .placement import not_movable, rule_broken
from .spread import Dimension, Spread


class Cluster:
    """Servers while VMs are being moved about. Servers are numbered by name; `fixed` are VMs that are not to move."""

    def __init__(self, servers: Sequence[Server], dimensions: Sequence[Dimension], fixed: Collection[str] = ()) -> None:
        self.servers = sorted(servers, key=lambda one: (one.name, one.id))
        self.vms: list[dict[str, Demand]] = [{vm.name: vm for vm in one.vms} for one in self.servers]
        seen: set[str] = set()
        twice = {name for there in self.vms for name in there if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
        self.fixed = twice | set(fixed)
        self.memory = [sum(vm.memory for vm in there.values()) for there in self.vms]
        self.cpus = [sum(vm.cpus for vm in there.values()) for there in self.vms]
        self.spread = Spread(dimensions, [one.id for one in self.servers], self.vms)
        self._misplaced: list[Optional[list[tuple[Demand, str]]]] = [None] * len(self.servers)
        self._permitted: dict[tuple[object, ...], frozenset[int]] = {}

    def move(self, name: str, source: int, target: int) -> None:
        """The VM is on the target now."""
        vm = self.vms[source].pop(name)
        self.vms[target][name] = vm
        for amounts, amount in ((self.memory, vm.memory), (self.cpus, vm.cpus)):
            amounts[source] -= amount
            amounts[target] += amount
        self._misplaced[source] = self._misplaced[target] = None
        self.spread.update({source: self.vms[source], target: self.vms[target]})

    def as_servers(self) -> list[Server]:
        """The servers with the VMs that they have now, in their order."""
        return [dataclasses.replace(one, vms=tuple(there.values())) for one, there in zip(self.servers, self.vms)]

    def permitted(self, vm: Demand, source: int) -> frozenset[int]:
        """The servers that no lasting rule forbids to a VM that comes from there."""
        key = (vm.server_tags, vm.cpu_group, vm.needs, vm.avoid, source)
        if key not in self._permitted:
            left = self.servers[source]
            self._permitted[key] = frozenset(
                number for number, one in enumerate(self.servers) if not_movable(left, one) is None and rule_broken(vm, one) is None
            )
        return self._permitted[key]

    def has_room(self, vm: Demand, target: int) -> bool:
        """Is there memory and vCPUs for it, and nobody it must not be with?"""
        one = self.servers[target]
        if self.memory[target] + vm.memory > (one.memory or 0) or self.cpus[target] + vm.cpus > (one.cpus or 0):
            return False
        return not vm.anti_affinity or not any(vm.anti_affinity & other.anti_affinity for other in self.vms[target].values())

    def misplaced(self, source: int) -> list[tuple[Demand, str]]:
        """The VMs of a server that break a rule there, and which."""
        if self._misplaced[source] is None:
            self._misplaced[source] = [(vm, why) for vm in self.vms[source].values() if (why := self._broken(vm, source)) is not None]
        return self._misplaced[source] or []

    def _broken(self, vm: Demand, source: int) -> Optional[str]:
        """Of two that must not be together, the second by name breaks the rule."""
        if vm.server_tags or vm.cpu_group is not None or vm.avoid:
            here = dataclasses.replace(self.servers[source], closed=None, memory=0, cpus=0, offers=vm.needs)
            if (lasting := rule_broken(vm, here)) is not None:
                return lasting
        for other in self.vms[source].values() if vm.anti_affinity else ():
            if other.name < vm.name and vm.anti_affinity & other.anti_affinity:
                return f"has vm {other.name} of anti-affinity group {min(vm.anti_affinity & other.anti_affinity)}"
        return None

    def movable(self, source: int) -> Iterator[Demand]:
        """The VMs of a server that may be moved."""
        return (vm for vm in self.vms[source].values() if vm.name not in self.fixed)

    def targets(self, vm: Demand, source: int, among: Sequence[int]) -> list[int]:
        """Those servers that can take it without breaking a rule."""
        return [one for one in among if self.may_take(vm, source, one)]

    def may_take(self, vm: Demand, source: int, target: int) -> bool:
        """Can the target take a VM of the source without breaking a rule?"""
        return target != source and target in self.permitted(vm, source) and self.has_room(vm, target)

    def overfull(self, source: int) -> bool:
        """Is more promised than the server has?"""
        one = self.servers[source]
        return self.memory[source] > (one.memory or 0) or self.cpus[source] > (one.cpus or 0)

    def bears_loss_of(self, lost: int) -> bool:
        """Is there, all in all, room for what is on the fullest so many servers on those that are left?"""
        open_now = [number for number, one in enumerate(self.servers) if one.closed is None and one.memory is not None]
        for used, given in ((self.memory, [one.memory or 0 for one in self.servers]), (self.cpus, [one.cpus or 0 for one in self.servers])):
            gone = set(sorted(open_now, key=lambda number: (-used[number], number))[:lost])
            free = sum(max(0, given[number] - used[number]) for number in open_now if number not in gone)
            if sum(used[number] for number in gone) > free:
                return False
        return True
