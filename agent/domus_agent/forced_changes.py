"""What was changed on an owned server behind its manager's back, by force: a file of JSON lines that the agent reports and empties."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import time
from collections.abc import Sequence
from typing import Any, Callable

from domus_core.errors import DriverError

from .contact import moment

FILE = "forced-changes.jsonl"
LONGEST = 1 << 20
MOST_ACTIONS = 10


def write_down(state_directory: str, site: str, actions: Sequence[str]) -> None:
    """Write down, before it happens, what is changed. Raises DriverError when it can not be: then it must not happen."""
    line = {"at": time.time(), "site": site, "user": os.getuid(), "actions": list(actions[:MOST_ACTIONS]), "count": len(actions)}
    path = os.path.join(state_directory, FILE)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise DriverError(f"can not be written: {error.strerror}", object=path, remedy="A change without the manager must be reported: make room") from None


def take_forced_changes(state_directory: str, report: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Report the changes that are in the file, then empty it; if they could not be reported, it stays as it is.

    Each is {at: RFC 3339, user: name, site, actions: "start vm a, stop vm b and 3 more"}.
    """
    path = os.path.join(state_directory, FILE)
    with contextlib.suppress(OSError):
        if os.path.getsize(path):
            with open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                text = file.read(LONGEST)
                whole = len(text) if len(text) < LONGEST else text.rfind(b"\n") + 1
                if report([_change(line) for line in text[:whole].splitlines() if line.strip()]):
                    rest = text[whole:] + file.read()
                    file.seek(0)
                    file.write(rest)
                    file.truncate()


def _change(line: bytes) -> dict[str, Any]:
    try:
        change = json.loads(line)
        actions = [str(action) for action in change["actions"][:MOST_ACTIONS]]
        more = f" and {change['count'] - len(actions)} more" if change["count"] > len(actions) else ""
        return {"at": moment(change["at"]), "user": _user(change["user"]), "site": str(change["site"]), "actions": ", ".join(actions) + more}
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return {"unreadable": line[:80].decode(errors="replace")}


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
