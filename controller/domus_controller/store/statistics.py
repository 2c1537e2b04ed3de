"""Statistics, in a database file of their own: the latest of each server, and samples that get sparser with age.

Counters are kept as they are, so the rate over any stretch of time is the difference of two samples: nothing is averaged, and rolling
up means keeping every tenth, then every sixtieth sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from domus_core.errors import InvalidSpec

from .database import Connection, Row, Store
from .values import as_json, checked_time, from_json, shown_time

HOUR, DAY = 3600.0, 86400.0
# Seconds between samples, and how long those are kept.
KEPT = {60: 3 * HOUR, 600: 3 * DAY, 3600: 60 * DAY}
MOST_FORGOTTEN = 5000
COUNTERS = {"cpu_time_ns": "cpu_cores", "disk_read": "disk_read", "disk_written": "disk_written", "net_received": "net_received", "net_sent": "net_sent"}
GAUGES = ("state", "vcpus", "memory")
HOST = "host:"


def put(store: Store, server_id: str, statistics: Mapping[str, Any]) -> None:
    """Store what a callback said: {at, vms: {uuid: {...}}, host: {...}}. Older than what is known is ignored. Raises InvalidSpec."""
    at = min(checked_time(statistics.get("at")), store.now())
    vms, host = statistics.get("vms") or {}, statistics.get("host")
    if not isinstance(vms, Mapping) or not all(isinstance(sample, Mapping) for sample in (*vms.values(), host or {})):
        raise InvalidSpec("are not what this protocol knows", object="statistics", field="vms")
    subjects = {**vms, **({f"{HOST}{server_id}": host} if host else {})}
    samples = [(subject, as_json(sample)) for subject, sample in subjects.items()]

    def change(connection: Connection) -> None:
        before = connection.execute("SELECT at, steps FROM latest WHERE server_id = ?", (server_id,)).fetchone()
        if before is not None and at <= before["at"] <= store.now():
            return
        steps = from_json(before["steps"]) if before else {}
        due = [step for step in KEPT if steps.get(str(step)) != int(at // step)]
        for step in due:
            connection.executemany(
                "INSERT OR REPLACE INTO samples (step, subject, at, server_id, sample) VALUES (?, ?, ?, ?, ?)",
                [(step, subject, at, server_id, sample) for subject, sample in samples],
            )
        connection.execute(
            "INSERT OR REPLACE INTO latest (server_id, at, statistics, steps) VALUES (?, ?, ?, ?)",
            (server_id, at, as_json(statistics), as_json({**steps, **{str(step): int(at // step) for step in due}})),
        )

    store.statistics.write(change)


def latest(store: Store, server_id: str) -> Optional[dict[str, Any]]:
    """What a server said last: {at, vms, host}; None before it said anything."""
    row = store.statistics.row("SELECT at, statistics FROM latest WHERE server_id = ?", (server_id,))
    return {**from_json(row["statistics"]), "at": shown_time(row["at"])} if row else None


def series(store: Store, subject: str, since: float, until: Optional[float] = None, step: Optional[int] = None) -> dict[str, Any]:
    """The course of a VM (its uuid) between two times: {step, items}.

    An item is {at, state, vcpus, memory, cpu_cores, disk_read, disk_written, net_received, net_sent}: cores in use and bytes per
    second since the item before, None where a counter is not known. Without `step` (60, 600 or 3600 seconds) the finest that
    reaches back to `since`.
    """
    chosen, rows = samples(store, subject, since, until, step)
    return {"step": chosen, "items": [_item(before, row) for before, row in zip([None, *rows], rows)]}


def samples(store: Store, subject: str, since: float, until: Optional[float] = None, step: Optional[int] = None) -> tuple[int, list[Row]]:
    """The step that was chosen, and the samples {at, sample} of a subject between two times, as `series` has them."""
    now = store.now()
    chosen = step if step in KEPT else next((one for one, kept in KEPT.items() if now - since <= kept), 3600)
    rows = store.statistics.rows(
        "SELECT at, sample FROM samples WHERE step = ? AND subject = ? AND at BETWEEN ? AND ? ORDER BY at",
        (chosen, subject, since, now if until is None else until),
    )
    return chosen, rows


def _item(before: Optional[Row], row: Row) -> dict[str, Any]:
    sample = from_json(row["sample"])
    earlier = from_json(before["sample"]) if before else {}
    seconds = row["at"] - before["at"] if before else 0.0
    item = {"at": shown_time(row["at"]), **{name: sample.get(name) for name in GAUGES}}
    for counter, name in COUNTERS.items():
        found = rate(earlier.get(counter), sample.get(counter), seconds)
        item[name] = found / 1e9 if found is not None and counter == "cpu_time_ns" else found
    return item


def rate(before: Any, after: Any, seconds: float) -> Optional[float]:
    """How fast a counter went between two samples; None when that is not known."""
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)) or seconds <= 0:
        return None
    # A counter that went back began anew: the VM was started again.
    return (after - before if after >= before else after) / seconds


def forget(store: Store) -> int:
    """Forget the samples whose time is over, in short transactions; return how many."""
    forgotten = 0
    for step, kept in KEPT.items():
        gone = MOST_FORGOTTEN
        while gone == MOST_FORGOTTEN:
            gone = store.statistics.write(_forget_some(step, store.now() - kept))
            forgotten += gone
    return forgotten


def _forget_some(step: int, before: float) -> Callable[[Connection], int]:
    chosen = "SELECT step, subject, at FROM samples WHERE step = ? AND at < ? LIMIT ?"
    return lambda connection: connection.execute(f"DELETE FROM samples WHERE (step, subject, at) IN ({chosen})", (step, before, MOST_FORGOTTEN)).rowcount
