"""The public item of an object: made when something changes, so that reading costs nothing."""

from __future__ import annotations

import hashlib
from typing import Any, Optional

from .database import Connection, Row
from .drift import drift, gone
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


def refresh_gone(connection: Connection, row: int) -> None:
    """Show an object that is gone as drift while it is asked for, and else not at all."""
    found = connection.execute(
        "SELECT o.*, s.name AS server FROM objects o LEFT JOIN servers s ON s.id = o.server_id WHERE o.row = ? AND o.deleted IS NOT NULL", (row,)
    ).fetchone()
    if found is None:
        return
    request = latest_request(connection, found["kind"], found["key"], found["site"], found["server_id"])
    asked = from_json(request["asked"]) if request and request["state"] != "failed" else {"state": "absent"}
    item = None
    if found["server"] is not None and asked.get("state") != "absent" and not _is_elsewhere(connection, found):
        item = {name: found[name] for name in ("kind", "id", "key", "name", "server", "server_id", "site")}
        item |= {"state": None, "restart_required": [], "drift": gone(asked)}
    connection.execute("UPDATE objects SET drifted = ?, item = ? WHERE row = ?", (item is not None, as_json(item) if item else None, row))


def _is_elsewhere(connection: Connection, row: Row) -> bool:
    """Is there an object of its key on its server again, or does the same VM live on another?"""
    again = connection.execute(
        "SELECT 1 FROM objects WHERE server_id = ? AND kind = ? AND key = ? AND deleted IS NULL", (row["server_id"], row["kind"], row["key"])
    ).fetchone()
    moved = row["kind"] == "vm" and connection.execute("SELECT 1 FROM objects WHERE kind = 'vm' AND id = ? AND deleted IS NULL", (row["id"],)).fetchone()
    return bool(again or moved or (row["kind"] == "vm" and is_moving(connection, row["id"])))


def is_moving(connection: Connection, vm: str) -> bool:
    """Is a migration of this VM under way?"""
    sql = "SELECT 1 FROM jobs INDEXED BY jobs_state WHERE state IN ('running', 'queued') AND kind = 'migrate' AND json_extract(options, '$.vm') = ?"
    return connection.execute(sql, (vm,)).fetchone() is not None


def refresh_all_gone(connection: Connection, kind: str, key: str, id: Optional[str] = None) -> None:
    """The same for all that are shown as gone under this key, or were this VM."""
    rows = connection.execute("SELECT row FROM objects INDEXED BY objects_gone WHERE kind = ? AND key = ? AND deleted IS NOT NULL", (kind, key)).fetchall()
    if kind == "vm" and id is not None:
        rows += connection.execute("SELECT row FROM objects WHERE kind = 'vm' AND id = ? AND deleted IS NOT NULL AND key != ?", (id, key)).fetchall()
    for row in rows:
        refresh_gone(connection, row["row"])


def is_as_asked(connection: Connection, request: Row, kind: str, key: str) -> bool:
    """Is the object of a request everywhere what the request asks for?"""
    asked = from_json(request["asked"])
    rows = connection.execute(
        "SELECT * FROM objects WHERE kind = ? AND key = ? AND deleted IS NULL AND (site IS NULL OR site = ?) AND server_id = coalesce(?, server_id)",
        (kind, key, request["site"], request["server_id"]),
    ).fetchall()
    if asked.get("state") == "absent" or not rows:
        return asked.get("state") == "absent" and not rows
    return not any(_differences(row, from_json(row["description"]), asked, None) for row in rows)


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
    item["drift"] = _differences(row, told, asked, item["recorded"])
    if row["kind"] == "vm":
        item["addresses"] = list((item["measured"] or {}).get("addresses") or ())
    return item


def _differences(row: Row, told: dict[str, Any], asked: Any, recorded: Any) -> list[dict[str, Any]]:
    return drift(row["kind"], asked, recorded, told.get("spec"), told.get("running"), state=row["state"], measured=told.get("measured"))


def _request(request: Optional[Row]) -> Optional[dict[str, Any]]:
    if request is None:
        return None
    told = {"job": request["job_id"], "state": request["state"]}
    return {**told, "error": request["error"]} if request["error"] else told


def latest_request(connection: Connection, kind: str, key: str, site: Optional[str], server_id: Optional[str]) -> Optional[Row]:
    """The newest request for an object; one without a server is for wherever the object is, an object without a site is of any."""
    of_site = "" if site is None else "AND site = ?"
    found: Optional[Row] = connection.execute(
        f"SELECT id, site, server_id, asked, job_id, state, error FROM requests INDEXED BY requests_object WHERE kind = ? AND key = ? {of_site}"
        " AND (server_id IS NULL OR server_id = ?) ORDER BY id DESC LIMIT 1",
        (kind, key, *(() if site is None else (site,)), server_id),
    ).fetchone()
    return found


def next_sequence(connection: Connection) -> int:
    """The next number of the change feed."""
    return int(connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'sequence' RETURNING value").fetchone()[0])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
