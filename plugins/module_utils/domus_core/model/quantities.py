"""Sizes: integers of bytes, or strings with a binary unit."""

from __future__ import annotations

import functools
import re
from typing import Any, Optional

from ..errors import InvalidSpec

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
LARGEST = 1 << 56

_PATTERN = re.compile(r"([0-9]{1,17})(?: ?(KiB|MiB|GiB|TiB))?")


def parse_size(value: Any) -> int:
    """Return the size in bytes; a string without a unit is a number of bytes. Raises InvalidSpec."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        written = _written_size(value) if isinstance(value, str) and len(value) < 32 else None
        if written is None:
            raise InvalidSpec("is not a size", value=value, remedy="Write bytes, or a number with KiB, MiB, GiB or TiB")
        size = written
    if not 0 <= size <= LARGEST:
        raise InvalidSpec(f"is not between 0 and {LARGEST} bytes", value=value)
    return size


@functools.lru_cache(maxsize=1024)
def _written_size(text: str) -> Optional[int]:
    match = _PATTERN.fullmatch(text)
    return int(match[1]) * UNITS.get(match[2] or "", 1) if match else None


def format_size(size: int) -> str:
    """Return the size in the largest binary unit that holds it without a fraction."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)
