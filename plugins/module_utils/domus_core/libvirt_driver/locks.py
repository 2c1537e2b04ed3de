"""Locks on objects, held by open file description locks (fcntl(2)): they end with the process, however it ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..cancelling import require_not_cancelled
from ..errors import Busy
from .tools import explain, make_folder

POLL = 0.05
# struct flock of Linux: type, whence, start, length, pid
_FLOCK = "hhqqi4x"


def lock_file(state_directory: str) -> str:
    """The lock file of a server's objects."""
    return os.path.join(state_directory, "objects.lock")


@contextmanager
def held(path: str, changing: Iterable[tuple[str, str]], using: Iterable[tuple[str, str]], *, patience: float) -> Iterator[None]:
    """Hold each object by one byte of the lock file: alone if it is to be changed, together with others if only used.

    Locks are taken in the order of their bytes, so two applies never wait for each other. Raises Busy after `patience` seconds, Cancelled,
    NoCapacity or DriverError when there can be no lock file.
    """
    descriptor = _open(path)
    try:
        wanted = {_byte(target): (target, fcntl.F_RDLCK) for target in using}
        wanted.update({_byte(target): (target, fcntl.F_WRLCK) for target in changing})
        deadline = time.monotonic() + patience
        for byte, (target, mode) in sorted(wanted.items()):
            _take(descriptor, byte, mode, target, deadline)
        yield
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        make_folder(os.path.dirname(path), 0o755)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise explain(error, f"opening the lock file {path}", path) from None


def _byte(target: tuple[str, str]) -> int:
    return int.from_bytes(hashlib.sha256("/".join(target).encode()).digest()[:7], "big")


def _take(descriptor: int, byte: int, mode: int, target: tuple[str, str], deadline: float) -> None:
    request = struct.pack(_FLOCK, mode, os.SEEK_SET, byte, 1, 0)
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                raise Busy("another apply is working on it", object=" ".join(target), remedy="Wait for it to end, then apply again") from None
            require_not_cancelled()
            time.sleep(POLL)
