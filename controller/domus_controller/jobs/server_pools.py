"""What a manager adds to the server pools of a document: who their members are, with which numbers and addresses, and the key that they share.

The key is made once in a pool's life, and kept sealed; so is what was asked of the pool, with the secrets of its fence devices: who joins later gets them.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.cluster.corosync import assign_node_ids
from domus_core.cluster.pool import Pool, check_pool
from domus_core.cluster.pool_of import ServerFacts, pool_of
from domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Refused, Unreachable
from domus_core.model.fields import parse_spec
from domus_core.model.secrets import MASK
from domus_core.model.server_pool import ServerPoolSpec, is_clustered
from domus_core.planning.capacity import Server

from ..store import fleet, pool_secrets, server_pools, servers, site_objects, trust
from ..store.pool_secrets import Kept
from .outcome import EFFECTIVE, Outcome
from .tools import Tools, Work

SECTION, KIND = "server_pools", "server_pool"
KEY_BYTES = 256
Documents = Mapping[str, Mapping[str, Any]]
Entry = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Memory:
    """What is known of a pool: numbers of members, the key, what was asked last (with its secrets), what its members were told of each other."""

    node_ids: Mapping[str, int]
    authkey: str
    entry: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: Optional[Mapping[str, Any]] = None


def give_clusters(tools: Tools, document: Mapping[str, Any], documents: Documents) -> Documents:
    """The documents of the servers (by id) with the whole of each pool, and in clustered ones with what members must know of each other.

    Raises InvalidSpec, Conflict, Unreachable, or Refused with all problems: before anything is stored of the document, or touched.
    """
    if not document.get(SECTION):
        return documents
    known = {str(one["id"]): one for one in servers.all(tools.store)}
    capacities = {one.id: one for one in fleet.read_fleet(tools.store)}
    problems: list[DomusError] = []
    given: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(str(entry["name"]) for entry in document[SECTION]):
        try:
            given[name] = _Giving(tools, name, documents, known, capacities).given(document)
        except DomusError as error:
            problems += [one.located(f"{KIND} {name}") for one in getattr(error, "errors", [error])]
    if problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    return {id: _with(one, given) for id, one in documents.items()}


def _with(document: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One server's document, whose entries of pools that it is to be in are whole."""
    if SECTION not in document:
        return dict(document)
    entries = [entry if entry.get("state") == "absent" else given[entry["name"]] for entry in document[SECTION]]
    return {**document, SECTION: entries}


class _Giving:
    """One pool of a document."""

    def __init__(self, tools: Tools, name: str, documents: Documents, known: Mapping[str, Any], capacities: Mapping[str, Server]) -> None:
        self._tools, self._name, self._known, self._capacities = tools, name, known, capacities
        found = {id: entry for id, one in documents.items() for entry in one.get(SECTION) or () if entry["name"] == name}
        self._staying = {id: entry for id, entry in found.items() if entry.get("state") != "absent"}
        self._leaving = [id for id in found if id not in self._staying]

    def given(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The entry that each member gets; nothing where the pool ends."""
        if any("cluster" in entry for entry in document[SECTION] if entry["name"] == self._name):
            raise InvalidSpec("is not a known key", field="cluster", remedy="It is the manager's: leave it out")
        self._refuse_to_leave_vms()
        if not self._staying:
            return {}
        memory = recall(self._tools, self._name)
        before, wanted = (memory.entry if memory else {}) or self._told_before(), next(iter(self._staying.values()))
        servers = self._in_order(wanted.get("servers") or before.get("servers") or ())
        parts = {name: {**before[name], **value} for name, value in wanted.items() if isinstance(value, Mapping) and isinstance(before.get(name), Mapping)}
        entry = {**before, "fencing": _still_cutting(before.get("fencing"), servers), **wanted, **parts, "servers": servers}
        entry = {key: value for key, value in entry.items() if value is not None}
        spec = _parsed(entry)
        if not is_clustered(spec):
            return entry
        members = {str(self._known[id]["name"]): self._known[id] for id in self._staying}
        known = ((memory.told if memory else None) or {}).get("members") or {}
        facts = {name: _facts_of(one, self._capacities[str(one["id"])], known.get(_host_of(one), ())[1:]) for name, one in members.items()}
        pool = _checked(pool_of(spec, facts))
        hosts = {name: _host_of(one) for name, one in members.items()}
        memory = memory or self._learn(hosts)
        ids = {**memory.node_ids, **assign_node_ids(hosts.values(), memory.node_ids)}
        told = _told(pool, hosts, ids, entry)
        self._refuse_silent(memory, told)
        remember(self._tools, self._name, dataclasses.replace(memory, node_ids=ids))
        return {**entry, "cluster": {"members": _members(pool, hosts, ids), "authkey": memory.authkey}}

    def _told_before(self) -> dict[str, Any]:
        """What was asked of a pool of which nothing is sealed, or what its servers told of it; without what holds a secret."""
        try:
            spec = site_objects.find(self._tools.store, KIND, self._name)["spec"] or {}
        except NotFound:
            return {}
        return {field: value for field, value in spec.items() if field != "state" and MASK not in json.dumps(value)}

    def _in_order(self, named: Iterable[str]) -> list[str]:
        """The names of the members, in the order of the document; those that it does not name are those that are there."""
        here = [str(self._known[id]["name"]) for id in self._staying]
        return [*(name for name in dict.fromkeys(named) if name in here), *(name for name in here if name not in set(named))]

    def _learn(self, hosts: Mapping[str, str]) -> Memory:
        """The memory of a pool that is new, or that its members know better: made by a role, or by a manager that was lost. Raises Unreachable."""
        tellers = server_pools.tellers(self._tools.store).get(self._name, [])
        for one in sorted(tellers, key=lambda one: not one.heard):
            try:
                found = self._tools.agents.call(one.id, "pool_membership", {})
            except DomusError:
                continue
            if found.get("pool") == self._name:
                return Memory(found["node_ids"], found["authkey"])
        if tellers:
            remedy = "Have one of its members heard, then apply again: domus pool show"
            raise Unreachable("its key is with its members, of which none answers", remedy=remedy)
        return Memory({}, base64.b64encode(os.urandom(KEY_BYTES)).decode(), told={"members": {}})

    def _refuse_silent(self, memory: Memory, told: Mapping[str, Any]) -> None:
        """Who is not told that members come, go or move would work against the others when it is back."""
        before = memory.told
        silent = sorted(str(self._known[id]["name"]) for id in self._staying if self._known[id]["state"] not in servers.CONNECTED)
        members = set((before or {}).get("members") or memory.node_ids)
        silent = [name for name in silent if _host_of(next(one for one in self._known.values() if one["name"] == name)) in members]
        if silent and told != before and members:
            remedy = "Bring it back, or take it out of the pool as well, then apply again"
            raise Conflict(f"members must hear of each other's changes, and {', '.join(silent)} is not heard", field="servers", remedy=remedy)

    def _refuse_to_leave_vms(self) -> None:
        """A server that leaves has moved its HA VMs elsewhere, as far as the pool tells; its own agent looks again."""
        tellers = server_pools.tellers(self._tools.store).get(self._name, [])
        vms: Mapping[str, list[str]] = (server_pools.voice_of(tellers).told.get("vms") or {}) if tellers else {}
        for id in self._leaving:
            host = _host_of(self._known[id])
            if here := sorted(vm for vm, places in vms.items() if host in places):
                name = self._known[id]["name"]
                remedy = f"Move them first: domus server maintenance {name} --evacuate; or take HA off them"
                raise Conflict(f"HA VMs run on {name}, which is to leave: {', '.join(here[:5])}", field="servers", value=name, remedy=remedy)


def _still_cutting(devices: Any, names: Iterable[str]) -> Optional[list[dict[str, Any]]]:
    """The fence devices that were asked for before, for the servers that there are now."""
    here = set(names)
    trimmed = [{**device, "servers": [one for one in device["servers"] if one["name"] in here]} for device in devices or ()]
    return [device for device in trimmed if device["servers"]] if devices is not None else None


def _parsed(entry: Entry) -> ServerPoolSpec:
    problems: list[DomusError] = []
    spec = parse_spec(ServerPoolSpec, {name: value for name, value in entry.items() if name != "state"}, problems)
    if spec is None or problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    if is_clustered(spec) and spec.file_system is None:
        raise Conflict("is missing", field="file_system", remedy="A clustered pool needs a repository that all its servers share, best one of its own")
    return spec


def _facts_of(server: Mapping[str, Any], capacity: Server, known: Sequence[str]) -> ServerFacts:
    """What a pool needs to know of a server, whose addresses as a member so far are `known`. Raises Conflict when its agent has not told its addresses."""
    told = server["facts"] or {}
    if told.get("addresses") is None or told.get("node") is None:
        remedy = "Is it heard? An agent of an older version does not tell: update it with playbooks/update_servers.yml"
        raise Conflict(f"{server['name']} has not told its addresses", field="servers", value=server["name"], remedy=remedy)
    return ServerFacts(
        tuple(told["addresses"]),
        capacity.memory or 0,
        capacity.cpus or 0,
        capacity.tags,
        capacity.cpu_group,
        others=capacity.vms,
        address=server["address"] if _is_address(server["address"]) else None,
        known=tuple(known),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host_of(server: Mapping[str, Any]) -> str:
    """What a server calls itself: Corosync and Pacemaker know it by that name."""
    told = server["facts"] or {}
    return str(told.get("node") or told.get("hostname") or server["name"])


def _checked(pool: Pool) -> Pool:
    problems = check_pool(pool)
    if problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    return pool


def _members(pool: Pool, hosts: Mapping[str, str], ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """The members as each of them is told of all."""
    return [
        {
            **{"name": one.name, "host": hosts[one.name], "node_id": ids[hosts[one.name]], "addresses": list(one.addresses)},
            **{"memory": one.memory, "cpus": one.cpus, "tags": sorted(one.tags)},
            **({"cpu_group": one.cpu_group} if one.cpu_group else {}),
        }
        for one in pool.members
    ]


def _told(pool: Pool, hosts: Mapping[str, str], ids: Mapping[str, int], entry: Entry) -> dict[str, Any]:
    """What all members must have in common for Corosync."""
    members = {hosts[one.name]: [ids[hosts[one.name]], *one.addresses] for one in pool.members}
    return {"members": members, "token": pool.token, **_votes(entry)}


def _votes(entry: Entry) -> dict[str, Any]:
    """What decides who goes on: the quorum device, and the watchdog where there is one."""
    device, watchdog = entry.get("quorum_device"), entry.get("watchdog")
    told: dict[str, Any] = {"quorum_device": dict(device) if isinstance(device, Mapping) else None}
    return {**told, "watchdog": dict(watchdog)} if isinstance(watchdog, Mapping) else told


def recall(tools: Tools, name: str) -> Optional[Memory]:
    """What is known of a pool, or None. Raises DriverError when it was sealed with another key."""
    kept = pool_secrets.find(tools.store, name)
    return None if kept is None else Memory(kept.node_ids, **json.loads(tools.sealing.open(kept.sealed)))


def remember(tools: Tools, name: str, memory: Memory) -> None:
    """Keep what is known of a pool, sealed."""
    sealed = tools.sealing.seal(json.dumps({"authkey": memory.authkey, "entry": dict(memory.entry), "told": memory.told}).encode())
    pool_secrets.keep(tools.store, name, Kept(memory.node_ids, sealed))


def _entries(work: Work) -> dict[str, dict[str, Entry]]:
    """The entries of each pool by name and server id."""
    found: dict[str, dict[str, Entry]] = {}
    for id, document in work.documents.items():
        for entry in document.get(SECTION) or ():
            found.setdefault(str(entry["name"]), {})[id] = entry
    return found


def remember_asked(tools: Tools, work: Work) -> None:
    """Keep what is asked of clustered pools, with its secrets: a job is about to be made of it."""
    for name, entries in _entries(work).items():
        entry = next((one for one in entries.values() if "cluster" in one), None)
        memory = None if entry is None else recall(tools, name)
        if entry is None or memory is None:
            continue
        hosts = {one["name"]: [one["node_id"], *one["addresses"]] for one in entry["cluster"]["members"]}
        told = {one["host"]: hosts[one["name"]] for one in entry["cluster"]["members"]}
        asked = {key: value for key, value in entry.items() if key not in ("cluster", "state")}
        common = {"members": told, "token": entry.get("token") or Pool.token, **_votes(entry)}
        remember(tools, name, dataclasses.replace(memory, entry=asked, told=common))


def settle(tools: Tools, work: Work, outcome: Outcome) -> None:
    """What was done makes servers trust each other's libvirt, or no more; a pool that has ended everywhere is forgotten."""
    for name, entries in _entries(work).items():
        done = {id: entry for id, entry in entries.items() if outcome.requests.get((KIND, name, id)) == EFFECTIVE}
        for id, entry in done.items():
            _move(tools, id, name, entry.get("state") == "absent")
        if len(done) == len(entries) and all(entry.get("state") == "absent" for entry in entries.values()):
            if set(pool_secrets.located(tools.store).get(name, ())) <= set(done):
                pool_secrets.forget(tools.store, name)


def _move(tools: Tools, id: str, name: str, is_leaving: bool) -> None:
    """A server is given certificates of its pool, soon: whoever looks after them sees the difference."""
    row = trust.row(tools.store, id)
    pool = (row["pool"] if row is not None else None) or trust.DEFAULT_POOL
    wanted = (trust.DEFAULT_POOL if pool == name else pool) if is_leaving else name
    if wanted != pool:
        trust.note(tools.store, id, pool=wanted)
