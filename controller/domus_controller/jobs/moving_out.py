"""Where VMs can move: the pure plan, made with what the manager knows, and proven with the agents of both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.errors import Conflict, DomusError, NoCapacity, Refused, error_from_dict
from domus_core.model.fields import restore
from domus_core.model.vm import VmSpec
from domus_core.planning.capacity import Demand, Server, demand_of, needs_to_move
from domus_core.planning.evacuation import Leaving, plan_evacuation
from domus_core.planning.placement import broken_by_name

from ..store import fleet, jobs, objects, servers
from ..store.database import Store
from . import operations
from .migrate_run import check_migration
from .tools import Tools

# What lives is moved, what is stopped if that is asked for; what a suspended one saved lies on its server.
MOVED_STATES = ("running", "paused")
STOPPED = "stopped"
WHY_STAYING = {
    STOPPED: "is stopped: such a one moves if that is asked for (--stopped)",
    "suspended": "is suspended: what it saved lies on this server; start it, and move it while it runs",
}
MOST_ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class Resident:
    """A VM on the server that is emptied: its id, what it needs elsewhere, and whether it is stopped."""

    id: str
    demand: Demand
    stopped: bool = False


def residents_of(tools: Tools, server_id: str, *, stopped: bool = False) -> list[Resident]:
    """The VMs of a server that are to be moved; with `stopped` those that do not run, too."""
    states = (*MOVED_STATES, STOPPED) if stopped else MOVED_STATES
    return [resident(vm) for vm in objects.pages(tools.store, "vm", {"server": server_id}) if vm["state"] in states]


def staying(tools: Tools, server_id: str, refused: Mapping[str, str], leaving: Collection[str]) -> list[dict[str, Any]]:
    """The VMs of a server that stay there though it is emptied: {vm, id, state, reason}; `refused` are the reasons of some, by id, `leaving` moves."""
    there = [vm for vm in objects.pages(tools.store, "vm", {"server": server_id}) if vm["state"] not in MOVED_STATES and vm["id"] not in leaving]
    return [
        {
            "vm": vm["name"],
            "id": vm["id"],
            "state": vm["state"],
            "reason": refused.get(vm["id"]) or WHY_STAYING.get(vm["state"], f"is {vm['state']}"),
        }
        for vm in there
    ]


def resident(vm: Mapping[str, Any]) -> Resident:
    """A VM (its item) as one that is to move."""
    spec = restore(VmSpec, {name: value for name, value in vm["spec"].items() if name not in ("vnc", "cloud_init")})
    return Resident(str(vm["id"]), demand_of(spec, frozenset(needs_to_move(spec))), vm["state"] == STOPPED)


def draw_up_all(tools: Tools, source: str, vms: Sequence[Resident], options: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The moves as `draw_up` has them, and why some that are stopped can not go, by id: those hold up nobody. What runs has first choice."""
    demands = {one.id: one.demand for one in vms}
    moves = draw_up(tools, source, [one for one in vms if not one.stopped], options)
    promised: dict[str, list[Demand]] = {}
    for move in moves:
        if move["server_id"] is not None:
            promised.setdefault(move["server_id"], []).append(demands[move["id"]])
    stopped = draw_up(tools, source, [one for one in vms if one.stopped], options, promised)
    refused = {str(move["id"]): _why(move["errors"]) for move in stopped if not move["possible"]}
    return [*moves, *(move for move in stopped if move["possible"])], refused


def _why(errors: Sequence[Mapping[str, Any]]) -> str:
    error = error_from_dict(errors[0])
    error.object = ""
    return f"is stopped, and can not move: {error}"


def draw_up(
    tools: Tools, source: str, vms: Sequence[Resident], options: Mapping[str, Any], promised: Optional[Mapping[str, Sequence[Demand]]] = None
) -> list[dict[str, Any]]:
    """Where each VM would go, the first to move first: {vm, id, server, server_id, possible, reason, errors}; nothing is changed.

    A destination that the agents' check refuses for a VM is left out for it, and the plan made anew with that. `promised` is what else
    will be on servers, by id.
    """
    if not vms:
        return []
    known, ids = _movable_among(tools, source), {one.demand.name: one.id for one in vms}
    reservations = reservations_of(tools.store, known)
    for server, demands_there in (promised or {}).items():
        reservations.setdefault(server, []).extend(demands_there)
    avoided: dict[str, dict[str, str]] = {name: {} for name in ids}
    proven: dict[tuple[str, str], list[dict[str, Any]]] = {}
    planned: tuple[Leaving, ...] = ()
    for _ in range(MOST_ROUNDS):
        demands = [dataclasses.replace(one.demand, avoid=frozenset(avoided[one.demand.name].items())) for one in vms]
        planned = plan_evacuation(demands, known, source, reservations)
        chosen = [(one.vm, one.to) for one in planned if one.to is not None]
        asked = [(ids[name], to) for name, to in chosen if (ids[name], to) not in proven]
        proven.update(_proofs(tools, asked, options))
        refused = [(name, to) for name, to in chosen if proven[(ids[name], to)]]
        for name, to in refused:
            avoided[name][to] = _told(proven[(ids[name], to)])
        if not refused:
            break
    names = {one.id: one.name for one in known}
    return [_entry(ids[one.vm], one, names, proven) for one in planned]


def require_permitted(tools: Tools, vm: Mapping[str, Any], server: Mapping[str, Any]) -> None:
    """May the VM (its item) go to a server (its item) that somebody named? What it needs there is asked of the agents. Raises Conflict."""
    seen = {one.id: one for one in fleet.read_fleet(tools.store)}.get(str(server["id"]))
    demand = dataclasses.replace(resident(vm).demand, needs=frozenset())
    reason = None if seen is None else broken_by_name(demand, seen)
    if reason is not None:
        remedy = "Name another server, or none: then one is chosen"
        raise Conflict(f"may not go to {server['name']}: {reason}", object=f"vm {vm['name']}", field="server", value=server["name"], remedy=remedy)


def there_already(vm: Mapping[str, Any], server: Mapping[str, Any]) -> Conflict:
    """What is said when a VM (its item) is to move to the server (its item) that it is on."""
    return Conflict("is on this server already", object=f"vm {vm['name']}", field="server", value=server["name"], remedy="Name another server, or none")


def refusal(moves: Iterable[Mapping[str, Any]]) -> Optional[DomusError]:
    """Why not all can move; None when they can."""
    errors = [error_from_dict(move["errors"][0]).located(f"vm {move['vm']}") for move in moves if not move["possible"]]
    return None if not errors else errors[0] if len(errors) == 1 else Refused(errors)


def _movable_among(tools: Tools, source: str) -> list[Server]:
    """The servers; closed are those whose libvirt does not trust that of the source."""
    pools = {str(one["id"]): one.get("pool") for one in servers.all(tools.store)}
    found = []
    for one in fleet.read_fleet(tools.store):
        other = one.closed is None and pools.get(one.id) != pools.get(source)
        found.append(dataclasses.replace(one, closed=f"is in pool {pools.get(one.id)}, not {pools.get(source)}") if other else one)
    return found


def reservations_of(store: Store, known: Sequence[Server]) -> dict[str, list[Demand]]:
    """What moves under way have promised to servers."""
    demands = {vm.name: vm for server in known for vm in server.vms}
    found: dict[str, list[Demand]] = {}
    for job in jobs.unfinished(store):
        if job["kind"] == jobs.MIGRATE:
            moving = demands.get(str(job["objects"][0]["name"]))
            if moving is not None:
                found.setdefault(str(job["options"]["server"]), []).append(moving)
    return found


def _proofs(tools: Tools, moves: Sequence[tuple[str, str]], options: Mapping[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What both agents say of each move (VM id, server id): the errors, none where it is possible."""

    def prove(key: str) -> list[dict[str, Any]]:
        id, to = key.split(" ")
        try:
            told = check_migration(tools, objects.find(tools.store, "vm", id), to, options)
        except DomusError as error:
            return [error.as_dict()]
        return [] if told["possible"] else list(told["errors"])

    answers = operations.on_each([f"{id} {to}" for id, to in moves], prove)
    return {(id, to): answers[f"{id} {to}"] for id, to in moves}


def _told(errors: Sequence[Mapping[str, Any]]) -> str:
    """Why a server does not do for a VM, short enough to stand beside the reasons of others."""
    first = errors[0] if errors else {"message": "refused without a reason"}
    where = f"{first['field']}: " if first.get("field") else ""
    return f"can not take it: {where}{first['message']}"


def _entry(id: str, one: Leaving, names: Mapping[str, str], proven: Mapping[tuple[str, str], list[dict[str, Any]]]) -> dict[str, Any]:
    told: dict[str, Any] = {"vm": one.vm, "id": id, "server": None, "server_id": None, "possible": False, "reason": one.reason, "errors": []}
    if one.to is None:
        error = one.error or NoCapacity("no server can take it")
        return {**told, "errors": [error.located(f"vm {one.vm}").as_dict()]}
    errors = proven.get((id, one.to), [])
    return {**told, "server": names[one.to], "server_id": one.to, "possible": not errors, "errors": errors}
