"""Figures of the server itself, as the kernel counts them: bytes and ticks since the boot, so that any two give the rate between them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, Optional

_OF_VMS = re.compile(r"(lo|(vnet|tap|macvtap)[0-9]+)")
_NO_DISK = re.compile(r"(loop|ram|zram|sr|fd|nbd)[0-9]+")
MOST = 100
SECTOR = 512


def host_figures(root: str = "/") -> dict[str, Any]:
    """The figures now: processors, load, memory, traffic of each interface and each disk. Raises OSError without /proc."""
    memory = {name: int(words[0]) * 1024 for name, words in _table(root, "proc/meminfo") if words}
    ticks = _ticks(root)
    return {
        "cpus": os.cpu_count(),
        "cpu_ticks": ticks and ticks[0],
        "cpu_idle_ticks": ticks and ticks[1],
        "load": list(os.getloadavg()),
        "memory": memory.get("MemTotal"),
        "memory_available": memory.get("MemAvailable"),
        "memory_free": memory.get("MemFree"),
        "swap": memory.get("SwapTotal"),
        "swap_free": memory.get("SwapFree"),
        "net": dict(_interfaces(root)),
        "disks": dict(_disks(root)),
    }


def _ticks(root: str) -> Optional[tuple[int, int]]:
    """All ticks of all processors, and those in which they had nothing to do."""
    for name, words in _table(root, "proc/stat"):
        if name == "cpu" and len(words) >= 8:
            # What guests take is in the user's time already.
            ticks = [int(word) for word in words[:8]]
            return sum(ticks), ticks[3] + ticks[4]
    return None


def _interfaces(root: str) -> list[tuple[str, dict[str, int]]]:
    found = [(name, words) for name, words in _table(root, "proc/net/dev") if len(words) >= 16 and words[0].isdigit() and not _OF_VMS.fullmatch(name)]
    return [(name, {"received": int(words[0]), "sent": int(words[8])}) for name, words in found[:MOST]]


def _disks(root: str) -> list[tuple[str, dict[str, int]]]:
    """Whole disks: partitions are part of one, and what is made of disks is counted in them."""
    whole = _names(root, "sys/block")
    rows = [(words[1], words) for dummy, words in _table(root, "proc/diskstats") if len(words) >= 10]
    chosen = [(name, words) for name, words in rows if name in whole and not _NO_DISK.fullmatch(name) and not name.startswith(("dm-", "md"))]
    return [(name, {"read": int(words[4]) * SECTOR, "written": int(words[8]) * SECTOR}) for name, words in chosen[:MOST]]


def _table(root: str, path: str) -> Iterable[tuple[str, list[str]]]:
    """The lines of a file of the kernel: their first word, and the others."""
    try:
        with open(os.path.join(root, path), encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    split = (line.replace(":", " ", 1).split() for line in lines)
    return [(words[0], words[1:]) for words in split if words]


def _names(root: str, directory: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(os.path.join(root, directory)))
    except OSError:
        return frozenset()
