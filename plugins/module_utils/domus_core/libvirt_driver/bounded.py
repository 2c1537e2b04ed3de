"""Calls that may block for ever, given a limit: a QEMU, or a file server, that hangs must not hang everybody else."""

from __future__ import annotations

import contextvars
import threading
from typing import Any, Callable, Optional

from ..errors import Unreachable


class Work(threading.Thread):
    """A call in a thread of its own, begun at once, in the context of whoever began it."""

    def __init__(self, call: Callable[[], Any], ended: Callable[[Work], None] = lambda work: None) -> None:
        super().__init__(daemon=True)
        self.given_up = False
        self.parent = threading.current_thread()
        self._call = call
        self._ended = ended
        self._context = contextvars.copy_context()
        self._outcome: Optional[tuple[Any, Optional[BaseException]]] = None
        self.start()

    def run(self) -> None:
        """Keep what the call returns or raises."""
        try:
            self._outcome = (self._context.run(self._call), None)
        except BaseException as error:
            self._outcome = (None, error)
        finally:
            self._ended(self)

    def wait(self, seconds: float) -> bool:
        """Has it ended, at the latest after so many seconds?"""
        self.join(seconds)
        return self._outcome is not None

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        value, error = self._outcome or (None, None)
        if error is not None:
            raise error
        return value


def is_wanted() -> bool:
    """Does somebody still wait for what this thread does?"""
    thread: Any = threading.current_thread()
    while thread is not None:
        if getattr(thread, "given_up", False):
            return False
        thread = getattr(thread, "parent", None)
    return True


def require_wanted() -> None:
    """Raise Unreachable in a call that was given up meanwhile: somebody else may have the lock by now."""
    if not is_wanted():
        raise Unreachable("was given up: it took too long")


def bounded(call: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what the call returns, or raise what it raises; after `seconds` it is left behind and Unreachable is raised.

    What is left behind goes on when it can: it calls require_wanted before whatever it must not do then.
    """
    work = Work(call)
    if not work.wait(seconds):
        work.given_up = True
        raise Unreachable(
            f"{what} did not end within {seconds:g} s", remedy="Does its QEMU hang? virsh domcontrol; as a last resort virsh destroy, then apply again"
        )
    return work.result()
