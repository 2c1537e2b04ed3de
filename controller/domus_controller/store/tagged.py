"""What is asked of all servers with a tag, when a server gets the tag later, or loses it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from domus_core.model.field_types import TAG

from .database import Connection, Row
from .items import next_sequence, refresh, refresh_gone
from .values import from_json

# Kinds that a document realizes on servers.
REALIZED = ("network", "repository", "template", "iso", "virtual_disk")
_KINDS = ", ".join(f"'{kind}'" for kind in REALIZED)


def follow_tags(connection: Connection, server_id: str, server_spec: Mapping[str, Any], at: float) -> None:
    """What was asked of a tag that the server has is asked of the server, too: pending, and shown as missing there, until an apply makes it.

    What was asked of it for a tag that it has no more is asked of it no more; it stays there until somebody deletes it.
    """
    server = connection.execute("SELECT name FROM servers WHERE id = ?", (server_id,)).fetchone()
    if server is None or server["name"] != server_spec.get("name"):
        return
    called = {server["name"], server_id, *(f"{TAG}{tag}" for tag in server_spec.get("tags") or ())}
    rows = connection.execute(
        f"SELECT * FROM requests WHERE kind IN ({_KINDS}) AND EXISTS (SELECT 1 FROM json_each(asked, '$.servers') WHERE value LIKE '{TAG}%') ORDER BY id"
    ).fetchall()
    here = {(row["kind"], row["key"], row["site"]) for row in rows if row["server_id"] == server_id}
    for row in rows:
        wanted = bool(called.intersection(from_json(row["asked"])["servers"]))
        asked = (row["kind"], row["key"], row["site"])
        if row["server_id"] == server_id and not wanted:
            connection.execute("DELETE FROM requests WHERE id = ?", (row["id"],))
            _refresh(connection, server_id, row, at)
        elif wanted and row["state"] != "failed" and asked not in here:
            here.add(asked)
            _ask_here(connection, server_id, row, at)


def _ask_here(connection: Connection, server_id: str, row: Row, at: float) -> None:
    connection.execute(
        "INSERT INTO requests (site, server_id, kind, key, asked, job_id, state, created_at) VALUES (?, ?, ?, ?, ?, ?, 'pending', ?)",
        (row["site"], server_id, row["kind"], row["key"], row["asked"], row["job_id"], at),
    )
    known = connection.execute("SELECT 1 FROM objects WHERE kind = ? AND key = ? AND server_id = ?", (row["kind"], row["key"], server_id)).fetchone()
    if known is None:
        # As one that was there and is gone: what is missing is shown the same way, whether it ever was there or not.
        id = str(uuid.uuid5(uuid.UUID(server_id), f"{row['kind']}/{row['key']}"))
        connection.execute(
            "INSERT INTO objects (kind, id, key, name, server_id, generation, content, sequence, changed_at, deleted, drifted)"
            " VALUES (?, ?, ?, ?, ?, 0, '', ?, ?, ?, 0)",
            (row["kind"], id, row["key"], from_json(row["asked"])["name"], server_id, next_sequence(connection), at, at),
        )
    _refresh(connection, server_id, row, at)


def _refresh(connection: Connection, server_id: str, row: Row, at: float) -> None:
    found = connection.execute("SELECT row, deleted FROM objects WHERE kind = ? AND key = ? AND server_id = ?", (row["kind"], row["key"], server_id)).fetchall()
    for one in found:
        if one["deleted"] is None:
            refresh(connection, one["row"], at)
        else:
            refresh_gone(connection, one["row"])
