"""Locks on bytes of a file (fcntl(2)), which NFS version 4 carries to its server: asked for, and who else holds some."""

from __future__ import annotations

import fcntl
import os
import struct

# struct flock of 64-bit Linux: type, whence, start, length, process
_FLOCK = "hhqqi4x"


def hold_shared(file: int, start: int, length: int) -> None:
    """Hold a shared lock on these bytes of a file descriptor's, for as long as it is open. Raises OSError when somebody holds them alone."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _request(fcntl.F_RDLCK, start, length))


def is_held(file: int, start: int, length: int, *, shared: bool) -> bool:
    """Does anybody else hold one of these bytes alone or, with `shared`, in whichever way? A length of 0 goes to the end. Raises OSError."""
    told = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK if shared else fcntl.F_RDLCK, start, length))
    return bool(struct.unpack(_FLOCK, told)[0] != fcntl.F_UNLCK)


def _request(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
