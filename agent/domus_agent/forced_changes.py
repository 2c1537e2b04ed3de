"""What was changed on an owned server behind its manager's back, by force: a file of JSON lines that the agent reports and empties."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
from typing import Any, Callable

from domus_core.owner import FORCED_CHANGES, MOST_ACTIONS

from .contact import moment

LONGEST = 1 << 20


def take_forced_changes(state_directory: str, report: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Report the changes that are in the file, then empty it; if they could not be reported, it stays as it is.

    Each is {at: RFC 3339, user: name, site, actions: "start vm a, stop vm b and 3 more"}.
    """
    path = os.path.join(state_directory, FORCED_CHANGES)
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
