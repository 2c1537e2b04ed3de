"""Does virtlockd hold the locks of a VM's disks? One that was started before there were locks is not protected until it is restarted.

virtlockd with `file_lockspace_dir` locks a byte of a file there, named by the SHA-256 of the disk's path
(https://libvirt.org/kbase/locking-lockd.html); fcntl(2) F_GETLK tells whether somebody has it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from typing import Optional

from ..byte_locks import is_held
from ..libvirt_driver.bounded import bounded

CONFIGURATION = "/etc/libvirt/qemu-lockd.conf"
SECONDS = 10.0


def unlocked(disks: Iterable[str], configuration: str = CONFIGURATION) -> list[str]:
    """Those of the disks, by path, that nobody holds a lock of; all where there is no lock space. Raises Unreachable when it hangs."""
    folder = lock_space(configuration)
    if folder is None:
        return list(disks)
    return list(bounded(lambda: [disk for disk in disks if not _is_locked(lease_of(folder, disk))], SECONDS, "looking at the locks of disks"))


def lock_space(configuration: str = CONFIGURATION) -> Optional[str]:
    """The folder of the lock space that virtlockd uses on this server, or None."""
    try:
        with open(configuration, encoding="utf-8") as file:
            found = re.findall(r'^\s*file_lockspace_dir\s*=\s*"([^"]+)"', file.read(), re.MULTILINE)
    except OSError:
        return None
    return str(found[-1]) if found else None


def lease_of(folder: str, disk: str) -> str:
    """The file on which the lock of a disk is held."""
    return os.path.join(folder, hashlib.sha256(disk.encode()).hexdigest())


def _is_locked(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return is_held(file.fileno(), 0, 0, shared=False)
    except OSError:
        return False
