"""The audit chain: a digest of each finished job, linked to the one before, so that a change of the past shows."""

from __future__ import annotations

import hashlib
from typing import Any

from .database import Connection, Row, Store
from .values import as_json

START = "0" * 64
TOLD = (
    "id", "kind", "state", "changed", "error", "checked", "created_at", "started_at", "finished_at", "created_by",
    "reason", "objects", "servers", "options", "cancelled_by", "relaunch_of", "result",
)  # fmt: skip


def append(connection: Connection, job: Row) -> None:
    """Put a job that has just ended at the end of the chain."""
    last = connection.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = (last["number"] + 1, last["hash"]) if last else (1, START)
    content = _content(job)
    connection.execute("INSERT INTO audit (number, job_id, content, hash) VALUES (?, ?, ?, ?)", (number, job["id"], content, _link(previous, number, content)))


def verify(store: Store) -> dict[str, Any]:
    """Check the whole chain: {jobs, head, problems: [text]}; `head` kept elsewhere also proves that the end was not cut off."""
    problems: list[str] = []
    previous = START
    # One statement, so that all is seen as it was at one moment.
    rows = store.rows(
        "SELECT a.number AS link, a.job_id, a.content, a.hash, a.forgotten_at, j.* FROM audit a LEFT JOIN jobs j ON j.id = a.job_id ORDER BY a.number"
    )
    for number, row in enumerate(rows, 1):
        if row["link"] != number or row["hash"] != _link(previous, row["link"], row["content"]):
            problems.append(f"the chain is broken at number {row['link']}, job {row['job_id']}")
        if row["id"] is None and row["forgotten_at"] is None:
            problems.append(f"job {row['job_id']} is missing")
        if row["id"] is not None and row["content"] != _content(row):
            problems.append(f"job {row['job_id']} is not what it was when it ended")
        previous = row["hash"]
    unlinked = store.rows("SELECT id FROM jobs WHERE finished_at IS NOT NULL AND id NOT IN (SELECT job_id FROM audit) LIMIT 100")
    problems += [f"job {row['id']} ended and is not in the chain" for row in unlinked]
    return {"jobs": len(rows), "head": previous, "problems": problems[:100]}


def _content(job: Row) -> str:
    return hashlib.sha256(as_json([job[name] for name in TOLD]).encode("utf-8", "surrogatepass")).hexdigest()


def _link(previous: str, number: int, content: str) -> str:
    return hashlib.sha256(f"{previous} {number} {content}".encode()).hexdigest()
