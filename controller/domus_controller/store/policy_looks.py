"""What the policies of pools have looked at, what they found, and when they look again. It is kept, so that a restart forgets no failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from .database import Row, Store
from .values import as_json, from_json, shown_time


@dataclasses.dataclass(frozen=True)
class PoolLooks:
    """Of a pool: when its policy looked last and looks next (seconds since 1970), the job of the last look while its end is not yet counted,
    what the look found, why it waits, how many jobs have failed since one succeeded, and until when VMs (by id) rest after a move that failed."""

    pool: str
    looked_at: Optional[float] = None
    next_at: Optional[float] = None
    job_id: Optional[str] = None
    found: Optional[Mapping[str, Any]] = None
    waits: Optional[str] = None
    failures: int = 0
    resting: Mapping[str, float] = dataclasses.field(default_factory=dict)


def find(store: Store, pool: str) -> PoolLooks:
    """What is kept of a pool; nothing yet when its policy has never looked."""
    row = store.row("SELECT * FROM policy_looks WHERE pool = ?", (pool,))
    return PoolLooks(pool) if row is None else _looks(row)


def pools(store: Store) -> list[str]:
    """The names of the pools of which something is kept."""
    return [str(row["pool"]) for row in store.rows("SELECT pool FROM policy_looks ORDER BY pool")]


def keep(store: Store, looks: PoolLooks) -> None:
    """Replace what is kept of a pool."""
    values = (looks.pool, looks.looked_at, looks.next_at, looks.job_id, looks.found and as_json(looks.found), looks.waits, looks.failures)
    sql = "INSERT OR REPLACE INTO policy_looks VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    store.write(lambda connection: connection.execute(sql, (*values, as_json(looks.resting))).rowcount)


def forget(store: Store, pool: str) -> None:
    """Forget a pool that has no policy any more."""
    store.write(lambda connection: connection.execute("DELETE FROM policy_looks WHERE pool = ?", (pool,)).rowcount)


def shown(looks: PoolLooks) -> dict[str, Any]:
    """The looks as the API shows them."""
    told: dict[str, Any] = {"looked_at": shown_time(looks.looked_at), "next_at": shown_time(looks.next_at), "waits": looks.waits}
    return {**told, "failures": looks.failures, "found": looks.found}


def restored_at(store: Store) -> Optional[float]:
    """When the manager's database was restored from a backup; None: never."""
    row = store.row("SELECT value FROM about WHERE name = 'restored_at'")
    return None if row is None else float(row["value"])


def _looks(row: Row) -> PoolLooks:
    kept = {name: row[name] for name in ("pool", "looked_at", "next_at", "job_id", "waits", "failures")}
    return PoolLooks(**kept, found=from_json(row["found"]), resting=from_json(row["resting"]))
