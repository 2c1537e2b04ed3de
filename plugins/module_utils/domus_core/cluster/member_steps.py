"""The way of a member from one state of its pool to the next: whoever leaves goes first, files, services, then Pacemaker's configuration by one for all.

All members go this way at the same time, and wait for each other where they must: for those that leave to have left, for those that come to have joined.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from ..errors import Conflict, DomusError
from ..libvirt_driver.tools import explain
from ..model.server_pool import POOL_FOLDERS
from .corosync import known_node_ids
from .member_files import CONF, is_ours, read_file, remove_files, write_files
from .member_services import UNITS, is_active, leave_packaged, start_member, stop_member
from .pacemaker import Pacemaker
from .pool_document import PoolDocument
from .pool_status import PoolStatus, read_status

# Whoever leaves has its fence devices and marks stopped by Pacemaker first.
LEAVE_SECONDS, PAUSE = 150.0, 1.0
LOCK = "/run/lock/domus-pool.lock"


@contextmanager
def alone() -> Iterator[None]:
    """One way at a time: that of an agent which was restarted meanwhile goes on to its end."""
    with open(LOCK, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def realize(document: PoolDocument, applies: bool) -> list[str]:
    """Be a member of the pool as the document says; with `applies` this one tells Pacemaker for all. Returns what was done.

    Raises Conflict when a server that is to be no member any more has not left, and what files, services and Pacemaker raise.
    """
    with alone():
        wait_until_left(leaving(document))
        done = leave_packaged()
        make_folders(str(document.settings.get("records") or ""))
        done += write_files(document)
        done += start_member()
        if applies:
            change = Pacemaker().apply(document.pool, document.node_ids, document.keeps_vms)
            done += [*change.changes, *(f"{name} taken out" for name in change.gone)]
        return done


def resign() -> list[str]:
    """Be a member no more; refused while HA VMs run here (Conflict)."""
    with alone():
        return [*stop_member(), *remove_files()]


def leaving(document: PoolDocument) -> tuple[str, ...]:
    """The members by the file that is there, that are to be none any more."""
    conf = read_file(CONF)
    return tuple(sorted(set(known_node_ids(conf)) - set(document.node_ids))) if is_ours(conf) else ()


def wait_until_left(names: Collection[str]) -> None:
    """Return when these have left in good order, or were cut: who only is not heard may still run VMs. Raises Conflict."""
    if not names or not all(map(is_active, UNITS)):
        return
    end = time.monotonic() + LEAVE_SECONDS
    while (there := _still_there(names)) and time.monotonic() < end:
        time.sleep(PAUSE)
    if there:
        shown = ", ".join(f"{name} ({state})" for name, state in there.items())
        remedy = "Have its agent heard, or its power cut by the pool, then apply again; on it: domus-agent pool leave"
        raise Conflict(f"has not left the pool yet: {shown}", field="servers", remedy=remedy)


def _still_there(names: Collection[str]) -> dict[str, str]:
    try:
        status: PoolStatus = read_status()
    except DomusError as error:
        return dict.fromkeys(names, f"the pool does not tell: {error.message}")
    return {name: status.members[name] for name in sorted(names) if status.members.get(name, "offline") != "offline"}


def make_folders(records: str) -> None:
    """The folders of the pool file system, root's. Raises DomusError; NotFound when the file system is not there."""
    for name in POOL_FOLDERS if records else ():
        path = os.path.join(os.path.dirname(records), name)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise explain(error, f"making {path}", path) from None
