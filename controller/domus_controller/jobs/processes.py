"""Processes of a job: who descends from whom, and how none of them is left."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Collection

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL = 0.02


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process, not of init. Raises OSError."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def signal_when_parent_dies(parent: int, signal_number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends; at once when it has ended already. Raises OSError."""
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def children(pid: int) -> set[int]:
    """The living processes (no zombies) that this one is the parent of."""
    return {child for child, parent in _parents().items() if parent == pid}


def descendants(pid: int) -> set[int]:
    """The living processes (no zombies) below this one, at any depth."""
    parents = _parents()
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found or parent == pid} - found:
        found |= new
    return found


def _parents() -> dict[int, int]:
    """The parent of each living process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):  # it has just ended
                continue
            if state not in "ZX":
                parents[int(name)] = int(parent)
    return parents


def kill_all(pids: Collection[int], signal_number: int = signal.SIGKILL) -> None:
    """Send a signal to each of these processes; those that are gone, or that belong to somebody else, are passed over."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_strays(keep: Collection[int], patience: float = 10.0) -> set[int]:
    """SIGKILL the children of this process that are not in `keep`, with all below them, until none is left; returns those that were left anyway.

    Orphans come to a subreaper, so whatever a killed process leaves behind is found in the next round.
    """
    deadline = time.monotonic() + patience
    while strays := children(os.getpid()) - set(keep):
        if time.monotonic() > deadline:
            return strays
        kill_all(strays.union(*(descendants(stray) for stray in strays)))
        time.sleep(POLL)
    return set()


def processes_at_home(directory: str) -> set[int]:
    """The processes whose HOME lies below a directory: those of jobs whose service was killed together with them."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
            except OSError:
                continue
            if any(entry.startswith(f"HOME={directory}/".encode()) for entry in environment):
                found.add(int(name))
    return found
