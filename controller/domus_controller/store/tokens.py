"""API tokens: opaque, shown once, stored as a digest."""

from __future__ import annotations

import builtins
import hashlib
import secrets
import uuid
from typing import Any, Optional

from domus_core.errors import InvalidSpec, NotFound

from ..security.principal import Principal, checked_role, lower_role
from .database import Row, Store
from .values import shown_time

PREFIX = "domus_"
LONGEST_NAME = 64


def create(store: Store, user: str, name: str, role: str, expires_at: Optional[float] = None) -> tuple[dict[str, Any], str]:
    """Make a token of a user; return {id, name, user, role, created_at, expires_at} and the token itself, which is not stored.

    It never allows more than its user's own role. Raises InvalidSpec, NotFound (no such user).
    """
    checked_role(role)
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidSpec("is not a token's name", object="token", field="name", value=name, remedy=f"1 to {LONGEST_NAME} printable characters")
    if store.row("SELECT 1 FROM users WHERE name = ?", (user,)) is None:
        raise NotFound("is not there", object=f"user {user}")
    plaintext = PREFIX + secrets.token_urlsafe(32)
    id = str(uuid.uuid4())
    values = (id, _digest(plaintext), user, name, role, store.now(), expires_at)
    store.write(lambda connection: connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", values).rowcount)
    row = store.rows("SELECT * FROM tokens WHERE id = ?", (id,))[0]
    return _item(row), plaintext


def authenticate(store: Store, plaintext: str) -> Optional[Principal]:
    """Who holds this token; None when it is unknown, revoked or expired."""
    row = store.row(
        "SELECT t.user, t.role, t.expires_at, u.role AS user_role FROM tokens t JOIN users u ON u.name = t.user WHERE t.digest = ?", (_digest(plaintext),)
    )
    if row is None or (row["expires_at"] is not None and row["expires_at"] <= store.now()):
        return None
    return Principal(row["user"], lower_role(row["role"], row["user_role"]))


def list(store: Store, user: Optional[str] = None) -> builtins.list[dict[str, Any]]:
    """All tokens, or those of one user."""
    where, values = ("", ()) if user is None else (" WHERE user = ?", (user,))
    return [_item(row) for row in store.rows(f"SELECT * FROM tokens{where} ORDER BY user, id", values)]


def revoke(store: Store, id: str, user: Optional[str] = None) -> None:
    """Remove a token, of that user only when one is given. Raises NotFound."""
    sql = "DELETE FROM tokens WHERE id = ?1 AND (?2 IS NULL OR user = ?2)"
    if not store.write(lambda connection: connection.execute(sql, (id, user)).rowcount):
        raise NotFound("is not there", object=f"token {id}")


def revoke_plaintext(store: Store, plaintext: str) -> None:
    """Remove the token that somebody holds. Raises NotFound."""
    if not store.write(lambda connection: connection.execute("DELETE FROM tokens WHERE digest = ?", (_digest(plaintext),)).rowcount):
        raise NotFound("is not there", object="token")


def _digest(plaintext: str) -> str:
    # 256 random bits need no slow hash, and every request asks for this.
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()


def _item(row: Row) -> dict[str, Any]:
    times = {name: shown_time(row[name]) for name in ("created_at", "expires_at")}
    return {**{name: row[name] for name in ("id", "name", "user", "role")}, **times}
