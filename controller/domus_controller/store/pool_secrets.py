"""What the manager remembers of clustered pools: numbers of members, and sealed what nobody is to see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from .database import Store
from .values import as_json, from_json


class Kept(NamedTuple):
    """The numbers of all members that there ever were, by the names that they have for themselves; `sealed` as the manager's key sealed it."""

    node_ids: Mapping[str, int]
    sealed: bytes


def find(store: Store, name: str) -> Optional[Kept]:
    """What is remembered of a pool, or None."""
    row = store.row("SELECT node_ids, sealed FROM server_pools WHERE name = ?", (name,))
    return None if row is None else Kept(from_json(row["node_ids"]), row["sealed"])


def keep(store: Store, name: str, kept: Kept) -> None:
    """Remember a pool, in place of what was remembered of it."""
    values = (name, as_json(dict(kept.node_ids)), kept.sealed)
    store.write(lambda connection: connection.execute("INSERT OR REPLACE INTO server_pools VALUES (?, ?, ?)", values).rowcount)


def forget(store: Store, name: str) -> None:
    """Remember it no more: it has ended."""
    store.write(lambda connection: connection.execute("DELETE FROM server_pools WHERE name = ?", (name,)).rowcount)


def located(store: Store) -> dict[str, list[str]]:
    """The ids of the servers that each pool is on, by its name, as they told."""
    rows = store.rows("SELECT o.name, o.server_id FROM objects o JOIN servers s ON s.id = o.server_id WHERE o.kind = 'server_pool' AND o.deleted IS NULL")
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row["server_id"])
    return found
