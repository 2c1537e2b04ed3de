"""Objects of a whole site (networks, repositories, images): one under its name, realized on many servers, as one item."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from domus_core.errors import NotFound
from domus_core.model.fields import fields_of
from domus_core.model.kinds import BY_NAME

from .database import Row, Store
from .drift import drift
from .servers import CONNECTED
from .values import Page, checked_filters, checked_limit, decode_cursor, encode_cursor, from_json

KINDS = ("network", "repository", "server_pool", "template", "iso")
# What of a server's measurement is told with it.
MEASURED = ("capacity", "free", "available", "mounted", "lease", "problem", "not_for_ha", "bridge", "joined", "quorate")
LAST_CHARACTER = "\U0010ffff"


def page(store: Store, kind: str, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None) -> Page:
    """A page of the site-wide objects of a kind by name: {kind, name, spec, count, states, drifted, problem}.

    `count` is on how many servers it is, `states` on how many in which state, `drifted` on how many it is not as it is to be; `spec` is that
    of one of them, and so is the problem of a repository. Filters: name (`web*` for a beginning). Raises InvalidSpec.
    """
    checked_limit(limit)
    name = str(checked_filters(filters, ("name",)).get("name", "*"))
    first, last = (name[:-1], name[:-1] + LAST_CHARACTER) if name.endswith("*") else (name, name)
    after = decode_cursor(cursor, str)[0] if cursor is not None else ""
    rows = store.rows(
        "SELECT o.name FROM objects o INDEXED BY objects_name WHERE o.kind = ? AND o.deleted IS NULL AND o.name >= ? AND o.name <= ? AND o.name > ?"
        " GROUP BY o.name LIMIT ?",
        (kind, first, last, after, limit + 1),
    )
    names = [str(row["name"]) for row in rows[:limit]]
    return {"items": _summaries(store, kind, names), "next": encode_cursor(names[-1]) if len(rows) > limit else None}


def find(store: Store, kind: str, name: str) -> dict[str, Any]:
    """A site-wide object: {kind, name, spec, count, states, drifted, servers}.

    `spec` is what was asked for last, else what most servers have. An entry of `servers` is {server, server_id, id, state, stale, drift, differs,
    problem} and what was measured there: `drift` are the fields that are not as asked on that server, `differs` those in which its
    definition is another than `spec`, `state` is None where it is not. Raises NotFound.
    """
    here = store.rows(
        "SELECT o.server_id, s.name AS server, s.state AS server_state, o.id, o.state, o.item, o.deleted FROM objects o INDEXED BY objects_name"
        " JOIN servers s ON s.id = o.server_id WHERE o.kind = ? AND o.name >= ?2 AND o.name <= ?2 AND o.deleted IS NULL",
        (kind, name),
    )
    asked = store.rows(
        "SELECT r.id AS number, r.server_id, s.name AS server, s.state AS server_state, r.asked, r.state, r.error FROM requests r INDEXED BY requests_object"
        " LEFT JOIN servers s ON s.id = r.server_id WHERE r.kind = ? AND r.key = ?",
        (kind, name),
    )
    missing = [row for row in asked if row["server"] is not None and row["server_id"] not in {one["server_id"] for one in here} and _wanted(row)]
    if not here and not missing:
        raise NotFound("is on no server", object=f"{kind} {name}", remedy=f"List them: GET /api/v1/site/{BY_NAME[kind].section}")
    items = [from_json(row["item"]) for row in here]
    spec = _spec(items, asked)
    entries = [*(_entry(kind, row, item, spec) for row, item in zip(here, items)), *(_missing(row) for row in missing)]
    states = Counter(str(one["state"]) for one in entries if one["state"] is not None)
    drifted = sum(bool(one["drift"] or one["differs"] or one["state"] is None) for one in entries)
    servers = sorted(entries, key=lambda one: str(one["server"]))
    return {"kind": kind, "name": name, "spec": spec, "count": len(here), "states": dict(states), "drifted": drifted, "servers": servers}


def _summaries(store: Store, kind: str, names: list[str]) -> list[dict[str, Any]]:
    """What there is of each name, counted; the names follow one another."""
    problem = "max(json_extract(o.description, '$.measured.problem'))" if kind == "repository" else "NULL"
    rows = store.rows(
        f"SELECT o.name, o.state, count(*) AS count, sum(o.drifted) AS drifted, min(o.row) AS row, {problem} AS problem FROM objects o INDEXED BY objects_name"
        " WHERE o.kind = ? AND o.deleted IS NULL AND o.name >= ? AND o.name <= ? GROUP BY o.name, o.state",
        (kind, names[0], names[-1]) if names else (kind, "", ""),
    )
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row)
    return [_summary(store, kind, name, parts) for name, parts in found.items()]


def _summary(store: Store, kind: str, name: str, parts: list[Row]) -> dict[str, Any]:
    shown = store.row("SELECT item FROM objects WHERE row = ?", (min(part["row"] for part in parts),))
    spec = (from_json(shown["item"]) if shown else {}).get("spec")
    states = {str(part["state"]): part["count"] for part in parts}
    drifted, problem = sum(part["drifted"] for part in parts), next((part["problem"] for part in parts if part["problem"]), None)
    return {"kind": kind, "name": name, "spec": spec, "count": sum(states.values()), "drifted": drifted, "states": states, "problem": problem}


def _spec(items: Iterable[Mapping[str, Any]], asked: Iterable[Row]) -> Optional[dict[str, Any]]:
    requests = [row for row in asked if _wanted(row)]
    if requests:
        return dict(from_json(max(requests, key=lambda row: row["number"])["asked"]))
    texts = Counter(json.dumps(item.get("spec"), sort_keys=True) for item in items)
    return None if not texts else json.loads(texts.most_common(1)[0][0])


def _wanted(row: Row) -> bool:
    """Is it a request for something that is to be there? One without a name says only what is to change."""
    asked = from_json(row["asked"])
    return asked.get("state") != "absent" and "name" in asked


def _entry(kind: str, row: Row, item: Mapping[str, Any], spec: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    measured = item.get("measured") or {}
    request = item.get("request") or {}
    return {
        **_place(row),
        "id": row["id"],
        "state": row["state"],
        "drift": [one["field"] for one in item.get("drift") or ()],
        "differs": _differing(kind, item.get("spec") or {}, spec or {}),
        **{name: measured[name] for name in MEASURED if name in measured},
        "problem": measured.get("problem") or "; ".join(measured.get("amiss") or ()) or (request.get("error") if request.get("state") == "failed" else None),
    }


def _missing(row: Row) -> dict[str, Any]:
    """A server where it was asked for and is not: yet, or any more."""
    why = {"pending": "is being made", "failed": row["error"] or "could not be made"}.get(row["state"], "is gone")
    return {**_place(row), "id": None, "state": None, "drift": [], "differs": [], "problem": why}


def _place(row: Row) -> dict[str, Any]:
    return {"server": row["server"], "server_id": row["server_id"], "stale": row["server_state"] not in CONNECTED}


def _differing(kind: str, own: Mapping[str, Any], common: Mapping[str, Any]) -> list[str]:
    """The fields in which it is otherwise than on the others, or than it was asked for, where that says something of them."""
    required = {field.name for field in fields_of(BY_NAME[kind].spec) if field.required}
    found = drift(kind, {**common, "state": None}, None, {**own, "state": None}, None)
    return [name for name in dict.fromkeys(re.split(r"[.\[]", one["field"])[0] for one in found) if name not in required]
