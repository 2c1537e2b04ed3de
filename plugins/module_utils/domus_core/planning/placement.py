"""Placement: which server gets which objects of a document."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from ..errors import Conflict, DomusError, InvalidSpec, NotFound, Refused, printable
from ..model.document import DEFAULT_SITE, key_of, parse_document
from ..model.kinds import KINDS

Servers = Mapping[str, str]


def route(document: Mapping[str, Any], servers: Servers, located: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """The document of each server that gets something, by server id; entries are as written, but what they say of servers is resolved to names.

    `servers` are the names by id, `located` the ids of the servers on which a VM of that name was found. A VM goes where it is, a new one
    to its `server`, or to the only one there is. What says `servers` goes there, by name or id; an object of kind server to the
    one of its name; the rest to all that get something, or else to all. Raises InvalidSpec, NotFound, Conflict, or Refused with all of them.
    """
    site = parse_document(document)
    problems: list[DomusError] = []
    placed: list[tuple[str, Any, Optional[list[str]]]] = []
    for kind in KINDS:
        for entry, spec in zip(document.get(kind.section) or (), site.wanted(kind.name).values()):
            try:
                placed.append((kind.section, entry, _targets(kind.name, spec, servers, located)))
            except DomusError as error:
                problems.append(error.located(f"{kind.name} {key_of(kind.name, spec)}"))
    if not servers and placed and not problems:
        problems.append(NotFound("there is no server yet", object="document", remedy="Take one over first: domus server add"))
    if problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    return _documents(document, placed, servers)


def _targets(kind: str, spec: Any, servers: Servers, located: Mapping[str, Sequence[str]]) -> Optional[list[str]]:
    """The ids of the servers that get an object; None: those that get something anyway."""
    if kind == "vm":
        return [_home(spec, servers, located.get(spec.name, ()))]
    if kind == "server":
        return [_server(spec.name, servers, "name")]
    named = getattr(spec, "servers", None)
    if named is None and getattr(spec, "server", None) is not None:
        named = (spec.server,)
    if named == ():
        raise InvalidSpec("names no server", field="servers", remedy="Name one, or leave it out: then all servers that get something have it")
    return None if named is None else list(dict.fromkeys(_server(name, servers, "servers") for name in named))


def _home(spec: Any, servers: Servers, found: Sequence[str]) -> str:
    there = list(dict.fromkeys(found))
    if len(there) > 1:
        names = " and ".join(servers.get(one, one) for one in there)
        raise Conflict(f"is on more than one server: {names}", field="name", value=spec.name, remedy="Rename one of them, or delete the one that is not wanted")
    if there:
        return _server(there[0], servers, "server")
    if spec.server is not None:
        return _server(spec.server, servers, "server")
    if len(servers) == 1:
        return next(iter(servers))
    if not servers:
        raise NotFound("there is no server to put it on", remedy="Take one over first: domus server add")
    raise InvalidSpec("is new, and does not say on which server it is to be", field="server", remedy=f"Say server: one of {_some(servers.values())}")


def _server(wanted: str, servers: Servers, field: str) -> str:
    """The id of the server of this name or id. Raises NotFound, and Conflict when several have the name."""
    named = [one for one, name in servers.items() if name == wanted]
    if len(named) > 1:
        raise Conflict("several servers have this name", field=field, value=wanted, remedy=f"Say which one by its id: {', '.join(named)}")
    if named or wanted in servers:
        return named[0] if named else wanted
    near = difflib.get_close_matches(printable(wanted), servers.values(), n=3)
    remedy = f"Did you mean {', '.join(near)}?" if near else f"Known: {_some(servers.values())}" if servers else "Take it over first: domus server add"
    raise NotFound("there is no server of this name", field=field, value=wanted, remedy=remedy)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")


def _documents(document: Mapping[str, Any], placed: list[tuple[str, Any, Optional[list[str]]]], servers: Servers) -> dict[str, dict[str, Any]]:
    getting = dict.fromkeys(target for dummy, entry, targets in placed for target in targets or ()) or dict.fromkeys(servers)
    documents: dict[str, dict[str, Any]] = {}
    for section, entry, targets in placed:
        for target in getting if targets is None else targets:
            documents.setdefault(target, {"site": document.get("site", DEFAULT_SITE)}).setdefault(section, []).append(
                _resolved(entry, target, targets, servers)
            )
    return documents


def _resolved(entry: Any, target: str, targets: Optional[list[str]], servers: Servers) -> Any:
    """The entry as the server understands it: a VM has moved since its `server` was written, and ids are the manager's."""
    names = {"server": servers[target], "servers": [servers[one] for one in targets or ()]}
    changed = {field: name for field, name in names.items() if entry.get(field) not in (None, name)}
    return {**entry, **changed} if changed else entry
