"""What happened, in the order in which the manager came to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from domus_core.model.kinds import KINDS

from .database import Connection, Row, Store
from .servers import known_server_id
from .values import Page, as_json, checked_filters, checked_limit, checked_time, decode_cursor, from_json, page_of, shown_time

SEVERITIES = ("info", "warning", "error")
KNOWN_KINDS = ", ".join(f"'{kind.name}'" for kind in KINDS)
FILTERS = ("kind", "server", "object", "severity")
MOST_FORGOTTEN = 5000


def add(connection: Connection, event: Mapping[str, Any], received_at: Optional[float] = None) -> int:
    """Store {at, kind, severity, server_id, object, data, operation} and return its number; `at` is the time where it happened."""
    object, severity, at = event.get("object"), event.get("severity"), checked_time(event["at"])
    made = connection.execute(
        "INSERT INTO events (at, received_at, kind, severity, server_id, object_id, object, data, operation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            at,
            at if received_at is None else received_at,
            event["kind"],
            severity if severity in SEVERITIES else "info",
            event.get("server_id"),
            object.get("id") if object else None,
            as_json(object) if object else None,
            as_json(event.get("data") or {}),
            event.get("operation"),
        ),
    )
    return int(made.lastrowid or 0)


def page(store: Store, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None, since: Optional[int] = None) -> Page:
    """A page of events, the newest first; with `since` those with a higher number, the oldest first.

    Filters: kind (`vm.*` for all of a kind), server (id or name), object (id or name), severity. Raises InvalidSpec, NotFound (no such server).
    """
    checked_limit(limit)
    given = checked_filters(filters, FILTERS)
    following = since is not None
    terms, values = _terms(store, given)
    after = decode_cursor(cursor, int)[0] if cursor is not None else since
    if after is not None:
        terms.append(f"e.id {'>' if following else '<'} ?")
        values.append(after)
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    rows = store.rows(
        f"SELECT e.*, s.name AS server FROM events e {_index(given)} LEFT JOIN servers s ON s.id = e.server_id{where}"
        f" ORDER BY e.id {'' if following else 'DESC'} LIMIT ?",
        (*values, limit + 1),
    )
    return page_of(rows, limit, _item, lambda row: (row["id"],))


def _terms(store: Store, given: dict[str, Any]) -> tuple[list[str], list[Any]]:
    terms, values = [], []
    for name, value in given.items():
        if name == "kind" and str(value).endswith("*"):
            terms.append("e.kind >= ? AND e.kind < ?")
            values += [str(value)[:-1], str(value)[:-1] + "\U0010ffff"]
            continue
        if name == "object":
            named = store.rows(f"SELECT id FROM objects WHERE kind IN ({KNOWN_KINDS}) AND name = ? AND deleted IS NULL LIMIT 100", (str(value),))
            ids = [str(value), *(str(row["id"]) for row in named)]
            terms.append(f"e.object_id IN ({', '.join('?' * len(ids))})")
            values += ids
            continue
        terms.append(f"e.{'server_id' if name == 'server' else name} = ?")
        values.append(known_server_id(store, str(value)) if name == "server" else str(value))
    return terms, values


def _index(given: dict[str, Any]) -> str:
    """The index that is already in the order of the answer; for a beginning of a kind that is the table itself."""
    exact = [name for name in ("object", "kind", "server", "severity") if name in given and not str(given[name]).endswith("*")]
    return f"INDEXED BY events_{exact[0]}" if exact else "NOT INDEXED"


def latest(store: Store) -> int:
    """The number of the newest event, to follow on from."""
    found = store.row("SELECT max(id) AS id FROM events")
    return int(found["id"] or 0) if found else 0


def forget(store: Store, before: float) -> int:
    """Forget the events that were received before that time, in short transactions; return how many."""
    forgotten = 0
    while True:
        gone = store.write(_forget_some(before))
        forgotten += gone
        if gone < MOST_FORGOTTEN:
            return forgotten


def _forget_some(before: float) -> Callable[[Connection], int]:
    # The numbers follow the order of arrival: the oldest are looked at, whatever the clock said since.
    oldest = "SELECT id, received_at FROM events ORDER BY id LIMIT ?"
    sql = f"DELETE FROM events WHERE id IN (SELECT id FROM ({oldest}) WHERE received_at < ?)"
    return lambda connection: connection.execute(sql, (MOST_FORGOTTEN, before)).rowcount


def _item(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "at": shown_time(row["at"]),
        "received_at": shown_time(row["received_at"]),
        "kind": row["kind"],
        "severity": row["severity"],
        "server": row["server"],
        "server_id": row["server_id"],
        "object": from_json(row["object"]),
        "data": from_json(row["data"]),
        "operation": row["operation"],
    }
