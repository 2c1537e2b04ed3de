"""The site document: sections of objects, checked as a whole before anything looks at a server."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import DomusError, InvalidSpec, Refused, printable
from .field_types import TAG, Name
from .fields import MOST_PROBLEMS, parse_spec
from .kind import Kind
from .kinds import BY_SECTION, KINDS

DEFAULT_SITE = "default"
MOST_OBJECTS = 100_000


@dataclasses.dataclass(frozen=True)
class Site:
    """A checked document: per kind the wanted objects by key, in the order of the document."""

    name: str
    objects: Mapping[str, Mapping[str, Any]]

    def wanted(self, kind: str) -> Mapping[str, Any]:
        """The wanted objects of a kind, by key."""
        return self.objects.get(kind, {})


def key_of(kind: str, spec: Any) -> str:
    """What an object is known by within its kind: its name; `repository/name` for a virtual disk."""
    return f"{spec.repository}/{spec.name}" if kind == "virtual_disk" else str(spec.name)


def parse_document(data: Any, *, server: Optional[str] = None) -> Site:
    """Check a document and return it; with `server`, only what concerns that server.

    Raises InvalidSpec, or Refused with all problems (100 at most).
    """
    if not isinstance(data, Mapping):
        raise InvalidSpec("is not a mapping of sections", object="document", value=type(data).__name__, remedy=f"Known sections: {', '.join(BY_SECTION)}")
    if sum(len(entries) for entries in data.values() if isinstance(entries, (list, tuple))) > MOST_OBJECTS:
        raise InvalidSpec(f"has more than {MOST_OBJECTS} objects", object="document", remedy="Split it")
    problems: list[DomusError] = []
    name = _site_name(data, problems)
    objects: dict[str, dict[str, Any]] = {}
    for section, entries in data.items():
        if len(problems) >= MOST_PROBLEMS:
            break
        kind = BY_SECTION.get(section) if isinstance(section, str) else None
        if kind is not None:
            objects[kind.name] = _parse_section(kind, entries, problems)
        elif section != "site":
            problems.append(_unknown_section(section))
    if problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    concerned = _names_of(server, objects)
    ordered = {kind.name: _concerning(concerned, objects[kind.name]) for kind in KINDS if kind.name in objects}
    return Site(name, ordered)


def _site_name(data: Mapping[Any, Any], problems: list[DomusError]) -> str:
    try:
        return Name().parse(data.get("site", DEFAULT_SITE))
    except InvalidSpec as error:
        problems.append(error.located("document", "site"))
        return DEFAULT_SITE


def _parse_section(kind: Kind, entries: Any, problems: list[DomusError]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    if entries is None:
        return parsed
    if not isinstance(entries, (list, tuple)):
        problems.append(InvalidSpec("is not a list of objects", object="document", field=kind.section, value=type(entries).__name__))
        return parsed
    for position, entry in enumerate(entries):
        if len(problems) >= MOST_PROBLEMS:
            break
        name = entry.get("name") if isinstance(entry, (dict, Mapping)) else None
        label = f"{kind.name} {name}" if isinstance(name, str) and len(name) < 64 and name.isprintable() else f"{kind.section}[{position}]"
        spec = parse_spec(kind.spec, entry, problems, label)
        if spec is not None:
            key = key_of(kind.name, spec)
            if key in parsed:
                problems.append(InvalidSpec("is in the document twice", object=label, field="name", value=key, remedy="Keep one of them"))
            parsed[key] = spec
    return parsed


def _unknown_section(section: Any) -> InvalidSpec:
    text = printable(section)
    near = difflib.get_close_matches(text[:60], [*BY_SECTION, "site"], n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known sections: site, {', '.join(BY_SECTION)}"
    return InvalidSpec("is not a known section", object="document", field=text, remedy=remedy)


def _names_of(server: Optional[str], objects: Mapping[str, Mapping[str, Any]]) -> Optional[frozenset[str]]:
    """What the document may call a server: its name, and the tags that it gives it."""
    if server is None:
        return None
    spec = objects.get("server", {}).get(server)
    return frozenset((server, *(f"{TAG}{tag}" for tag in (spec and spec.tags) or ())))


def _concerning(server: Optional[frozenset[str]], objects: dict[str, Any]) -> dict[str, Any]:
    if server is None:
        return objects
    return {key: spec for key, spec in objects.items() if _concerns(server, spec)}


def _concerns(server: frozenset[str], spec: Any) -> bool:
    if type(spec).__name__ == "ServerSpec":
        return spec.name in server
    servers = getattr(spec, "servers", None)
    if servers is not None:
        return not server.isdisjoint(servers)
    named = getattr(spec, "server", None)
    return named is None or named in server
