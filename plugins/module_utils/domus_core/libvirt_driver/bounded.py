"""Calls that may block for ever, given a limit: a QEMU that hangs must not hang everybody else."""

from __future__ import annotations

import threading
from typing import Any, Callable

from ..errors import Unreachable


def bounded(call: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what the call returns, or raise what it raises; after `seconds` it is left behind and Unreachable is raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable(f"{what} did not end within {seconds:g} s", remedy="Does its QEMU hang? virsh domcontrol; as a last resort virsh destroy, then apply again")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
