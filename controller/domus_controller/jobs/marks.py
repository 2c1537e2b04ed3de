"""Wait until the agents' reports about a job are stored, so that lists show what it did as soon as it has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..store import callbacks
from .tools import Tools

PATIENCE = 5.0
# An agent whose manager was away tries again after 30 s at most: without its word a VM that has moved meanwhile would seem to be on two servers.
PATIENCE_RECOVERED = 35.0


def wait_for_marks(tools: Tools, marks: Mapping[str, int], patience: float = PATIENCE) -> None:
    """Return when each server's records up to its mark are stored, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    seen = tools.store.changed(-1, 0)
    open_ones = dict(marks)
    while True:
        open_ones = {server: mark for server, mark in open_ones.items() if callbacks.position(tools.store, server)["acknowledged"] < mark}
        left = deadline - time.monotonic()
        if not open_ones or left <= 0 or tools.stopping.is_set():
            return
        seen = tools.store.changed(seen, min(left, 1.0))
