"""Directories that tests work in: marked as alive by a lock, and removed by the next run when their own was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Not /tmp: QEMU and accounts of services must reach them.
PARENT = Path("/var/tmp")


class Place:
    """A new directory `<prefix>...` that counts as alive until it is removed, or until this process ends."""

    def __init__(self, prefix: str) -> None:
        remove_leftovers(prefix)
        self.directory = Path(tempfile.mkdtemp(prefix=prefix, dir=PARENT))
        self.directory.chmod(0o711)
        self.mark = self.directory / "alive"
        self._lock = os.open(self.mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it, with what is mounted in it."""
        _remove(self.directory)
        os.close(self._lock)


def remove_leftovers(prefix: str) -> None:
    """Remove what runs left that were killed; those that are alive hold a lock."""
    for directory in PARENT.glob(f"{prefix}*"):
        try:
            lock = os.open(directory / "alive", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _remove(directory: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed(mounted):
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", place], check=True)
    shutil.rmtree(directory, ignore_errors=True)
