"""Backups: a copy made while the manager works, checked as a whole; and the way back."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Optional

from domus_core.errors import Busy, Conflict, DriverError, NotFound

from .connections import check, translated
from .database import FILE, LOCK, Store

KEEP = 21
PREFIX, SUFFIX = "manager-", ".db"
PAGES = 1000
# Beyond any number that was given out after the backup: whoever follows the changes sees everything again.
SEQUENCE_LEAP = 1 << 32


def backup(store: Store, path: Path) -> Path:
    """Write a checked copy of the manager's database to the new file `path` (0600), all of it or nothing. Statistics are not in it.

    Raises NotFound (no such directory), Conflict (the file is there), NoCapacity, DriverError (damaged, can not be written).
    """
    path = Path(path)
    with translated(path):
        if not path.parent.is_dir():
            raise NotFound("is not there", object=f"directory {path.parent}", remedy="Make it, or name another")
        if os.path.lexists(path):
            raise Conflict("is there already", object=f"file {path}", remedy="Choose another name")
        partial = path.with_name(f".{path.name}.partial")
        with _removed_on_failure(partial):
            os.close(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600))
            with contextlib.closing(sqlite3.connect(partial)) as copy:
                store.read().backup(copy, pages=PAGES)
                copy.execute("PRAGMA journal_mode = DELETE")
                check(copy, path)
            _replace(partial, path)
    return path


def backup_into(store: Store, directory: Path, keep: int = KEEP) -> Path:
    """Write a backup named after the time into `directory`, then remove all but the newest `keep`; return its path."""
    at = datetime.datetime.fromtimestamp(store.now(), datetime.timezone.utc)
    with translated(Path(directory)):
        Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    made = backup(store, Path(directory) / f"{PREFIX}{at:%Y%m%dT%H%M%S.%fZ}{SUFFIX}")
    with translated(made):
        others = [path for path in backups(directory) if path != made]
        for old in others[max(keep - 1, 0) :]:
            old.unlink()
    return made


def backups(directory: Path) -> list[Path]:
    """The backups in a directory, the newest first."""
    return sorted(Path(directory).glob(f"{PREFIX}*{SUFFIX}"), reverse=True)


def restore(path: Path, directory: Path, opened: Callable[[], None] = lambda: None) -> Optional[Path]:
    """Put a checked backup in the place of the manager's database, which is kept aside; return where, None when there was none.

    `opened` is called once the backup is open: from then on it need not be readable any more.
    The manager must not run. Nothing changes on any server: they are asked for what they have when they next report.
    Raises NotFound, Busy (the manager runs), NoCapacity, DriverError (the backup is damaged; then nothing was touched).
    """
    path, directory = Path(path), Path(directory)
    with contextlib.ExitStack() as stack:
        sources = _opened(path, stack)
        opened()
        with translated(directory / FILE):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = directory / f".{FILE}.partial"
            with stopped(directory), _removed_on_failure(partial):
                for rest, source in sources.items():
                    with open(os.open(f"{partial}{rest}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
                        shutil.copyfileobj(source, file)
                _make_current(partial, path)
                if (directory / FILE).exists():
                    shutil.copymode(directory / FILE, partial)
                aside = _set_aside(directory)
                _replace(partial, directory / FILE)
    return aside


def _opened(path: Path, stack: contextlib.ExitStack) -> dict[str, BinaryIO]:
    """The backup, and its journal if it was set aside together with one."""
    try:
        if not path.is_file():
            raise NotFound("is not there", object=f"backup {path}")
        return {rest: stack.enter_context(open(f"{path}{rest}", "rb")) for rest in ("", "-wal") if os.path.exists(f"{path}{rest}")}
    except OSError as error:
        raise DriverError(f"can not be read: {error.strerror}", object=f"backup {path}", remedy="Run this as root") from None


def _make_current(partial: Path, path: Path) -> None:
    """Check the copy of a backup, and make those who read it ask the servers for everything again."""
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        try:
            with translated(path):
                copy.execute("PRAGMA journal_mode = DELETE")
            check(copy, path)
        except DriverError as error:
            raise DriverError(error.message, object=f"backup {path}", remedy="Use another backup; nothing was changed") from None
        if not copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'callback_positions'").fetchone():
            raise DriverError("is not a backup of a manager", object=f"backup {path}", remedy="Choose a file that `domus-manager backup` made")
        with copy:
            copy.execute("UPDATE counters SET value = value + ? WHERE name = 'sequence'", (SEQUENCE_LEAP,))
            copy.execute("UPDATE objects SET sequence = sequence + ?", (SEQUENCE_LEAP,))
            copy.execute("UPDATE callback_positions SET complete = 0")
            copy.execute("UPDATE servers SET state = 'unknown'")
            # Who was switched off since, and who was woken, is not known: policies do nothing until somebody has confirmed them.
            if "powered_off" in {row[1] for row in copy.execute("PRAGMA table_info(servers)")}:
                copy.execute("UPDATE servers SET powered_off = NULL")
            copy.execute("INSERT OR REPLACE INTO about VALUES ('restored_at', ?)", (str(time.time()),))


def _set_aside(directory: Path) -> Optional[Path]:
    """Move the database away together with its journal, which belongs to it."""
    if not (directory / FILE).exists():
        for rest in ("-wal", "-shm"):
            (directory / f"{FILE}{rest}").unlink(missing_ok=True)
        return None
    at = datetime.datetime.now(datetime.timezone.utc)
    aside = directory / f"{FILE}.before-restore-{at:%Y%m%dT%H%M%S.%fZ}"
    for rest in ("-wal", "-shm", ""):
        if (directory / f"{FILE}{rest}").exists():
            (directory / f"{FILE}{rest}").rename(f"{aside}{rest}")
    return aside


@contextlib.contextmanager
def stopped(directory: Path) -> Iterator[None]:
    """Nobody has the store in `directory` open meanwhile. Raises Busy."""
    with open(directory / LOCK, "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("is in use", object=f"store {directory}", remedy="Stop the manager first") from None
        yield


@contextlib.contextmanager
def _removed_on_failure(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for rest in ("", "-journal", "-wal", "-shm"):
            partial.with_name(f"{partial.name}{rest}").unlink(missing_ok=True)
        raise


def _replace(partial: Path, path: Path) -> None:
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
