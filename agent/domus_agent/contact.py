"""When the manager was last heard: the time of a file, so that `domus-agent status` knows it, too."""

from __future__ import annotations

import contextlib
import os
from typing import Optional

FILE = "manager-heard"


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
