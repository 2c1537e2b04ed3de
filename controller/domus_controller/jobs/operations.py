"""The operations of a job on its servers, asked about by the manager itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from domus_core.errors import DomusError, NotFound

from ..agents.pool import Agents
from .outcome import ENDED

WAIT, PAUSE = 3, 1.0
MOST_AT_ONCE = 32
# A number that progress never reaches, and agents take: only the end of the operation is waited for.
NO_PROGRESS = 1_000_000
UNKNOWN, UNREACHABLE = "unknown", "unreachable"

Result = TypeVar("Result")


def operation_id(job_id: str, server_id: str) -> str:
    """The id of an apply job's operation on a server."""
    return f"{job_id}-{server_id}"


def on_each(servers: Iterable[str], work: Callable[[str], Result]) -> dict[str, Result]:
    """What `work` gives for each server, asked all at once."""
    wanted = list(servers)
    if len(wanted) < 2:
        return {server: work(server) for server in wanted}
    with ThreadPoolExecutor(min(len(wanted), MOST_AT_ONCE)) as pool:
        return dict(zip(wanted, pool.map(work, wanted)))


def ask(agents: Agents, server_id: str, operation: str, *, cancel: bool = False, wait: float = 0) -> dict[str, Any]:
    """The status of an operation, cancelled first if that is wanted; never raises: state `unknown` or `unreachable` with an error instead."""
    try:
        if cancel:
            agents.call(server_id, "cancel", {"operation": operation})
        return dict(agents.call(server_id, "status", {"operation": operation, "wait": wait, "since": NO_PROGRESS}, timeout=wait + 10))
    except NotFound as error:
        return {"state": UNKNOWN, "result": None, "error": error.as_dict(), "mark": None}
    except DomusError as error:
        return {"state": UNREACHABLE, "result": None, "error": error.as_dict(), "mark": None}


def settle(agents: Agents, server_id: str, operation: str, *, cancel: bool, patience: float, stopping: threading.Event) -> dict[str, Any]:
    """The status of an operation once it has ended, or as it is after `patience` seconds."""
    left = patience
    status = ask(agents, server_id, operation, cancel=cancel)
    while status["state"] not in ENDED and status["state"] != UNKNOWN and left > 0 and not stopping.is_set():
        away = status["state"] == UNREACHABLE
        if away:
            stopping.wait(PAUSE)
        left -= PAUSE if away else WAIT
        status = ask(agents, server_id, operation, cancel=cancel and away, wait=0 if away else WAIT)
    return status


def revoke(agents: Agents, server_ids: Iterable[str], serial: str, until: float) -> None:
    """Have a job's certificate refused at once; who can not be reached gets it with the answer to its next callback."""

    def tell(server_id: str) -> None:
        try:
            agents.call(server_id, "revoke", {"serial": serial, "until": until}, timeout=10)
        except DomusError:
            return

    on_each(server_ids, tell)
