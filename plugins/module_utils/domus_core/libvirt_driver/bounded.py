"""Calls that may block for ever, given a limit: a QEMU that hangs must not hang everybody else."""

from __future__ import annotations

import contextvars
import threading
from typing import Any, Callable

from ..errors import Unreachable


class _Worker(threading.Thread):
    given_up = False


def require_wanted() -> None:
    """Raise Unreachable in a call that was given up meanwhile: somebody else may have the lock by now."""
    if getattr(threading.current_thread(), "given_up", False):
        raise Unreachable("was given up: it took too long")


def bounded(call: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what the call returns, or raise what it raises; after `seconds` it is left behind and Unreachable is raised.

    What is left behind goes on when it can: it calls require_wanted before whatever it must not do then.
    """
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append((context.run(call), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = _Worker(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        thread.given_up = True
        raise Unreachable(
            f"{what} did not end within {seconds:g} s", remedy="Does its QEMU hang? virsh domcontrol; as a last resort virsh destroy, then apply again"
        )
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
