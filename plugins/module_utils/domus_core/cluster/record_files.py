"""Pool records as files on the pool file system: read within a limit, written under a lock, by members with quorum."""

from __future__ import annotations

import os
from typing import Callable, Optional

from ..errors import DomusError, DriverError, Forbidden, NotFound, Unreachable
from ..libvirt_driver.bounded import bounded, require_wanted
from ..libvirt_driver.locks import held
from ..libvirt_driver.registry import write_atomically
from .records import PoolRecord, as_text, from_text, require_next, token_of

# A file system that hangs must not hang its caller: an NFS server that restarts is back within this time, or the start fails softly.
READ_SECONDS, WRITE_SECONDS, LOCK_SECONDS = 20.0, 30.0, 15.0


def read_record(folder: str, uuid: str) -> tuple[PoolRecord, str]:
    """The record of a VM and its token. Raises NotFound when there is none, Unreachable when the file system hangs, DriverError."""
    text = bounded(lambda: _read(os.path.join(folder, f"{uuid}.json")), READ_SECONDS, "reading the pool file system")
    if text is None:
        raise NotFound("has no record in the pool", object=f"vm {uuid}", remedy=f"Is the pool file system mounted at {os.path.dirname(folder)}?")
    return from_text(text, uuid), token_of(text)


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DriverError(f"its record can not be read: {error}", remedy="Is the pool file system mounted?") from None


def write_record(folder: str, record: PoolRecord, token: str, is_quorate: Callable[[], bool]) -> str:
    """Write a record in place of the one that `token` names ("": none); returns its token.

    Raises PreconditionFailed or Conflict when that is not what is there, Forbidden without quorum, Busy, Unreachable, DriverError.
    """
    if not is_quorate():
        raise Forbidden("this server has no quorum, so it writes nothing", object=f"vm {record.name}", remedy="domus pool show tells who is missing")
    return str(bounded(lambda: _write(folder, record, token), WRITE_SECONDS, "writing to the pool file system"))


def _write(folder: str, record: PoolRecord, token: str) -> str:
    path, text = os.path.join(folder, f"{record.uuid}.json"), as_text(record)
    if not os.path.isdir(folder):  # never made here: an unmounted file system would get a record of its own on each server
        raise DriverError(f"there is no {folder}", remedy="Is the pool file system mounted?")
    with held(os.path.join(folder, ".lock"), [("vm", record.uuid)], [], patience=LOCK_SECONDS):
        found = _read(path)
        require_next(None if found is None else from_text(found, record.uuid), token_of(found), record, token)
        require_wanted()
        replace_file(path, text)
    return token_of(text)


def replace_file(path: str, text: str) -> None:
    """Put the text in the file's place, so that a reader, or a power cut, sees the old or the new one. Raises DriverError."""
    try:
        write_atomically(path, text.encode(), 0o600)
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DriverError(f"{path} can not be written: {error}", remedy="Is the file system full, or not mounted?") from None


def remove_record(folder: str, uuid: str, token: str, is_quorate: Callable[[], bool]) -> None:
    """Take a record away, if it is the one that `token` names; raises as write_record."""
    if not is_quorate():
        raise Forbidden("this server has no quorum, so it writes nothing", object=f"vm {uuid}")
    bounded(lambda: _remove(folder, uuid, token), WRITE_SECONDS, "writing to the pool file system")


def _remove(folder: str, uuid: str, token: str) -> None:
    path = os.path.join(folder, f"{uuid}.json")
    with held(os.path.join(folder, ".lock"), [("vm", uuid)], [], patience=LOCK_SECONDS):
        found = _read(path)
        if found is not None:
            require_next(None, token_of(found), from_text(found, uuid), token)
            os.unlink(path)


def all_records(folder: str) -> tuple[list[PoolRecord], list[DomusError]]:
    """Every record of the pool that can be read, and what is wrong with the others. Raises Unreachable, DriverError."""
    records: list[PoolRecord] = []
    problems: list[DomusError] = []
    try:
        names = sorted(bounded(lambda: os.listdir(folder), READ_SECONDS, "reading the pool file system"))
    except OSError as error:
        raise DriverError(f"{folder} can not be read: {error}", remedy="Is the pool file system mounted?") from None
    for name in names:
        if name.endswith(".json"):
            try:
                records.append(read_record(folder, name[: -len(".json")])[0])
            except Unreachable:
                raise
            except DomusError as error:
                problems.append(error)
    return records, problems
