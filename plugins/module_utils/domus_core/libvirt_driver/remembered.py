"""Answers that cost time to find out, kept in a file until the server boots again or something under them changes.

The file is a cache: one that is missing, damaged or not writable costs the time to find out again, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import Any


def boot_id() -> str:
    """The kernel's name for the time since it was started."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def stamp(path: str) -> str:
    """A text that changes when the file (or its owner or mode) changes; empty when there is none."""
    # The change time, unlike the modification time, can not be carried over by a package.
    try:
        return str(os.stat(path).st_ctime_ns)
    except OSError:
        return ""


def recall(path: str, key: list[str]) -> Any:
    """What was remembered in the file under exactly this key, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("value") if isinstance(content, dict) and content.get("key") == key else None


def remember(path: str, key: list[str], value: Any) -> None:
    """Replace the file (mode 0644) in one step; do nothing where it can not be written."""
    directory = os.path.dirname(path)
    with contextlib.suppress(OSError):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".remembered-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"key": key, "value": value}, file)
                os.fchmod(file.fileno(), 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
