"""Passwords: Argon2id (RFC 9106), never stored or logged themselves."""

from __future__ import annotations

from typing import Optional

import argon2
from domus_core.errors import InvalidSpec

LEAST, MOST = 8, 1024

_HASHER = argon2.PasswordHasher()
# Of no password: an unknown name takes as long to refuse as a wrong password.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43


def hash(password: str) -> str:
    """The salted hash of a password, with its parameters. Raises InvalidSpec unless it has 8 to 1024 characters."""
    if not LEAST <= len(password) <= MOST:
        raise InvalidSpec(f"has not {LEAST} to {MOST} characters", object="password")
    return _HASHER.hash(password)


def verify(stored: Optional[str], password: str) -> bool:
    """Is this the password that `stored` was made of? False for no stored hash, after the same time."""
    try:
        return _HASHER.verify(stored or _NOBODY, password[: MOST + 1]) and stored is not None
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, UnicodeEncodeError):
        return False


def needs_renewal(stored: str) -> bool:
    """Was the hash made with weaker parameters than today's?"""
    return _HASHER.check_needs_rehash(stored)
