"""The guard of a manager whose directory is on a pool file system: the servers that have it never use it at the same time.

Whoever uses the directory hoists a flag first, which is a shared lock on a byte of the guard file that is its server's own, and then looks
whether another server's is up. Who comes second sees the first one and gives up; two at the same moment see each other, and both do. Processes
of one server have the same flag, and do not mind each other. A flag falls with the process that holds it, however that ends; that of a server
which has died falls with its power on a cluster file system, and with its lease on NFS.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

from domus_core.byte_locks import hold_shared, is_held
from domus_core.errors import Busy, DomusError, DriverError

FILE = "guard"
MACHINE_ID = "/etc/machine-id"
# NFS servers keep the locks of a dead client for 90 s when nobody has said otherwise.
PATIENCE, PAUSE, WATCH_SECONDS = 150.0, 1.0, 5.0
# With this code of its worker gunicorn ends as a whole.
LOST = 3
LOG = logging.getLogger("domus.guard")


def make_guard(directory: Path) -> None:
    """Have everybody who uses this directory, from now on, be the only server that does. Raises DriverError."""
    with _told(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(directory / FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def is_shared(directory: Path) -> bool:
    """Is this the directory of a manager that several servers may run?"""
    return (directory / FILE).exists()


def own_byte(machine: Optional[str] = None, name: Optional[str] = None) -> int:
    """The byte that is this server's flag. Cloned machines may have one machine id, members of a pool never one name."""
    if machine is None:
        with contextlib.suppress(OSError):
            machine = Path(MACHINE_ID).read_text(encoding="ascii")
    told = f"{(machine or '').strip()} {os.uname().nodename if name is None else name}"
    return 1 + int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big")


class Guard:
    """This server's flag on a shared directory, up until `close`."""

    def __init__(self, directory: Path, byte: Optional[int] = None) -> None:
        """Hoist it. Raises Busy when another server's is up, DriverError when the file system does not lock."""
        self._directory = directory
        self._byte = own_byte() if byte is None else byte
        with _told(directory):
            self._file = os.open(directory / FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.check()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Hoist it (again), and look for others: what the file system has forgotten is found out. Raises Busy, DriverError."""
        with _told(self._directory):
            hold_shared(self._file, self._byte, 1)
            others = is_held(self._file, 0, self._byte, shared=True) or is_held(self._file, self._byte + 1, 0, shared=True)
        if others:
            remedy = "There it goes on: ask the pool where (crm_mon). One that has just died is waited for; see docs/guides/manager-ha.md"
            raise Busy("another server has it in use", object=f"manager {self._directory}", remedy=remedy)

    def close(self) -> None:
        """Lower it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def watch(self, ending: threading.Event, lost: Callable[[int], object] = os._exit, every: float = WATCH_SECONDS) -> None:
        """Look again and again, in a thread, until `ending`: a manager whose flag was taken from it ends at once, in the middle of whatever it does."""
        threading.Thread(target=self._watch, args=(ending, lost, every), name="guard", daemon=True).start()

    def _watch(self, ending: threading.Event, lost: Callable[[int], object], every: float) -> None:
        while not ending.wait(every):
            try:
                self.check()
            except DomusError as error:
                if ending.is_set():  # closed meanwhile
                    return
                LOG.critical("the manager ends: %s", error)
                lost(LOST)
                return


@contextlib.contextmanager
def guarded(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Use the directory as the only server meanwhile, where it is shared; waits for `patience` seconds. Raises Busy, DriverError."""
    guard = hoisted(directory, patience)
    try:
        yield
    finally:
        if guard is not None:
            guard.close()


def hoisted(directory: Path, patience: float = 0.0) -> Optional[Guard]:
    """The guard of the directory, held; None where it is not shared. Raises Busy after `patience` seconds, DriverError."""
    until = time.monotonic() + patience
    while is_shared(directory):
        try:
            return Guard(directory)
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)
    return None


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Look at the pool file system: is it mounted, with locks (NFS version 4)?"
        raise DriverError(f"can not be locked: {error.strerror}", object=f"file {directory / FILE}", remedy=remedy) from None
