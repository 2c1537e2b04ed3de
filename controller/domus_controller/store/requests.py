"""What people asked for, until it has taken effect and after; the latest request for an object is shown with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from .database import Connection, Row, Store
from .items import is_as_asked, latest_request, refresh, refresh_all_gone, refresh_request
from .values import Page, as_json, checked_filters, checked_limit, decode_cursor, from_json, page_of, shown_time

PENDING, EFFECTIVE, FAILED = "pending", "effective", "failed"
# What a job says of an object that it did nothing to: whether the object is as asked decides.
UNTOUCHED = "untouched"


def record(connection: Connection, site: str, server_id: Optional[str], kind: str, key: str, asked: Mapping[str, Any], job_id: str) -> None:
    """Store what a job was asked to make of an object (secrets masked), in place of what was asked before.

    Without a server it is for wherever the object is. Without a `name` it is a change of just those fields: a verb's {"state": "stopped"}.
    """
    before = latest_request(connection, kind, key, site, server_id)
    wanted = dict(asked)
    if before is not None and "name" not in wanted:
        wanted = {**from_json(before["asked"]), **wanted}
    if server_id is None:
        connection.execute("DELETE FROM requests WHERE kind = ? AND key = ? AND site = ?", (kind, key, site))
    else:
        connection.execute("DELETE FROM requests WHERE kind = ? AND key = ? AND site = ? AND server_id = ?", (kind, key, site, server_id))
    at = float(connection.execute("SELECT store_clock()").fetchone()[0])
    connection.execute(
        "INSERT INTO requests (site, server_id, kind, key, asked, job_id, state, created_at) VALUES (?, ?, ?, ?, ?, ?, 'pending', ?)",
        (site, server_id, kind, key, as_json(wanted), job_id, at),
    )
    _refresh_objects(connection, site, server_id, kind, key, at)


def settle(store: Store, job_id: str, results: Mapping[tuple[str, ...], str], errors: Optional[Mapping[tuple[str, ...], str]] = None) -> None:
    """Note for {(kind, key): "effective" | "failed" | "untouched"} what came of a job's requests; a third part of the key narrows it to one server id.

    What nothing happened to is effective when the object is as asked, and else failed; `errors` says why.
    """

    def change(connection: Connection) -> None:
        for target, state in results.items():
            kind, key, *server = target
            found = connection.execute(
                "SELECT id, site, server_id, asked FROM requests WHERE job_id = ? AND kind = ? AND key = ?", (job_id, kind, key)
            ).fetchall()
            for row in found:
                if not server or row["server_id"] in (None, server[0]):
                    reached = state == UNTOUCHED and is_as_asked(connection, row, kind, key)
                    settled = state if state != UNTOUCHED else EFFECTIVE if reached else FAILED
                    _settle(connection, row, kind, key, settled, (errors or {}).get(target), store.now())

    store.write(change)


def _settle(connection: Connection, row: Row, kind: str, key: str, state: str, error: Optional[str], at: float) -> None:
    if state == EFFECTIVE and from_json(row["asked"]).get("state") == "absent":
        # It is gone as asked: what gets its name later was not asked for by this.
        connection.execute("DELETE FROM requests WHERE id = ?", (row["id"],))
        _refresh_objects(connection, row["site"], row["server_id"], kind, key, at)
    else:
        why = error if state == FAILED else None
        connection.execute("UPDATE requests SET state = ?, settled_at = ?, error = ? WHERE id = ?", (state, at, why, row["id"]))
        _refresh_objects(connection, row["site"], row["server_id"], kind, key, at, refresh_request)


def _refresh_objects(
    connection: Connection,
    site: str,
    server_id: Optional[str],
    kind: str,
    key: str,
    at: float,
    renew: Callable[[Connection, int, float], None] = refresh,
) -> None:
    rows = connection.execute("SELECT row, site, server_id FROM objects WHERE kind = ? AND key = ? AND deleted IS NULL", (kind, key)).fetchall()
    for row in rows:
        if row["site"] in (None, site) and server_id in (None, row["server_id"]):
            renew(connection, row["row"], at)
    refresh_all_gone(connection, kind, key)


def move(store: Store, site: Optional[str], kind: str, key: str, source: str, destination: str) -> None:
    """The object has moved: what was asked of it on the one server is asked of it on the other from now on."""

    def change(connection: Connection) -> None:
        where = "kind = ? AND key = ? AND (site = ? OR ? IS NULL) AND server_id = ?"
        moved = connection.execute(f"SELECT site FROM requests WHERE {where}", (kind, key, site, site, source)).fetchall()
        for row in moved:
            connection.execute("DELETE FROM requests WHERE kind = ? AND key = ? AND site = ? AND server_id = ?", (kind, key, row["site"], destination))
        connection.execute(f"UPDATE requests SET server_id = ? WHERE {where}", (destination, kind, key, site, site, source))
        for row in moved:
            _refresh_objects(connection, row["site"], destination, kind, key, store.now())

    store.write(change)


def page(store: Store, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None) -> Page:
    """A page of requests, the newest first: {id, site, server_id, kind, key, asked, job, state, error, created_at, settled_at}.

    Filters: state, job. Raises InvalidSpec.
    """
    checked_limit(limit)
    given = checked_filters(filters, ("state", "job"))
    terms = [f"{'job_id' if name == 'job' else name} = ?" for name in given]
    values: list[Any] = [str(value) for value in given.values()]
    if cursor is not None:
        terms.append("id < ?")
        values += decode_cursor(cursor, int)
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    rows = store.rows(f"SELECT * FROM requests{where} ORDER BY id DESC LIMIT ?", (*values, limit + 1))
    return page_of(rows, limit, _item, lambda row: (row["id"],))


def _item(row: Row) -> dict[str, Any]:
    item = {name: row[name] for name in ("id", "site", "server_id", "kind", "key", "state", "error")}
    times = {name: shown_time(row[name]) for name in ("created_at", "settled_at")}
    return {**item, **times, "job": row["job_id"], "asked": from_json(row["asked"])}
