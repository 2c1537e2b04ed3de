"""Leaving off work that somebody no longer wants: asked between steps, and wherever a step may wait for long."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from .errors import Cancelled

Question = Callable[[], bool]


def never() -> bool:
    """Nobody can cancel this."""
    return False


# A context goes where the work goes; see libvirt_driver.bounded, which takes it along into its threads.
_ASKED: contextvars.ContextVar[Question] = contextvars.ContextVar("cancelled", default=never)


@contextmanager
def cancellable(cancelled: Question) -> Iterator[None]:
    """Let `require_not_cancelled` ask this inside the block."""
    token = _ASKED.set(cancelled)
    try:
        yield
    finally:
        _ASKED.reset(token)


def require_not_cancelled() -> None:
    """Raise Cancelled when the work is no longer wanted."""
    if _ASKED.get()():
        raise Cancelled("was cancelled; what is left of it was not done", remedy="Apply again to complete it")
