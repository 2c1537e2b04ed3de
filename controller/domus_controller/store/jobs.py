"""Jobs and their events. A finished job is the audit record: see audit.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.errors import NotFound
from domus_core.verbs import VERBS

from . import audit
from .database import Connection, Row, Store
from .values import Page, as_json, checked_filters, checked_limit, checked_word, decode_cursor, from_json, page_of, shown_time

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING)
APPLY = "apply"
MIGRATE = "migrate"
EVACUATE = "evacuate"
BALANCE, POWER_OFF, POWER_ON = "balance", "power_off", "power_on"
KINDS = (APPLY, *VERBS, MIGRATE, EVACUATE, BALANCE, POWER_OFF, POWER_ON)
# What other jobs begin as part of theirs; it says so in its options.
PARTS = (MIGRATE, POWER_OFF, POWER_ON)


def create(connection: Connection, job: Mapping[str, Any]) -> dict[str, Any]:
    """Store a queued job {id, kind, created_by, reason, check, objects, servers, options, sealed, relaunch_of} and return its item."""
    connection.execute(
        "INSERT INTO jobs (id, kind, state, checked, created_at, created_by, reason, objects, servers, options, sealed, relaunch_of)"
        " VALUES (?, ?, 'queued', ?, store_clock(), ?, ?, ?, ?, ?, ?, ?)",
        (
            job["id"],
            job["kind"],
            bool(job.get("check")),
            job["created_by"],
            job.get("reason") or "",
            as_json(job.get("objects") or []),
            as_json(job.get("servers") or []),
            as_json(job.get("options") or {}),
            job.get("sealed"),
            job.get("relaunch_of"),
        ),
    )
    return _item(_existing(connection.execute("SELECT * FROM jobs WHERE id = ?", (job["id"],)).fetchone(), job["id"]))


def find(store: Store, id: str) -> dict[str, Any]:
    """A job. Raises NotFound."""
    return _item(_existing(store.row("SELECT * FROM jobs WHERE id = ?", (id,)), id))


def state(store: Store, id: str) -> str:
    """The state of a job, without reading the rest of it. Raises NotFound."""
    return str(_existing(store.row("SELECT state FROM jobs WHERE id = ?", (id,)), id)["state"])


def details(store: Store, id: str) -> dict[str, Any]:
    """A job with what only the manager itself needs: servers, options, process, cancelled_by. Raises NotFound."""
    return _details(_existing(store.row("SELECT * FROM jobs WHERE id = ?", (id,)), id))


def page(store: Store, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None) -> Page:
    """A page of jobs, the newest first, without their results: those of large jobs are large. Filters: state, kind (apply, or a verb). Raises InvalidSpec."""
    checked_limit(limit)
    given = checked_filters(filters, ("state", "kind"))
    if "kind" in given:
        checked_word("kind", str(given["kind"]), KINDS)
    terms = [f"{name} = ?" for name in given]
    values: list[Any] = [str(value) for value in given.values()]
    if cursor is not None:
        terms.append("number < ?")
        values += decode_cursor(cursor, int)
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    rows = store.rows(f"SELECT * FROM jobs{where} ORDER BY number DESC LIMIT ?", (*values, limit + 1))
    return page_of(rows, limit, lambda row: {**_item(row), "result": None}, lambda row: (row["number"],))


def unfinished(store: Store) -> list[dict[str, Any]]:
    """The jobs that are queued or running, the oldest first, each as `details` gives it."""
    rows = [row for state in UNFINISHED for row in store.rows("SELECT * FROM jobs WHERE state = ? ORDER BY number", (state,))]
    return [_details(row) for row in sorted(rows, key=lambda row: int(row["number"]))]


def parts_of(store: Store, job: str, kinds: Sequence[str] = PARTS) -> list[dict[str, Any]]:
    """The jobs of these kinds that a job has begun, the oldest first, each as `details` gives it."""
    sql = "SELECT * FROM jobs INDEXED BY jobs_kind WHERE kind = ? AND json_extract(options, '$.evacuation') = ? ORDER BY number"
    rows = [row for kind in kinds for row in store.rows(sql, (kind, job))]
    return [_details(row) for row in sorted(rows, key=lambda row: int(row["number"]))]


def start(store: Store, id: str, process: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """A job runs now, in the process {pid, started} if it has one; what is told later is added to it. Ended jobs stay as they are."""

    def change(connection: Connection) -> None:
        connection.execute(
            "UPDATE jobs SET state = 'running', started_at = coalesce(started_at, ?), process = json_patch(coalesce(process, '{}'), ?), waiting_for = NULL"
            " WHERE id = ? AND state IN ('queued', 'running')",
            (store.now(), as_json(process or {}), id),
        )

    store.write(change)
    return find(store, id)


def finish(store: Store, id: str, state: str, changed: Optional[bool], error: Optional[Mapping[str, Any]] = None, result: Any = None) -> None:
    """A job has ended, and enters the audit chain; what was sealed is wiped when it succeeded. Nothing happens when it had ended already."""

    def change(connection: Connection) -> None:
        ended = connection.execute(
            "UPDATE jobs SET state = ?, changed = ?, error = ?, result = ?, finished_at = ?, waiting_for = NULL,"
            " sealed = CASE WHEN ? = 'succeeded' THEN NULL ELSE sealed END WHERE id = ? AND state IN ('queued', 'running')",
            (state, changed, as_json(error) if error else None, None if result is None else as_json(result), store.now(), state, id),
        ).rowcount
        if ended:
            # Not by RETURNING: that gives whole seconds as integers, and the digest would not be that of the row.
            audit.append(connection, connection.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone())

    store.write(change)


def add_events(store: Store, id: str, events: Iterable[Mapping[str, Any]]) -> int:
    """Add {at, kind, data} to a job, numbered from 1; return the last number. Raises NotFound."""
    told = [(event["at"], event["kind"], as_json(event.get("data") or {})) for event in events]

    def change(connection: Connection) -> int:
        _existing(connection.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone(), id)
        last = int(connection.execute("SELECT coalesce(max(number), 0) FROM job_events WHERE job_id = ?", (id,)).fetchone()[0])
        connection.executemany(
            "INSERT INTO job_events (job_id, number, at, kind, data) VALUES (?, ?, ?, ?, ?)",
            [(id, last + position, *event) for position, event in enumerate(told, 1)],
        )
        return last + len(told)

    return store.write(change)


def events(store: Store, id: str, since: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """The events of a job after number `since`: {number, at, kind, data}."""
    rows = store.rows(
        "SELECT number, at, kind, data FROM job_events WHERE job_id = ? AND number > ? ORDER BY number LIMIT ?", (id, since, checked_limit(limit))
    )
    return [{"number": row["number"], "at": shown_time(row["at"]), "kind": row["kind"], "data": from_json(row["data"])} for row in rows]


def set_waiting(store: Store, id: str, for_job: Optional[str]) -> None:
    """Note which other job this one waits for (None: for none)."""
    store.write(lambda connection: connection.execute("UPDATE jobs SET waiting_for = ? WHERE id = ? AND state = 'queued'", (for_job, id)).rowcount)


def request_cancel(store: Store, id: str, by: str) -> dict[str, Any]:
    """Note that somebody wants the job to end; the first one counts. Ended jobs stay as they are. Raises NotFound."""
    sql = "UPDATE jobs SET cancelled_by = coalesce(cancelled_by, ?) WHERE id = ? AND state IN ('queued', 'running')"
    store.write(lambda connection: connection.execute(sql, (by, id)).rowcount)
    return find(store, id)


def sealed(store: Store, id: str) -> Optional[bytes]:
    """What was sealed with the job; None when it was wiped or there was nothing. Raises NotFound."""
    found: Optional[bytes] = _existing(store.row("SELECT sealed FROM jobs WHERE id = ?", (id,)), id)["sealed"]
    return found


def forget(store: Store, before: float, most: int = 200) -> int:
    """Forget jobs that ended before that time, with their events, in short transactions; the audit chain keeps their digests. Return how many."""
    forgotten = 0
    while True:
        gone = store.write(lambda connection: _forget_some(connection, before, most, store.now()))
        forgotten += gone
        if gone < most:
            return forgotten


def _forget_some(connection: Connection, before: float, most: int, now: float) -> int:
    rows = connection.execute("SELECT id FROM jobs WHERE finished_at < ? ORDER BY finished_at LIMIT ?", (before, most)).fetchall()
    ids = [(row["id"],) for row in rows]
    connection.executemany("UPDATE audit SET forgotten_at = ? WHERE job_id = ?", [(now, *id) for id in ids])
    connection.executemany("DELETE FROM jobs WHERE id = ?", ids)
    return len(ids)


def _existing(row: Optional[Row], id: str) -> Row:
    if row is None:
        raise NotFound("is not there", object=f"job {id}", remedy="List the jobs; old ones are forgotten after a while")
    return row


def _item(row: Row) -> dict[str, Any]:
    item: dict[str, Any] = {name: row[name] for name in ("id", "kind", "state", "created_by", "reason", "waiting_for", "relaunch_of")}
    item |= {name: shown_time(row[name]) for name in ("created_at", "started_at", "finished_at")}
    item |= {name: from_json(row[name]) for name in ("error", "objects", "result")}
    item["changed"] = None if row["changed"] is None else bool(row["changed"])
    item["check"] = bool(row["checked"])
    item["cancel_requested"] = row["cancelled_by"] is not None
    return item


def _details(row: Row) -> dict[str, Any]:
    inner = {name: from_json(row[name]) for name in ("servers", "options", "process")}
    return {**_item(row), **inner, "cancelled_by": row["cancelled_by"]}
