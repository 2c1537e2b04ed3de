"""Passwords, sealed secrets, and what a role allows."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from domus_controller.security import passwords
from domus_controller.security.files import write_private
from domus_controller.security.principal import ADMINISTER, OPERATE, READ, Principal, checked_role, lower_role, may
from domus_controller.security.sealing import Sealing
from domus_core.errors import DriverError, InvalidSpec


def test_a_password_is_verified_and_nothing_else_is() -> None:
    stored = passwords.hash("correct horse")
    assert "correct" not in stored and stored.startswith("$argon2id$") and stored != passwords.hash("correct horse")
    assert passwords.verify(stored, "correct horse")
    for wrong in ("", "correct hors", "Correct horse", "x" * 5000, "\ud800", "correct horse\0"):
        assert not passwords.verify(stored, wrong)
    assert not passwords.verify(None, "correct horse") and not passwords.verify("damaged", "correct horse")
    assert not passwords.needs_renewal(stored)
    assert passwords.needs_renewal("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43)


def test_short_and_endless_passwords_are_refused() -> None:
    for password in ("1234567", "x" * 1025):
        with pytest.raises(InvalidSpec) as caught:
            passwords.hash(password)
        assert password not in str(caught.value)


def test_what_is_sealed_is_opened_with_the_same_key_only(tmp_path: Path) -> None:
    sealing = Sealing(tmp_path / "keys")
    sealed = sealing.seal(b"very private")
    assert b"private" not in sealed and Sealing(tmp_path / "keys").open(sealed) == b"very private"
    assert stat.S_IMODE((tmp_path / "keys" / "sealing.key").stat().st_mode) == 0o600
    for damaged in (b"", sealed[:-1], sealed[:20] + b"AAAA" + sealed[24:], Sealing(tmp_path / "other").seal(b"very private")):
        with pytest.raises(DriverError):
            sealing.open(damaged)
    (tmp_path / "keys" / "sealing.key").write_text("short")
    with pytest.raises(DriverError, match="is not a key"):
        Sealing(tmp_path / "keys")


def test_a_private_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"one")
    with pytest.raises(DriverError):
        write_private(tmp_path / "none" / "key", b"two")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").touch()
    with pytest.raises(DriverError):
        write_private(tmp_path / "folder", b"two")
    assert (tmp_path / "key").read_bytes() == b"one" and sorted(path.name for path in tmp_path.iterdir()) == ["folder", "key"]


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("viewer", {READ}), ("operator", {READ, OPERATE}), ("administrator", {READ, OPERATE, ADMINISTER}), ("", set()), ("root", set())],
)
def test_what_a_role_allows(role: str, allowed: set[str]) -> None:
    assert {permission for permission in (READ, OPERATE, ADMINISTER, "", "anything") if may(Principal("ann", role), permission)} == allowed


def test_of_two_roles_the_lower_one_counts() -> None:
    assert lower_role("administrator", "viewer") == lower_role("viewer", "operator") == checked_role("viewer")
    with pytest.raises(InvalidSpec):
        lower_role("viewer", "king")
