"""Who owns this server: free, or one manager, as a mark in the engine's state directory says."""

from __future__ import annotations

import json
import os
from typing import Any, Optional

from .errors import DomusError, DriverError, OwnedByManager
from .libvirt_driver.registry import write_atomically
from .libvirt_driver.tools import explain, make_folder

FILE = "owner.json"


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


def _damaged(path: str, why: str) -> DomusError:
    return DriverError(f"{path} can not be read: {why}", object="server", remedy="Release the server in its manager, or take it over again")
