"""Connections to a SQLite file, and what their errors mean."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlite_utils
from domus_core.errors import Conflict, DomusError, DriverError, InvalidSpec, NoCapacity, Unreachable
from sqlite_utils import Migrations

Connection = sqlite3.Connection

BUSY_SECONDS = 30
WAL_LIMIT = 64 << 20
# An object's item fits into one page, mostly.
PAGE_SIZE = 8192
MAPPED = 1 << 30
# Where the file is not mapped, each connection keeps what it has read (in KiB) until somebody writes.
CACHED = 16384
RESTORE = "Stop the manager and restore the last backup: domus-manager restore"
DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT"}
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_ROOM = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_WRITE"}


class ReadConnection(sqlite3.Connection):
    """A connection that can be referred to weakly, so that those of ended threads vanish."""


def open_writer(path: Path, durable: bool, shared: bool = False) -> Connection:
    """A connection that may write, to a file for the manager alone (0600) that was looked through. Raises DriverError when it is damaged.

    `shared`: the file is on a pool file system. A write-ahead log needs memory that all its users share, which no network file system has.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        _set_journal(connection, shared)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        check(connection, path, quick=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_journal(connection: Connection, shared: bool) -> None:
    if not shared:
        connection.execute("PRAGMA journal_mode = WAL")
        return
    # A database that comes from a single server has a write-ahead log still. Alone, SQLite needs no shared memory to end it.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (mode,) = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
    connection.execute("PRAGMA locking_mode = NORMAL")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if mode != "truncate":
        raise sqlite3.OperationalError(f"the journal is {mode}, and must not be on a pool file system")


def open_reader(path: Path, shared: bool = False) -> ReadConnection:
    """A connection that can not write; `shared` as for `open_writer`."""
    reader = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        factory=ReadConnection,
        cached_statements=512,
    )
    reader.row_factory = sqlite3.Row
    # All readers share the file's pages in the system's cache, in place of a small cache each. A network file system may drop mapped pages at any lock.
    reader.execute(f"PRAGMA cache_size = -{CACHED}" if shared else f"PRAGMA mmap_size = {MAPPED}")
    return reader


def migrate(connection: Connection, migrations: Migrations) -> None:
    """Bring the tables up to date, all or nothing."""
    # Two processes may start at once: the second one waits here and then finds nothing to do.
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(sqlite_utils.Database(connection, execute_plugins=False))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check(connection: Connection, path: Path, *, quick: bool = False) -> None:
    """Read the whole database. Raises DriverError when it is damaged."""
    with translated(path):
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {'quick' if quick else 'integrity'}_check(3)")]
    if found != ["ok"]:
        raise DriverError(f"is damaged: {' '.join('; '.join(found).split())}", object=f"database {path}", remedy=RESTORE)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise inside into a DomusError."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeEncodeError, OverflowError) as error:
        raise as_domus_error(error, path) from error


def as_domus_error(error: BaseException, path: Path) -> BaseException:
    """What SQLite or the file system said, as a DomusError; any other error as it is."""
    if isinstance(error, (UnicodeEncodeError, OverflowError)):
        return InvalidSpec("is a value that nothing here can have", remedy="Use plain text and numbers of 64 bits")
    if isinstance(error, DomusError) or not isinstance(error, (sqlite3.Error, OSError)):
        return error
    place = f"database {path}"
    name = getattr(error, "sqlite_errorname", "")
    if name in NO_ROOM and (name == "SQLITE_FULL" or _room(path) < 1 << 20) or getattr(error, "errno", None) == errno.ENOSPC:
        return NoCapacity("the file system is full, nothing was stored", object=place, remedy=f"Make room in {path.parent}, then try again")
    if name.startswith("SQLITE_CONSTRAINT"):
        return Conflict("is there already, or refers to something that is gone", object=place, value=str(error))
    if name.startswith("SQLITE_BUSY"):
        return Unreachable("somebody else holds the database", object=place, remedy="End the other process that uses it, then try again")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or getattr(error, "errno", None) in NOT_WRITABLE:
        return DriverError("can not be written", object=place, value=str(error), remedy=f"Make {path.parent} and the files in it writable for the manager")
    if any(name.startswith(one) for one in DAMAGED):
        return DriverError(f"is damaged: {error}", object=place, remedy=RESTORE)
    return DriverError(f"failed: {error}", object=place, value=name or None, remedy="Look at the disk; if the database is damaged, restore the last backup")


def _room(path: Path) -> int:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return 1 << 60
    return found.f_bavail * found.f_frsize
