"""The public item of an object: made when something changes, so that reading costs nothing."""

from __future__ import annotations

import hashlib
from typing import Any, Optional

from .database import Connection, Row
from .drift import drift
from .values import as_json, from_json, shown_time

# What an item has beside its content.
STAMPS = frozenset({"etag", "sequence", "changed_at"})


def refresh(connection: Connection, row: int, at: float) -> None:
    """Make an object's public item anew; it gets a new sequence number when it is not what it was."""
    found = connection.execute(
        "SELECT o.*, s.name AS server FROM objects o LEFT JOIN servers s ON s.id = o.server_id WHERE o.row = ? AND o.deleted IS NULL", (row,)
    ).fetchone()
    if found is None:
        return
    _show(connection, found, _item(connection, found), at)


def refresh_request(connection: Connection, row: int, at: float) -> None:
    """The same when nothing but the state of its request can have changed."""
    found = connection.execute("SELECT * FROM objects WHERE row = ? AND deleted IS NULL AND item IS NOT NULL", (row,)).fetchone()
    if found is None:
        return
    item = {name: value for name, value in from_json(found["item"]).items() if name not in STAMPS}
    request = latest_request(connection, found["kind"], found["key"], found["site"], found["server_id"])
    item["request"] = _request(request)
    _show(connection, found, item, at)


def _show(connection: Connection, found: Row, item: dict[str, Any], at: float) -> None:
    content = as_json(item)
    etag = digest(content)[:24]
    if found["etag"] == etag:
        return
    sequence = next_sequence(connection)
    text = f'{content[:-1]},"etag":"{etag}","sequence":{sequence},"changed_at":"{shown_time(at)}"}}'
    connection.execute(
        "UPDATE objects SET item = ?, etag = ?, drifted = ?, sequence = ?, changed_at = ? WHERE row = ?",
        (text, etag, bool(item["drift"]), sequence, at, found["row"]),
    )


def _item(connection: Connection, row: Row) -> dict[str, Any]:
    told = from_json(row["description"])
    request = latest_request(connection, row["kind"], row["key"], row["site"], row["server_id"])
    asked = from_json(request["asked"]) if request else None
    item = {name: told.get(name) for name in ("spec", "recorded", "running", "measured")}
    item |= {name: row[name] for name in ("id", "kind", "key", "name", "server", "server_id", "site", "state", "generation")}
    item["restart_required"] = told.get("restart_required") or []
    item["asked"] = asked
    item["request"] = _request(request)
    item["conflict"] = from_json(row["conflict"])
    item["drift"] = drift(row["kind"], asked, item["recorded"], item["spec"], item["running"], state=row["state"])
    if row["kind"] == "vm":
        item["addresses"] = list((item["measured"] or {}).get("addresses") or ())
    return item


def _request(request: Optional[Row]) -> Optional[dict[str, Any]]:
    return {"job": request["job_id"], "state": request["state"]} if request else None


def latest_request(connection: Connection, kind: str, key: str, site: Optional[str], server_id: Optional[str]) -> Optional[Row]:
    """The newest request for an object; one without a server is for wherever the object is, an object without a site is of any."""
    of_site = "" if site is None else "AND site = ?"
    found: Optional[Row] = connection.execute(
        f"SELECT id, asked, job_id, state FROM requests INDEXED BY requests_object WHERE kind = ? AND key = ? {of_site}"
        " AND (server_id IS NULL OR server_id = ?) ORDER BY id DESC LIMIT 1",
        (kind, key, *(() if site is None else (site,)), server_id),
    ).fetchone()
    return found


def next_sequence(connection: Connection) -> int:
    """The next number of the change feed."""
    return int(connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'sequence' RETURNING value").fetchone()[0])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
