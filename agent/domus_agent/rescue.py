"""A way in for a new manager when the old one is lost: root opens it on the server itself, for one take-over and for an hour."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from typing import Optional

FILE = "rescue.json"
SECONDS = 3600.0
WRONG_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Rescue:
    """The secret that a new manager must know, from which manager it leads away, until when (seconds since 1970), and who (uid) made it."""

    secret: str
    manager: str
    until: float
    user: int


def new_rescue(manager: str, now: float) -> Rescue:
    """A secret that was never used."""
    return Rescue(secrets.token_hex(16), manager, now + SECONDS, os.getuid())


def read_rescue(directory: str, manager: Optional[str], now: float) -> Optional[Rescue]:
    """The way from this manager to another that is open now; None when there is none, it has ended, or it can not be read (then nobody comes in)."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        with open(os.path.join(directory, FILE), encoding="utf-8") as file:
            found = Rescue(**json.load(file))
        # One take-over, also when a crash kept the file; an hour at most, also when the clock was set back.
        if isinstance(found.secret, str) and found.secret and found.manager == manager and now < found.until <= now + SECONDS:
            return found
    return None
