"""A VM that finds no server has one woken that the policy of its pool has switched off, where it would fit.

Waking moves nothing and stops nothing, so it does not wait for a policy's next look, nor for servers that are silent: they may be why room is lacking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

from domus_core.errors import Conflict, DomusError, NoCapacity, Refused
from domus_core.model.document import parse_document
from domus_core.planning.capacity import Demand, demand_of
from domus_core.planning.placement import Planner

from ..store import jobs, objects, server_pools, servers
from ..store.database import Store
from .balancing import on_shared_storage, read_fleet
from .moving_out import resident
from .power_run import switch

if TYPE_CHECKING:
    from .jobs import Jobs

# What a member tells of an HA VM that no server may take.
WAITS = "vm_waits"

Item = dict[str, Any]


def asleep(store: Store) -> dict[str, Item]:
    """The servers that policies have switched off, by id."""
    return {str(one["id"]): one for one in servers.all(store) if one["state"] == servers.OFF and (one["powered_off"] or {}).get("policy")}


def waiting_vms(store: Store, pool: str) -> list[Demand]:
    """The HA VMs of a clustered pool that wait for a server, as its members tell; none where nobody sleeps who could help."""
    if not asleep(store):
        return []
    told = server_pools.tellers(store).get(pool)
    names = {str(one.get("about")) for one in (server_pools.voice_of(told).told.get("problems") or ()) if one.get("kind") == WAITS} if told else set()
    found = {str(vm["name"]): vm for name in names for vm in objects.pages(store, "vm", {"name": name})}
    return [dataclasses.replace(on_shared_storage(resident(found[name])).demand, pool=pool) for name in sorted(names & found.keys())]


def wake_for(work: Jobs, store: Store, vm: Demand) -> Optional[Item]:
    """The job that wakes a server for a VM, begun if there is none yet; None: no server that sleeps would take it."""
    sleeping = asleep(store)
    if not sleeping:
        return None
    try:
        place = Planner([dataclasses.replace(one, closed=None) for one in read_fleet(store) if one.id in sleeping]).place(vm)
    except NoCapacity:
        return None
    server = sleeping[place.server]
    under_way = next((job for job in jobs.unfinished(store) if job["kind"] == jobs.POWER_ON and server["id"] in job["servers"]), None)
    if under_way is not None:
        return under_way
    try:
        return switch(work, store, server, on=True, by=f"policy of {server['pool']}", reason=f"vm {vm.name} finds no room elsewhere", policy=True)
    except Conflict:  # it is heard in this moment
        return None


def wake_for_refused(work: Jobs, store: Store, document: Any, error: DomusError) -> None:
    """Have servers woken for the VMs of a document that were refused for want of room; their errors say so."""
    refused = list(_lacking(error))
    if not refused or not asleep(store):
        return
    wanted = parse_document(document).wanted("vm")
    for one in refused:
        spec = wanted.get(one.object.removeprefix("vm "))
        job = None if spec is None else wake_for(work, store, demand_of(spec))
        if job is not None:
            name = job["objects"][0]["name"]
            one.remedy = (
                f"Server {name}, which its pool's policy had switched off, is being woken for it: apply again when it is on (domus job show {job['id']})"
            )


def _lacking(error: DomusError) -> Iterator[DomusError]:
    for one in error.errors if isinstance(error, Refused) else [error]:
        if isinstance(one, NoCapacity) and one.object.startswith("vm "):
            yield one
