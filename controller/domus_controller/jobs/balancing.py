"""What a policy would do with the servers as the manager knows them, and what the loss of one would mean. Nothing is changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from domus_core.errors import NoCapacity, NotFound
from domus_core.model.policy import PolicySpec
from domus_core.planning.capacity import Need, Server
from domus_core.planning.evacuation import Leaving
from domus_core.planning.loss import plan_loss
from domus_core.planning.policies import Look, Measured, Power, look

from ..store import fleet, objects, servers, usage
from ..store.database import Store
from . import waking
from .moving_out import MOVED_STATES, Resident, reservations_of, resident

Item = dict[str, Any]
# Network ports are told in Mbit/s.
MEGABIT = 1_000_000 / 8
SHARED = "shared_repository"


def show_balance(store: Store, policy: PolicySpec) -> list[Item]:
    """What the policy would do now, for each pool by itself: its servers trust each other's libvirt, and VMs move among them.

    Servers that are silent or in maintenance take no part, nor do VMs that do not run or are moving.
    """
    seen = Seen(store)
    return [seen.plan(pool, policy) for pool in sorted(seen.pools)]


def show_pool(store: Store, pool: str, policy: PolicySpec) -> Item:
    """The same for one pool. Raises NotFound when no server of it could take part."""
    seen = Seen(store)
    seen.require(pool)
    return seen.plan(pool, policy)


class Seen:
    """All servers and VMs as the manager knows them at one moment, by pool; those that a policy has switched off take part."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = {str(one["id"]): one for one in servers.all(store)}
        there = _vms(store)
        fleet_now = read_fleet(store)
        promised = reservations_of(store, fleet_now)
        self._fixed = {one.demand.name for all in there.values() for one, state in all if state not in MOVED_STATES}
        self._fixed |= {vm.name for vms in promised.values() for vm in vms}
        self._asleep = frozenset(id for id, one in self._known.items() if one["state"] == servers.OFF and (one["powered_off"] or {}).get("policy"))
        self._ids = {one.demand.name: one.id for all in there.values() for one, dummy in all}
        self._used = usage.of_vms(store)
        self.pools: dict[str, list[Server]] = {}
        for one in fleet_now:
            if (one.closed is None or one.id in self._asleep) and one.memory is not None:
                whole = _with_needs(one, [resident for resident, dummy in there.get(one.id, ())])
                # What is on its way counts where it is and where it gets.
                whole = dataclasses.replace(whole, vms=(*whole.vms, *promised.get(one.id, ())))
                self.pools.setdefault(str(one.pool), []).append(whole)

    def require(self, pool: str) -> None:
        """Raise NotFound when no server of the pool could take part."""
        if pool not in self.pools:
            known = sorted(str(one["pool"]) for one in self._known.values())
            remedy = f"Its servers must be heard, and not in maintenance: domus server list. Known pools: {', '.join(dict.fromkeys(known)) or 'none'}"
            raise NotFound("there is no server in it that could take part", object=f"server_pool {pool}", remedy=remedy)

    def plan(self, pool: str, policy: PolicySpec, resting: Collection[str] = ()) -> Item:
        """What the policy would do with the servers of a pool; `resting` are VMs (by name) that stay for a while."""
        members = self.pools.get(pool, [])
        items = [self._known[one.id] for one in members]
        spare = policy.spare_servers or 0
        power = Power(self._asleep & {one.id for one in members}, waking.seen_to_wake(self._store, items), waking.least_on(self._store, items, spare))
        found = look(members, _measured(members, self._known, self._ids, self._used), policy, power, fixed={*self._fixed, *resting})
        return {"pool": pool, **_shown(found, members, self._ids)}


def show_loss(store: Store, server: Mapping[str, Any]) -> Item:
    """Where the VMs of a server (its item) would start again if it died, the largest first."""
    id, there = str(server["id"]), _vms(store)
    fallen = [one for one, dummy in there.get(id, ())]
    known = read_fleet(store)
    found = plan_loss(known, {id}, [one.demand for one in fallen])
    names, ids = {one.id: one.name for one in known}, {one.demand.name: one.id for one in fallen}
    moves = [_restart(one, names, ids) for one in found]
    return {"server": server["name"], "server_id": id, "possible": all(move["possible"] for move in moves), "moves": moves}


def read_fleet(store: Store) -> list[Server]:
    """The servers, which offer what they share beside what they have: a repository of the same name that is each server's own holds other disks."""
    shared: dict[str, set[Need]] = {}
    for one in objects.pages(store, "repository"):
        if (one["measured"] or {}).get("shared"):
            shared.setdefault(str(one["server_id"]), set()).add((SHARED, str(one["key"])))
    return [dataclasses.replace(one, offers=one.offers | shared.get(one.id, set())) for one in fleet.read_fleet(store)]


def on_shared_storage(one: Resident) -> Resident:
    """A VM that keeps its disks where it goes: nobody copies them when its server is dead, and unasked nobody copies them at all."""
    needs = frozenset((SHARED if kind == "repository" else kind, key) for kind, key in one.demand.needs)
    return dataclasses.replace(one, demand=dataclasses.replace(one.demand, needs=needs))


def _vms(store: Store) -> dict[str, list[tuple[Resident, str]]]:
    """The VMs on each server (by its id), with what they need elsewhere and their run states."""
    found: dict[str, list[tuple[Resident, str]]] = {}
    for vm in objects.pages(store, "vm"):
        found.setdefault(str(vm["server_id"]), []).append((on_shared_storage(resident(vm)), str(vm["state"])))
    return found


def _with_needs(server: Server, residents: Iterable[Resident]) -> Server:
    """The server whose VMs say what must be where they go; what runs still counts where it is more than what is defined."""
    needs = {one.demand.name: one.demand.needs for one in residents}
    return dataclasses.replace(server, vms=tuple(dataclasses.replace(vm, needs=needs.get(vm.name, frozenset())) for vm in server.vms))


def _measured(members: Iterable[Server], known: Mapping[str, Item], ids: Mapping[str, str], used: Mapping[str, Mapping[str, float]]) -> Measured:
    facts = {one.id: known[one.id]["facts"] or {} for one in members}
    return Measured(
        cpu={name: used[id]["cpu"] for name, id in ids.items() if id in used},
        network={name: used[id]["network"] for name, id in ids.items() if id in used},
        processors={id: float(told.get("cpus") or 0) for id, told in facts.items()},
        speed={id: _speed(told) for id, told in facts.items()},
    )


def _speed(facts: Mapping[str, Any]) -> float:
    """Bytes per second of all physical ports that have a link; 0 when none is told."""
    ports = (one for one in facts.get("interfaces") or () if one.get("kind") == "physical" and one.get("link"))
    return sum(float(one.get("speed") or 0) for one in ports) * MEGABIT


def _shown(found: Look, members: Iterable[Server], ids: Mapping[str, str]) -> Item:
    names = {one.id: one.name for one in members}
    moves = [
        {
            **{"vm": one.vm, "id": ids.get(one.vm), "source": names[one.source], "source_id": one.source},
            **{"server": names[one.to], "server_id": one.to, "reason": one.reason},
        }
        for one in found.moves
    ]
    switches = [{"action": one.action, "server": names[one.server], "server_id": one.server, "reason": one.reason} for one in found.switches]
    told = {"before": round(found.before, 6), "after": round(found.after, 6), "waiting": found.waiting or None, "uncounted": list(found.uncounted)}
    return {"servers": sorted(names.values()), "moves": moves, "switches": switches, "stuck": dict(found.stuck), **told}


def _restart(one: Leaving, names: Mapping[str, str], ids: Mapping[str, str]) -> Item:
    told: Item = {"vm": one.vm, "id": ids.get(one.vm), "server": None, "server_id": None, "possible": False, "reason": one.reason, "errors": []}
    if one.to is None:
        error = one.error or NoCapacity("no server can take it")
        return {**told, "errors": [error.located(f"vm {one.vm}").as_dict()]}
    return {**told, "server": names[one.to], "server_id": one.to, "possible": True}
