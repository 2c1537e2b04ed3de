"""The servers as placement sees them: what they are, what is on them, and what jobs that have not ended will put there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from domus_core.model.fields import restore
from domus_core.model.server import ServerSpec
from domus_core.model.vm import VmSpec
from domus_core.planning.capacity import Demand, Need, Server, cpus_to_promise, demand_of, memory_to_promise
from domus_core.planning.placement import IN_MAINTENANCE

from . import policies, servers
from .database import Row, Store
from .values import from_json

# What a network, repository or image must be there for.
OFFERED = ("network", "repository", "template", "iso", "virtual_disk")
ASKED = ("cpus", "cpus_max", "memory", "memory_max", "cpu_topology", "server_tags", "anti_affinity", "cpu_group")
READY = ("running",)


def read_fleet(store: Store, *, with_vms: bool = True) -> list[Server]:
    """All servers; without VMs where nothing is to be placed: that saves reading them."""
    specs, offers = server_specs(store), _offers(store) if with_vms else {}
    vms = _vms(store) if with_vms else {}
    spare = policies.spare_servers(store) if with_vms else {}
    made = [_server(one, specs.get(one["id"]), offers.get(one["id"], frozenset()), vms.get(one["id"], {})) for one in servers.all(store)]
    return [dataclasses.replace(one, spare_servers=spare[one.pool]) if one.pool in spare else one for one in made]


def promised(store: Store, site: str) -> dict[str, list[str]]:
    """Where the VMs of a site will be that a job which has not ended is to make: server ids by name."""
    found: dict[str, list[str]] = {}
    for row in _pending(store):
        if row["site"] == site:
            found.setdefault(row["key"], []).append(row["server_id"])
    return found


def _server(item: Mapping[str, Any], spec: Optional[ServerSpec], offers: frozenset[Need], vms: Mapping[str, Demand]) -> Server:
    facts = item["facts"] or {}
    memory, threads = facts.get("memory"), facts.get("cpus")
    return Server(
        id=str(item["id"]),
        name=str(item["name"]),
        closed=_closed(item),
        memory=None if memory is None else memory_to_promise(int(memory), spec),
        cpus=None if threads is None else cpus_to_promise(int(threads), spec),
        tags=frozenset((spec and spec.tags) or ()),
        cpu_group=cpu_group_of(spec, facts),
        offers=offers,
        vms=tuple(vms.values()),
        pool=str(item["pool"]),
    )


def _closed(item: Mapping[str, Any]) -> Optional[str]:
    if item.get("maintenance"):
        return IN_MAINTENANCE
    if item.get("powered_off"):
        return "is switched off" if item["state"] == servers.OFF else "is being switched off"
    return None if item["state"] in READY else f"is {item['state']}"


def cpu_group_of(spec: Optional[ServerSpec], facts: Mapping[str, Any]) -> Optional[str]:
    """The CPU compatibility group of a server: its own, else that of all whose CPU libvirt calls the same."""
    own = spec.cpu_group if spec is not None else None
    return own or facts.get("cpu_model") or None


def server_specs(store: Store) -> dict[str, ServerSpec]:
    """What is said of each server, by id; it is known by its own name there, whatever else was described on it before."""
    rows = store.rows(
        "SELECT o.server_id, json_extract(o.description, '$.spec') AS spec FROM objects o INDEXED BY objects_name JOIN servers s ON s.id = o.server_id"
        " WHERE o.kind = 'server' AND o.deleted IS NULL AND o.key = s.name"
    )
    return {str(row["server_id"]): restore(ServerSpec, from_json(row["spec"])) for row in rows}


def _offers(store: Store) -> dict[str, frozenset[Need]]:
    kinds = ", ".join(f"'{kind}'" for kind in OFFERED)
    found: dict[str, set[Need]] = {}
    for row in store.rows(f"SELECT kind, key, server_id FROM objects WHERE kind IN ({kinds}) AND deleted IS NULL"):
        found.setdefault(row["server_id"], set()).add((row["kind"], row["key"]))
    return {server: frozenset(needs) for server, needs in found.items()}


def _vms(store: Store) -> dict[str, dict[str, Demand]]:
    """The VMs on each server and those promised to it, by server id and name; what runs counts where it is more than what is defined."""
    fields = ", ".join(f"json_extract(description, '$.spec.{name}') AS {name}" for name in ASKED)
    running = "json_extract(description, '$.running.memory') AS running_memory, json_extract(description, '$.running.cpus') AS running_cpus"
    found: dict[str, dict[str, Demand]] = {}
    for row in store.rows(f"SELECT server_id, key AS name, {fields}, {running} FROM objects WHERE kind = 'vm' AND deleted IS NULL"):
        found.setdefault(row["server_id"], {})[row["name"]] = _demand(row)
    for row in _pending(store):
        spec = restore(VmSpec, from_json(row["asked"]))
        found.setdefault(row["server_id"], {}).setdefault(row["key"], demand_of(spec))
    return found


def _demand(row: Row) -> Demand:
    values = {name: row[name] for name in ("name", "cpus", "cpus_max", "memory", "memory_max", "cpu_group")}
    values |= {name: from_json(row[name]) for name in ("cpu_topology", "server_tags", "anti_affinity")}
    values["memory"] = max(values["memory"] or 0, row["running_memory"] or 0) or None
    values["cpus"] = max(values["cpus"] or 0, row["running_cpus"] or 0) or None
    return demand_of(restore(VmSpec, values))


def _pending(store: Store) -> Iterable[Row]:
    """What jobs that have not ended ask of VMs that are not there yet."""
    return store.rows(
        "SELECT r.site, r.server_id, r.key, r.asked FROM requests r INDEXED BY requests_state WHERE r.state = 'pending' AND r.kind = 'vm'"
        " AND r.server_id IS NOT NULL AND json_extract(r.asked, '$.state') IS NOT 'absent' AND json_extract(r.asked, '$.name') IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM objects o WHERE o.kind = 'vm' AND o.server_id = r.server_id AND o.key = r.key AND o.deleted IS NULL)"
    )
