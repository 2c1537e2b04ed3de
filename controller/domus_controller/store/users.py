"""People who may use the manager."""

from __future__ import annotations

import builtins
from typing import Any

from domus_core.errors import Conflict, InvalidSpec, NotFound

from ..security.principal import ADMINISTRATOR, checked_role
from .database import Connection, Row, Store
from .values import shown_time

LONGEST_NAME = 64


def create(store: Store, name: str, password_hash: str, role: str) -> dict[str, Any]:
    """Store a user and return {name, role, created_at}. Raises InvalidSpec, and Conflict when there is one of that name."""
    checked_role(role)
    if not name or len(name) > LONGEST_NAME or ":" in name or not name.isprintable() or name != name.strip():
        raise InvalidSpec("is not a user's name", object="user", field="name", value=name, remedy=f"1 to {LONGEST_NAME} printable characters, no colon")

    def change(connection: Connection) -> None:
        if connection.execute("SELECT 1 FROM users WHERE name = ?", (name,)).fetchone():
            raise Conflict("is there already", object=f"user {name}", remedy="Choose another name")
        connection.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", (name, password_hash, role, store.now(), store.now()))

    store.write(change)
    return find(store, name)


def find(store: Store, name: str) -> dict[str, Any]:
    """A user. Raises NotFound."""
    row = store.row("SELECT * FROM users WHERE name = ?", (name,))
    if row is None:
        raise NotFound("is not there", object=f"user {name}")
    return _item(row)


def credentials(store: Store, name: str) -> dict[str, str]:
    """What a login is checked against: {name, role, password (its hash)}. Raises NotFound."""
    row = store.row("SELECT name, role, password FROM users WHERE name = ?", (name,))
    if row is None:
        raise NotFound("is not there", object=f"user {name}")
    return {"name": row["name"], "role": row["role"], "password": row["password"]}


def list(store: Store) -> builtins.list[dict[str, Any]]:
    """All users by name."""
    return [_item(row) for row in store.rows("SELECT * FROM users ORDER BY name")]


def set_password(store: Store, name: str, password_hash: str) -> None:
    """Store a new password's hash. Raises NotFound."""
    sql = "UPDATE users SET password = ?, changed_at = ? WHERE name = ?"
    if not store.write(lambda connection: connection.execute(sql, (password_hash, store.now(), name)).rowcount):
        raise NotFound("is not there", object=f"user {name}")


def remove(store: Store, name: str) -> None:
    """Remove a user with all tokens. Raises NotFound, and Conflict for the last administrator."""

    def change(connection: Connection) -> None:
        row = connection.execute("SELECT role FROM users WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound("is not there", object=f"user {name}")
        others = connection.execute("SELECT count(*) FROM users WHERE role = ? AND name != ?", (ADMINISTRATOR, name)).fetchone()[0]
        if row["role"] == ADMINISTRATOR and not others:
            raise Conflict("is the last administrator", object=f"user {name}", remedy="Make another administrator first")
        connection.execute("DELETE FROM users WHERE name = ?", (name,))

    store.write(change)


def _item(row: Row) -> dict[str, Any]:
    return {"name": row["name"], "role": row["role"], "created_at": shown_time(row["created_at"])}
