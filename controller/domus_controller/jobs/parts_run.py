"""A job whose steps are jobs of their own: begun a few at a time, followed to their end, cancelled with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from ..store import jobs
from .outcome import ENDED
from .tools import Stopped, Tools

if TYPE_CHECKING:
    from .jobs import Jobs

AT_ONCE = 2
LOOK_SECONDS = 2.0

Item = dict[str, Any]


class PartsRun:
    """What such jobs share; `cancel` is called from any thread."""

    def __init__(self, tools: Tools, work: Jobs, job: Mapping[str, Any]) -> None:
        self._tools, self._work, self._job = tools, work, job
        self._cancelled = threading.Event()
        self._cancelled_by: Optional[str] = None

    def cancel(self, by: str) -> None:
        """Begin nothing any more, and end what is under way."""
        self._cancelled_by = self._cancelled_by or by
        self._cancelled.set()
        self._cancel_parts()

    def stop(self) -> None:
        """The manager ends; what is under way goes on."""

    def _follow(self, tell: Callable[[Sequence[Item]], None], begin: Callable[[Sequence[Item], Sequence[Item]], object]) -> list[Item]:
        """Until nothing is under way and `begin` (of all parts, and of those under way) begins nothing; returns all. Raises Stopped when the manager ends."""
        jobs.start(self._tools.store, self._job["id"])
        seen = self._tools.store.changed(-1, 0)
        while True:
            parts = jobs.parts_of(self._tools.store, self._job["id"])
            tell(parts)
            if self._cancelled.is_set():
                self._cancel_parts()
            under_way = [part for part in parts if part["state"] not in ENDED]
            begun = None if self._cancelled.is_set() else begin(parts, under_way)
            if not under_way and not begun:
                return parts
            if self._tools.stopping.is_set():
                raise Stopped
            seen = self._tools.store.changed(seen, LOOK_SECONDS)

    def _cancel_parts(self) -> None:
        for part in jobs.parts_of(self._tools.store, self._job["id"]):
            if part["state"] not in ENDED and not part["cancel_requested"]:
                self._work.cancel(part["id"], by=self._cancelled_by or "")
