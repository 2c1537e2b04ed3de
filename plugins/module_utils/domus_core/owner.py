"""Who owns this server: free, or one manager, as a mark in the engine's state directory says; and what was changed there all the same."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Optional

from .errors import DomusError, DriverError, OwnedByManager
from .libvirt_driver.registry import write_atomically
from .libvirt_driver.tools import explain, make_folder

FILE = "owner.json"
FORCED_CHANGES = "forced-changes.jsonl"
MOST_ACTIONS = 10


def mark(state_directory: str, manager: str, url: str) -> None:
    """Write down that this manager owns the server. Raises NoCapacity or DriverError."""
    path = os.path.join(state_directory, FILE)
    try:
        make_folder(state_directory, 0o755)
        write_atomically(path, json.dumps({"manager": manager, "url": url}).encode())
    except OSError as error:
        raise explain(error, f"writing {path}", path) from None


def unmark(state_directory: str) -> None:
    """Let the server be free; one that is free stays so. Raises DriverError."""
    path = os.path.join(state_directory, FILE)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(error, f"deleting {path}", path) from None


def owner(state_directory: str) -> Optional[dict[str, Any]]:
    """`manager` and `url` of the manager that owns the server, or None. Raises DriverError when the mark can not be read: that is not free."""
    path = os.path.join(state_directory, FILE)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(data, dict) or not isinstance(data.get("manager"), str):
        raise _damaged(path, "it names no manager")
    return {"manager": data["manager"], "url": str(data.get("url") or "")}


def require_free(state_directory: str) -> None:
    """Raise OwnedByManager when a manager owns the server."""
    owned = owner(state_directory)
    if owned is not None:
        raise OwnedByManager(
            f"belongs to the manager at {owned['url']}",
            object="server",
            value=owned["manager"],
            remedy="Send the change through it (domus_transport: manager); to change it here all the same, force it: that is reported",
        )


def write_down_forced(state_directory: str, site: str, actions: Sequence[str]) -> None:
    """Write down for the agent, before it happens, what is changed behind the manager's back: one line of JSON.

    Raises DriverError when it can not be written: then it must not happen.
    """
    line = {"at": time.time(), "site": site, "user": os.getuid(), "actions": list(actions[:MOST_ACTIONS]), "count": len(actions)}
    path = os.path.join(state_directory, FORCED_CHANGES)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the agent empties the file
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise DriverError(f"can not be written: {error.strerror}", object=path, remedy="A change without the manager must be reported: make room") from None


def _damaged(path: str, why: str) -> DomusError:
    return DriverError(f"{path} can not be read: {why}", object="server", remedy="Release the server in its manager, or take it over again")
