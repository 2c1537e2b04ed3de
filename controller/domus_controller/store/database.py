"""One SQLite file: one writer thread with group commit, and a read-only connection for each reading thread."""

from __future__ import annotations

import contextlib
import fcntl
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, Callable, Optional, TypeVar

from domus_core.errors import Busy, DomusError, DriverError, NoCapacity
from sqlite_utils import Migrations

from .connections import ReadConnection, as_domus_error, migrate, open_reader, open_writer, translated
from .guard import hoisted
from .schema import MANAGER, STATISTICS

Connection = sqlite3.Connection
Row = sqlite3.Row
Result = TypeVar("Result")

MOST_CHANGES = 200
LONGEST_COLLECTING = 0.02
FILE = "manager.db"
STATISTICS_FILE = "statistics.db"
LOCK = "lock"


class _Change:
    """A change that waits for the writer, and its answer."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.answer: Future[Any] = Future()
        self.result: Any = None
        self.error: Optional[BaseException] = None

    def end(self, failed: Optional[BaseException]) -> None:
        """Tell the caller how it ended; `failed` is why the whole transaction came to nothing."""
        error = self.error or failed
        if error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(error)


class Database:
    """A SQLite file: any number of readers, one writer; commits are durable unless `durable` is false.

    In WAL mode readers never wait; on a pool file system (`shared`) the file has a rollback journal, and they wait for the writer and it for them.
    """

    def __init__(self, path: Path, migrations: Migrations, *, clock: Callable[[], float] = time.time, durable: bool = True, shared: bool = False) -> None:
        self.path = Path(path)
        self._shared = shared
        self._clock = clock
        self._changes: queue.SimpleQueue[Optional[_Change]] = queue.SimpleQueue()
        self._commits = 0
        self._committed = threading.Condition()
        self._local = threading.local()
        self._readers: weakref.WeakSet[ReadConnection] = weakref.WeakSet()
        self._closing = threading.Lock()
        self._closed = False
        #: why the latest changes could not be stored: no room, read-only, damaged; None when they were
        self.problem: Optional[DomusError] = None
        with translated(self.path):
            self._writer = open_writer(self.path, durable, shared)
            self._writer.create_function("store_clock", 0, clock)
            try:
                migrate(self._writer, migrations)
            except BaseException:
                self._writer.close()
                raise
        self._thread = threading.Thread(target=self._write_all, name=f"writer of {self.path.name}", daemon=True)
        self._thread.start()

    def now(self) -> float:
        """The time by the store's clock, in seconds since 1970."""
        return self._clock()

    def read(self) -> Connection:
        """This thread's own read-only connection; each statement sees what was committed when it began."""
        reader: Optional[ReadConnection] = getattr(self._local, "reader", None)
        if reader is None:
            with translated(self.path):
                reader = open_reader(self.path, self._shared)
            self._local.reader = reader
            self._readers.add(reader)
        return reader

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows that a query gives. Raises DriverError."""
        with translated(self.path):
            return self.read().execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> Optional[Row]:
        """The first row that a query gives, or None. Raises DriverError."""
        with translated(self.path):
            found: Optional[Row] = self.read().execute(sql, values).fetchone()
            return found

    def write(self, change: Callable[[Connection], Result]) -> Result:
        """Carry `change` out in the writer thread, and return its result once it is durable.

        What `change` raises undoes it alone and is raised here. Raises NoCapacity (no room), DriverError (read-only, damaged, closed).
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a change must use the connection it was given")
        waiting = _Change(change)
        with self._closing:
            if self._closed:
                raise DriverError("is closed", object=f"database {self.path.name}")
            self._changes.put(waiting)
        result: Result = waiting.answer.result()
        return result

    def changed(self, since: int, timeout: float) -> int:
        """Wait up to `timeout` seconds until there were more than `since` commits; return how many there were."""
        with self._committed:
            self._committed.wait_for(lambda: self._commits > since or self._closed, timeout)
            return self._commits

    def close(self) -> None:
        """Finish what was asked for, then let go of the file; reading connections of all threads are closed."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._changes.put(None)
        self._thread.join()
        with self._committed:
            self._committed.notify_all()
        for reader in list(self._readers):
            reader.close()
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()

    def _write_all(self) -> None:
        while (first := self._changes.get()) is not None:
            group = [first]
            try:
                last = self._commit(group)
                failed: Optional[BaseException] = None
            except BaseException as error:
                last, failed = False, as_domus_error(error, self.path)
                self._roll_back()
            self.problem = self._storage_problem([failed, *(change.error for change in group)])
            if failed is None:
                with self._committed:
                    self._commits += 1
                    self._committed.notify_all()
            for change in group:
                change.end(failed)
            del first, group, change
            if last:
                return

    def _storage_problem(self, errors: list[Optional[BaseException]]) -> Optional[DomusError]:
        """The first of these errors that is the file's, or its disk's."""
        place = f"database {self.path}"
        return next((error for error in errors if isinstance(error, (NoCapacity, DriverError)) and error.object == place), None)

    def _commit(self, group: list[_Change]) -> bool:
        """Carry out the first change and those that wait behind it in one transaction; return whether the store is to be closed."""
        self._writer.execute("BEGIN IMMEDIATE")
        until = time.monotonic() + LONGEST_COLLECTING
        last = False
        self._carry_out(group[0])
        while len(group) < MOST_CHANGES and time.monotonic() < until:
            try:
                change = self._changes.get_nowait()
            except queue.Empty:
                break
            if change is None:
                last = True
                break
            group.append(change)
            self._carry_out(change)
        try:
            self._writer.execute("COMMIT")
        except BaseException:
            if last:
                self._changes.put(None)
            raise
        return last

    def _carry_out(self, change: _Change) -> None:
        self._writer.execute("SAVEPOINT change")
        try:
            change.result = change.work(self._writer)
        except BaseException as error:
            change.error = as_domus_error(error, self.path)
            # Some errors (no room, for one) end the whole transaction: then nothing of the group may be acknowledged.
            if not self._writer.in_transaction:
                raise
            self._writer.execute("ROLLBACK TO change")
        self._writer.execute("RELEASE change")

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")


class Store(Database):
    """The manager's database in `directory`, and the statistics in a file of their own beside it.

    Where the directory is shared by servers this one is its only user, by `guard`. Raises Busy when it is not.
    """

    def __init__(self, directory: Path | str, clock: Callable[[], float] = time.time) -> None:
        self.directory = Path(directory)
        with contextlib.ExitStack() as opened:
            self.guard = hoisted(self.directory)
            shared = self.guard is not None
            if self.guard is not None:
                opened.callback(self.guard.close)
            with translated(self.directory):
                self._lock = _shared_lock(self.directory)
            opened.callback(self._lock.close)
            super().__init__(self.directory / FILE, MANAGER, clock=clock, shared=shared)
            opened.callback(super().close)
            self.statistics = Database(self.directory / STATISTICS_FILE, STATISTICS, clock=clock, durable=False, shared=shared)
            opened.pop_all()

    @property
    def manager_id(self) -> str:
        """The manager's own UUID, made with the database."""
        found = self.row("SELECT value FROM about WHERE name = 'manager_id'")
        return str(found["value"]) if found else ""

    def close(self) -> None:
        """Finish what was asked for, then let go of both files."""
        self.statistics.close()
        super().close()
        self._lock.close()
        if self.guard is not None:
            self.guard.close()


def _shared_lock(directory: Path) -> IO[str]:
    """A lock that any number of users hold together, and a restore alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = open(directory / LOCK, "a+", encoding="utf-8")  # NFS gives a shared lock to those only who may read
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Busy("is being restored", object=f"store {directory}", remedy="Wait until that has ended") from None
    return lock
