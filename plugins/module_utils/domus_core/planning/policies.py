"""From a policy and what was measured to what the planners of balancing are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Optional

from ..model.policy import DPM, PolicySpec, thresholds, weights
from .balancing import Aims, Move, plan_balance
from .capacity import Server
from .power import WAKE, Switch, plan_power
from .spread import Dimension


@dataclasses.dataclass(frozen=True)
class Measured:
    """What VMs (by name) use and servers (by id) can give: processors, and bytes per second of network."""

    cpu: Mapping[str, float] = dataclasses.field(default_factory=dict)
    network: Mapping[str, float] = dataclasses.field(default_factory=dict)
    processors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    speed: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a policy would do now; `uncounted` are the resources that some server does not tell, so that they do not count."""

    moves: tuple[Move, ...]
    switches: tuple[Switch, ...]
    before: float
    after: float
    stuck: Mapping[str, str]
    waiting: str
    uncounted: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Power:
    """Which servers (ids) are switched off by the policy, which can be woken by something that was seen to answer (None: all), and how many
    must stay on whatever the policy says."""

    asleep: frozenset[str] = frozenset()
    wakeable: Optional[frozenset[str]] = None
    least_on: int = 1


NO_SLEEP = "the policy switches no servers off any more"


def look(servers: Sequence[Server], measured: Measured, policy: PolicySpec, power: Power = Power(), fixed: Collection[str] = ()) -> Look:
    """What the policy does with the servers as they are; `fixed` are VMs (by name) that are not to move."""
    dimensions, aims = dimensions_of(servers, measured, policy), aims_of(policy)
    balance = plan_balance([one for one in servers if one.id not in power.asleep], dimensions, aims, fixed)
    known = {one.name for one in dimensions if all(one.capacities.get(server.id, 0) > 0 for server in servers)}
    uncounted = tuple(one.name for one in dimensions if one.name not in known)
    if policy.mode != DPM:
        woken = tuple(Switch(WAKE, one.id, NO_SLEEP) for one in servers if one.id in power.asleep)
        return Look(balance.moves, woken, balance.before, balance.after, balance.stuck, "", uncounted)
    least_on = max(policy.least_on or 1, power.least_on)
    found = plan_power(servers, power.asleep, dimensions, aims, fixed=fixed, least_on=least_on, may_sleep=_may_sleep(servers, policy, power))
    after = found.moves[-1].score if found.moves else balance.before
    return Look(found.moves, found.switches, balance.before, after, balance.stuck, found.waiting, uncounted)


def _may_sleep(servers: Sequence[Server], policy: PolicySpec, power: Power) -> Optional[set[str]]:
    """The servers that the policy names and that can be woken again; None: all."""
    if policy.servers is None and power.wakeable is None:
        return None
    named = {one.id for one in servers if policy.servers is None or one.name in policy.servers}
    return named if power.wakeable is None else named & power.wakeable


def least_on_with_quorum(members: int, spare_servers: int, has_ha_vms: bool) -> int:
    """How many members of a clustered pool stay on, so that those have quorum, also when one more is lost while there are VMs to be restarted."""
    return members // 2 + 1 + max(spare_servers, int(has_ha_vms))


def dimensions_of(servers: Sequence[Server], measured: Measured, policy: PolicySpec) -> list[Dimension]:
    """What is to be spread: promised memory and vCPUs, and the processors and network that are used."""
    limits, counts = thresholds(policy), weights(policy)
    vms = {vm.name: vm for one in servers for vm in one.vms}
    told: dict[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
        "memory": ({name: float(vm.memory) for name, vm in vms.items()}, {one.id: float(one.memory or 0) for one in servers}),
        "vcpus": ({name: float(vm.cpus) for name, vm in vms.items()}, {one.id: float(one.cpus or 0) for one in servers}),
        "cpu": (measured.cpu, measured.processors),
        "network": (measured.network, measured.speed),
    }
    return [Dimension(name, *told[name], counts[name], limits[name]) for name in told]


def aims_of(policy: PolicySpec) -> Aims:
    """The policy's numbers, with their defaults."""
    tolerance = 5 if policy.tolerance is None else policy.tolerance
    return Aims(policy.most_moves or 4, tolerance / 100, spare_servers=policy.spare_servers or 0)
