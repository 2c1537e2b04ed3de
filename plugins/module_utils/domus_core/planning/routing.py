"""Routing: which server gets which objects of a document, and what of it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from ..errors import Conflict, DomusError, InvalidSpec, NotFound, Refused, printable
from ..model.document import DEFAULT_SITE, Site, key_of, parse_document
from ..model.field_types import TAG
from ..model.kind import is_absent
from ..model.kinds import KINDS
from .capacity import Demand, Need, Server, demand_of, needs_of
from .placement import Placement, broken_by_name, place_all
from .spare import SparePlanner

Located = Mapping[str, Sequence[str]]
Targets = Optional[list[str]]


@dataclasses.dataclass(frozen=True)
class Routed:
    """The document of each server that gets something, by server id, and of the VMs that were placed where and why, by name."""

    documents: Mapping[str, Mapping[str, Any]]
    placements: Mapping[str, Placement]


def route(document: Mapping[str, Any], servers: Iterable[Server], located: Located, pools: Optional[Located] = None) -> Routed:
    """What each server gets; entries are as written, but what they say of servers is resolved to names.

    `located` are the ids of the servers on which a VM of that name was found, or promised. A VM goes where it is, a new one to its `server`,
    else to the only one there is, else to where it is placed. What says `servers` goes there, by name, id or tag; an object of kind
    server to the one of its name; the rest to all that get something, or else to all.
    `pools` are the ids of the servers of each server pool: it goes to those that it names, else to those that it has; those that it names
    no more get it with `state: absent`.
    Raises InvalidSpec, NotFound, Conflict, NoCapacity, or Refused with all of them.
    """
    site = parse_document(document)
    router = _Router(site, servers, located, pools or {})
    placed = [(kind, entry, spec, router.targets(kind.name, spec)) for kind in KINDS for entry, spec in _entries(kind, document, site)]
    if not router.names and placed and not router.problems:
        router.problems.append(NotFound("there is no server yet", object="document", remedy="Take one over first: domus server add"))
    homes = router.homes([spec for kind, dummy, spec, targets in placed if kind.name == "vm" and targets == []])
    if router.problems:
        raise Refused(router.problems) if len(router.problems) > 1 else router.problems[0]
    settled = [(kind.section, entry, [homes[spec.name].server] if targets == [] else targets) for kind, entry, spec, targets in placed]
    settled += [("server_pools", {"name": name, "state": "absent"}, leaving) for name, leaving in router.leaving().items()]
    return Routed(_documents(document, settled, router.names), homes)


def _entries(kind: Any, document: Mapping[str, Any], site: Site) -> Iterable[tuple[Any, Any]]:
    return zip(document.get(kind.section) or (), site.wanted(kind.name).values())


class _Router:
    """Finds the servers of each object; what can not be found is kept in `problems`."""

    def __init__(self, site: Site, servers: Iterable[Server], located: Located, pools: Located) -> None:
        self.problems: list[DomusError] = []
        self._site = site
        self._pools = pools
        self._servers = {one.id: _as_wanted(one, site) for one in servers}
        self._located = located
        self.names = {one.id: one.name for one in self._servers.values()}
        self._targets: dict[Need, Targets] = {}

    def targets(self, kind: str, spec: Any) -> Targets:
        """The ids of the servers that get an object; None: those that get something anyway; empty: a VM that is to be placed."""
        object = (kind, key_of(kind, spec))
        if object not in self._targets:
            try:
                self._targets[object] = self._found(kind, spec)
            except DomusError as error:
                self.problems.append(error.located(" ".join(object)))
                self._targets[object] = None
        return self._targets[object]

    def leaving(self) -> dict[str, list[str]]:
        """The servers that each pool of the document has, and names no more."""
        staying = {name: self.targets("server_pool", spec) or () for name, spec in self._site.wanted("server_pool").items()}
        found = {name: [one for one in self._pools.get(name, ()) if one in self.names and one not in kept] for name, kept in staying.items()}
        return {name: leaving for name, leaving in found.items() if leaving}

    def homes(self, vms: Sequence[Any]) -> dict[str, Placement]:
        """Where the VMs go that say nothing of it, the rules of those that do being kept as well."""
        offered = self._offered()
        settled = self._settled(offered)
        if self.problems or not vms:
            return {}
        placed = place_all([demand_of(spec, frozenset(needs_of(spec))) for spec in vms], settled, SparePlanner)
        self.problems += [one.located(f"vm {name}") for name, one in placed.items() if isinstance(one, DomusError)]
        return {name: one for name, one in placed.items() if isinstance(one, Placement)}

    def _found(self, kind: str, spec: Any) -> Targets:
        if kind == "vm":
            return self._home(spec)
        if kind == "server":
            return [self._server(spec.name, "name")]
        if kind == "server_pool":
            return self._members(spec)
        if spec.servers == ():
            raise InvalidSpec("names no server", field="servers", remedy="Name one, or leave it out: then all servers that get something have it")
        return None if spec.servers is None else list(dict.fromkeys(one for name in spec.servers for one in self._named(name)))

    def _home(self, spec: Any) -> list[str]:
        there = list(dict.fromkeys(self._located.get(spec.name, ())))
        if len(there) > 1:
            names = " and ".join(self.names.get(one, one) for one in there)
            raise Conflict(
                f"is on more than one server: {names}", field="name", value=spec.name, remedy="Rename one of them, or delete the one that is not wanted"
            )
        if there:
            return [self._server(there[0], "server")]
        if spec.server is not None:
            return [self._server(spec.server, "server")]
        if not self.names:
            raise NotFound("there is no server to put it on", remedy="Take one over first: domus server add")
        if (len(self.names) > 1 or spec.pool is not None) and not is_absent(spec):
            return []
        # One that is nowhere is absent already: whoever is asked says so.
        return [min(self._servers.values(), key=lambda one: (one.closed is not None, one.name, one.id)).id]

    def _members(self, spec: Any) -> list[str]:
        """The servers of a pool; of one that ends all that it has. Raises InvalidSpec, NotFound, Conflict for one that is in another pool."""
        there = [one for one in self._pools.get(spec.name, ()) if one in self.names]
        named = list(dict.fromkeys(self._server(one, "servers") for one in spec.servers or ()))
        if is_absent(spec):
            return there or named or list(self.names)[:1]
        members = there if spec.servers is None else named
        if not members:
            raise InvalidSpec("is missing", field="servers", remedy="Name the servers of the pool")
        for one in members:
            if (other := self._pool_of(one, spec.name)) is not None:
                remedy = f"Take it out of {other}, in the same document if you like"
                raise Conflict(f"is in server pool {other}", field="servers", value=self.names[one], remedy=remedy)
        return members

    def _pool_of(self, server: str, own: str) -> Optional[str]:
        """The other pool that a server is, or is to be, in."""
        wanted = self._site.wanted("server_pool")
        for name in dict.fromkeys([*wanted, *self._pools]):
            spec = wanted.get(name)
            if name == own or (spec is not None and is_absent(spec)):
                continue
            named = None if spec is None or spec.servers is None else {server, self.names[server]}.intersection(spec.servers)
            if named or (named is None and server in self._pools.get(name, ())):
                return name
        return None

    def _named(self, reference: str) -> list[str]:
        if not reference.startswith(TAG):
            return [self._server(reference, "servers")]
        tag = reference[len(TAG) :]
        tagged = [one.id for one in self._servers.values() if tag in one.tags]
        if not tagged:
            remedy = f"Tag a server: write tags: [{tag}] in the section servers of a document"
            raise NotFound("no server has this tag", field="servers", value=reference, remedy=remedy)
        return tagged

    def _server(self, wanted: str, field: str) -> str:
        """The id of the server of this name or id. Raises NotFound, and Conflict when several have the name."""
        named = [one for one, name in self.names.items() if name == wanted]
        if len(named) > 1:
            raise Conflict("several servers have this name", field=field, value=wanted, remedy=f"Say which one by its id: {', '.join(named)}")
        if named or wanted in self.names:
            return named[0] if named else wanted
        near = difflib.get_close_matches(printable(wanted), self.names.values(), n=3)
        known = f"Known: {_some(self.names.values())}" if self.names else "Take it over first: domus server add"
        raise NotFound("there is no server of this name", field=field, value=wanted, remedy=f"Did you mean {', '.join(near)}?" if near else known)

    def _offered(self) -> dict[str, Server]:
        """The servers with what the document brings to each of them, and without what it takes away."""
        brought: list[tuple[Need, Targets, bool]] = []
        for kind in KINDS:
            if kind.name not in ("server", "vm"):
                for key, spec in self._site.wanted(kind.name).items():
                    brought.append(((kind.name, key), self.targets(kind.name, spec), is_absent(spec)))
        return {one.id: dataclasses.replace(one, offers=_offers(one, brought)) for one in self._servers.values()}

    def _settled(self, servers: dict[str, Server]) -> list[Server]:
        """The servers with the document's VMs of which it is known where they are or go; rules that a new one breaks are problems."""
        for name, spec in self._site.wanted("vm").items():
            known = bool(self._located.get(name))
            for target in () if is_absent(spec) else self.targets("vm", spec) or ():
                server, demand = servers[target], demand_of(spec)
                broken = None if known else broken_by_name(demand, server)
                if broken is not None:
                    remedy = "Name another server, or none: then one is chosen"
                    self.problems.append(Conflict(f"may not be made on {server.name}: {broken}", object=f"vm {name}", field="server", remedy=remedy))
                others = tuple(vm for vm in server.vms if vm.name != name)
                before = next((vm for vm in server.vms if vm.name == name), None)
                servers[target] = dataclasses.replace(server, vms=(*others, _grown(before, demand, spec)))
        return list(servers.values())


def _as_wanted(server: Server, site: Site) -> Server:
    """The server with the tags, the CPU group, and its pool's spare room, that the same document gives it."""
    server = _in_its_pool(server, site)
    spec = site.wanted("server").get(server.name)
    if spec is None:
        return server
    tags = server.tags if spec.tags is None else frozenset(spec.tags)
    return dataclasses.replace(server, tags=tags, cpu_group=spec.cpu_group or server.cpu_group)


def _in_its_pool(server: Server, site: Site) -> Server:
    """The server in the pool of the document, with the spare room that its policy keeps from now on."""
    for pool in site.wanted("server_pool").values():
        is_member = server.pool == pool.name if pool.servers is None else server.name in pool.servers
        if is_member and not is_absent(pool):
            spare = server.spare_servers if pool.policy is None or pool.policy.spare_servers is None else pool.policy.spare_servers
            return dataclasses.replace(server, pool=pool.name, spare_servers=spare)
    return server


def _offers(server: Server, brought: Iterable[tuple[Need, Targets, bool]]) -> frozenset[Need]:
    here = [(need, absent) for need, targets, absent in brought if targets is None or server.id in targets]
    gone = {need for need, absent in here if absent}
    return (server.offers | {need for need, absent in here if not absent}) - gone


def _grown(before: Optional[Demand], demand: Demand, spec: Any) -> Demand:
    """What a VM that is there needs, as far as the document changes it."""
    if before is None:
        return demand
    return dataclasses.replace(
        before,
        memory=max(before.memory, spec.memory or 0),
        cpus=max(before.cpus, spec.cpus or 0),
        anti_affinity=before.anti_affinity if spec.anti_affinity is None else demand.anti_affinity,
    )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")


def _documents(document: Mapping[str, Any], placed: list[tuple[str, Any, Targets]], names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    getting = dict.fromkeys(target for dummy, entry, targets in placed for target in targets or ()) or dict.fromkeys(names)
    documents: dict[str, dict[str, Any]] = {}
    for section, entry, targets in placed:
        for target in getting if targets is None else targets:
            documents.setdefault(target, {"site": document.get("site", DEFAULT_SITE)}).setdefault(section, []).append(_resolved(entry, target, targets, names))
    return documents


def _resolved(entry: Any, target: str, targets: Targets, names: Mapping[str, str]) -> Any:
    """The entry as the server understands it: a VM has moved since its `server` was written, and ids are the manager's."""
    resolved = {"server": names[target], "servers": [names[one] for one in targets or ()]}
    changed = {field: name for field, name in resolved.items() if entry.get(field) not in (None, name)}
    return {**entry, **changed} if changed else entry
