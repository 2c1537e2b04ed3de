"""The version of Domus, in this one place for agent, manager and commands; galaxy.yml and pyproject.toml say the same."""

from __future__ import annotations

import re
from typing import Optional

VERSION = "0.2.0"
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")


def is_older(version: object, than: str = VERSION) -> bool:
    """Is the version of somebody else older? What is no version, or not known, is not."""
    numbers = _numbers(version)
    return numbers is not None and numbers < (_numbers(than) or ())


def _numbers(version: object) -> Optional[tuple[int, ...]]:
    match = _VERSION.match(version) if isinstance(version, str) else None
    return tuple(int(part) for part in match.group().split(".")) if match else None
