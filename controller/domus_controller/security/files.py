"""Files that only the manager may read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from domus_core.errors import DriverError


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file as a whole, or not at all; it never is there with other permissions. Raises DriverError."""
    with told(path):
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise


def private_directory(path: Path) -> None:
    """Make a directory that only its owner enters. Raises DriverError."""
    with told(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Only one process at a time makes keys in this directory."""
    with told(directory):
        lock = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the file system raises inside into a DriverError."""
    try:
        yield
    except OSError as error:
        problem = error.strerror or str(error)
        raise DriverError(f"can not be used: {problem}", object=f"file {path}", remedy="Look at its permissions and at the file system") from None
