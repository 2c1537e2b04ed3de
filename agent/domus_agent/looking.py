"""Looking at something again and again, in a thread of its own, whatever one look meets."""

from __future__ import annotations

import logging
import threading

STOP_SECONDS = 6.0
_log = logging.getLogger(__name__)


class Looking:
    """Calls `look` every so many `seconds`, from `start` until `stop`; `what` names it in the log."""

    def __init__(self, what: str, seconds: float) -> None:
        self.seconds = seconds
        self._what = what
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=what, daemon=True)

    def look(self) -> None:
        """Look once."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _watch(self) -> None:
        while not self._end.is_set():
            try:
                self.look()
            except Exception as error:  # what is odd about one thing must not end the looking
                _log.error("looking at the %s: unexpected %s: %s", self._what, type(error).__name__, error)
            self._end.wait(self.seconds)
