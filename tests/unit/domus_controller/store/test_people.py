"""Users and their tokens."""

from __future__ import annotations

import pytest
from domus_controller.security.principal import Principal
from domus_controller.store import tokens, users
from domus_controller.store.database import Store
from domus_core.errors import Conflict, InvalidSpec, NotFound

from .described import Clock


def test_users(store: Store) -> None:
    users.create(store, "root", "hash", "administrator")
    assert users.create(store, "ann", "hash", "operator") == users.find(store, "ann") == users.list(store)[0]
    assert "hash" not in repr(users.list(store))
    users.set_password(store, "ann", "other")
    assert users.credentials(store, "ann") == {"name": "ann", "role": "operator", "password": "other"}
    with pytest.raises(Conflict):
        users.create(store, "ann", "hash", "viewer")
    for name, role in (("", "viewer"), ("a:b", "viewer"), ("x" * 65, "viewer"), ("a\n", "viewer"), ("bob", "king")):
        with pytest.raises(InvalidSpec):
            users.create(store, name, "hash", role)
    with pytest.raises(Conflict, match="last administrator"):
        users.remove(store, "root")
    users.create(store, "root2", "hash", "administrator")
    users.remove(store, "root")
    for function in (users.find, users.credentials, users.remove):
        with pytest.raises(NotFound):
            function(store, "root")
    with pytest.raises(NotFound):
        users.set_password(store, "root", "x")


def test_a_token_is_shown_once_and_allows_no_more_than_its_user(store: Store, clock: Clock) -> None:
    users.create(store, "ann", "hash", "operator")
    item, plaintext = tokens.create(store, "ann", "laptop", "administrator", store.now() + 10)
    assert plaintext.startswith("domus_") and plaintext not in repr(store.rows("SELECT * FROM tokens")[0][:]) and tokens.list(store) == [item]
    assert tokens.authenticate(store, plaintext) == Principal("ann", "operator")
    for wrong in ("", "domus_", plaintext[:-1], plaintext + "x", "\ud800"):
        assert tokens.authenticate(store, wrong) is None
    clock.at += 10
    assert tokens.authenticate(store, plaintext) is None


def test_a_token_ends_with_its_revocation_or_its_user(store: Store) -> None:
    users.create(store, "ann", "hash", "operator")
    (first, one), (dummy, two) = tokens.create(store, "ann", "a", "viewer"), tokens.create(store, "ann", "b", "operator")
    assert tokens.authenticate(store, one) == Principal("ann", "viewer")
    with pytest.raises(NotFound):
        tokens.revoke(store, first["id"], user="bob")
    tokens.revoke(store, first["id"], user="ann")
    assert tokens.authenticate(store, one) is None and tokens.list(store, "bob") == []
    users.remove(store, "ann")
    assert tokens.authenticate(store, two) is None and tokens.list(store) == []
    with pytest.raises(NotFound):
        tokens.create(store, "ann", "a", "viewer")
    with pytest.raises(NotFound):
        tokens.revoke(store, first["id"])
