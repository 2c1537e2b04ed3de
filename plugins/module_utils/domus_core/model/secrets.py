"""Values that must never be seen: wanted ones are wrapped, found ones are salted digests."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

MASK = "********"
ITERATIONS = 2000


def new_salt() -> str:
    """A salt of 64 random bits, as text."""
    return os.urandom(8).hex()


class Digest:
    """What is kept of a secret after it took effect: enough to compare, not to know."""

    __slots__ = ("digest", "salt")

    def __init__(self, salt: str, digest: str) -> None:
        self.salt = salt
        self.digest = digest

    def as_dict(self) -> dict[str, str]:
        """The digest as plain data, for a VM's record or a saved snapshot."""
        return {"salt": self.salt, "digest": self.digest}

    def __eq__(self, other: Any) -> bool:
        return (self.salt, self.digest) == (other.salt, other.digest) if isinstance(other, Digest) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.salt, self.digest))

    def __repr__(self) -> str:
        return MASK


class Secret:
    """A wanted secret; only `reveal()` gives the text, everything that prints gives a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself, for the one place that needs it."""
        return self._text

    def digest(self, salt: str) -> Digest:
        """The digest under `salt` (PBKDF2-HMAC-SHA256, RFC 8018)."""
        key = hashlib.pbkdf2_hmac("sha256", self._text.encode(), salt.encode(), ITERATIONS)
        return Digest(salt, key.hex())

    def matches(self, found: Any) -> bool:
        """Is `found` the same secret, or the digest of it?"""
        if isinstance(found, Digest):
            return hmac.compare_digest(self.digest(found.salt).digest, found.digest)
        return isinstance(found, Secret) and hmac.compare_digest(found._text.encode(), self._text.encode())

    def __eq__(self, other: Any) -> bool:
        return self.matches(other)

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return MASK
