"""Certificates of people: each counts as long as it is listed here, so that revoking one is taking it off the list."""

from __future__ import annotations

import builtins
from typing import Any, Optional

from domus_core.errors import NotFound

from ..security.principal import Principal, checked_role, lower_role
from .database import Row, Store
from .values import shown_time


def add(store: Store, serial: str, user: str, name: str, role: str, expires_at: float) -> dict[str, Any]:
    """List a certificate (serial number in hex) of a user, and return its item. Raises NotFound (no such user), InvalidSpec."""
    checked_role(role)
    if store.row("SELECT 1 FROM users WHERE name = ?", (user,)) is None:
        raise NotFound("is not there", object=f"user {user}")
    values = (serial, user, name, role, store.now(), expires_at)
    store.write(lambda connection: connection.execute("INSERT INTO person_certificates VALUES (?, ?, ?, ?, ?, ?)", values).rowcount)
    return _item(store.rows("SELECT * FROM person_certificates WHERE serial = ?", (serial,))[0])


def authenticate(store: Store, user: str, serial: str) -> Optional[Principal]:
    """Who holds the certificate of this serial number and user; None when it is revoked, has ended, or was never given."""
    row = store.row(
        "SELECT c.role, c.expires_at, u.role AS user_role FROM person_certificates c JOIN users u ON u.name = c.user WHERE c.serial = ? AND c.user = ?",
        (serial, user),
    )
    if row is None or row["expires_at"] <= store.now():
        return None
    return Principal(user, lower_role(row["role"], row["user_role"]))


def list(store: Store, user: Optional[str] = None) -> builtins.list[dict[str, Any]]:
    """All certificates, or those of one user."""
    where, values = ("", ()) if user is None else (" WHERE user = ?", (user,))
    return [_item(row) for row in store.rows(f"SELECT * FROM person_certificates{where} ORDER BY user, serial", values)]


def revoke(store: Store, serial: str, user: Optional[str] = None) -> None:
    """Take a certificate off the list, of that user only when one is given. Raises NotFound."""
    sql = "DELETE FROM person_certificates WHERE serial = ?1 AND (?2 IS NULL OR user = ?2)"
    if not store.write(lambda connection: connection.execute(sql, (serial, user)).rowcount):
        raise NotFound("is not there", object=f"certificate {serial}")


def forget_ended(store: Store) -> int:
    """Take off the list what has ended by itself; return how many."""
    return store.write(lambda connection: connection.execute("DELETE FROM person_certificates WHERE expires_at < ?", (store.now(),)).rowcount)


def _item(row: Row) -> dict[str, Any]:
    times = {name: shown_time(row[name]) for name in ("created_at", "expires_at")}
    return {**{name: row[name] for name in ("serial", "user", "name", "role")}, **times}
