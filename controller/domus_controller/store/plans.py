"""Plans: what an apply would do, kept until somebody says so; each is applied once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from domus_core.errors import Conflict, NotFound

from .database import Connection, Row, Store
from .values import as_json, from_json, shown_time

OPEN, APPLIED, STALE = "open", "applied", "stale"


def create(connection: Connection, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Store an open plan {id, created_by, changed, objects, fingerprints, errors, options, sealed} and return its item; `sealed` is the document."""
    row = connection.execute(
        "INSERT INTO plans (id, state, created_at, created_by, changed, objects, fingerprints, errors, options, sealed)"
        " VALUES (?, 'open', store_clock(), ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            plan["id"],
            plan["created_by"],
            bool(plan["changed"]),
            as_json(plan.get("objects") or []),
            as_json(plan.get("fingerprints") or {}),
            as_json(plan.get("errors") or []),
            as_json(plan.get("options") or {}),
            plan.get("sealed"),
        ),
    ).fetchone()
    return _item(row)


def find(store: Store, id: str) -> dict[str, Any]:
    """A plan. Raises NotFound."""
    return _item(_existing(store.row("SELECT * FROM plans WHERE id = ?", (id,)), id))


def details(store: Store, id: str) -> dict[str, Any]:
    """A plan with what only the manager itself needs: options, and sealed (bytes or None). Raises NotFound."""
    row = _existing(store.row("SELECT * FROM plans WHERE id = ?", (id,)), id)
    return {**_item(row), "options": from_json(row["options"]), "sealed": row["sealed"]}


def take(connection: Connection, id: str) -> None:
    """Mark an open plan as applied and wipe its document. Raises NotFound, and Conflict when it is not open any more."""
    row = _existing(connection.execute("SELECT state FROM plans WHERE id = ?", (id,)).fetchone(), id)
    if row["state"] != OPEN:
        raise Conflict(f"is {row['state']}", object=f"plan {id}", remedy="Make a new plan")
    connection.execute("UPDATE plans SET state = 'applied', sealed = NULL WHERE id = ?", (id,))


def set_stale(store: Store, id: str) -> None:
    """Mark a plan that the world has moved on from, applied or not, and wipe its document."""
    store.write(lambda connection: connection.execute("UPDATE plans SET state = 'stale', sealed = NULL WHERE id = ?", (id,)).rowcount)


def forget(store: Store, before: float) -> int:
    """Forget the plans that were made before that time; return how many."""
    return store.write(lambda connection: connection.execute("DELETE FROM plans WHERE created_at < ?", (before,)).rowcount)


def _existing(row: Optional[Row], id: str) -> Row:
    if row is None:
        raise NotFound("is not there", object=f"plan {id}", remedy="Make a new plan")
    return row


def _item(row: Row) -> dict[str, Any]:
    item: dict[str, Any] = {name: row[name] for name in ("id", "state", "created_by")}
    item |= {name: from_json(row[name]) for name in ("objects", "fingerprints", "errors")}
    return {**item, "created_at": shown_time(row["created_at"]), "changed": bool(row["changed"])}
