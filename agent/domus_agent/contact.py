"""When the manager was last heard: the time of a file, so that `domus-agent status` knows it, too."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from typing import Optional

FILE = "manager-heard"
MINUTE = 60.0


def note(directory: str) -> None:
    """The manager has answered just now; where that can not be written, it is only not known."""
    with contextlib.suppress(OSError):
        with open(os.path.join(directory, FILE), "a", encoding="ascii"):
            os.utime(os.path.join(directory, FILE))


def last_heard(directory: str) -> Optional[float]:
    """When the manager answered last, or None."""
    try:
        return os.stat(os.path.join(directory, FILE)).st_mtime
    except OSError:
        return None


def silence(directory: str, url: str) -> Optional[str]:
    """What is to be told when the manager at `url` has not answered for more than a minute, else None."""
    heard = last_heard(directory)
    if heard is None:
        return f"the manager at {url} has not answered yet"
    return f"the manager at {url} does not answer since {moment(heard)}" if time.time() - heard > MINUTE else None


def moment(at: float) -> str:
    """A time (seconds since 1970) as people read it: RFC 3339, UTC."""
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
