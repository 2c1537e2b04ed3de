"""A SQLite file that survives a full or damaged disk: what fails is dropped and told, what is damaged is moved aside and begun anew."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from typing import Callable, Optional

_DAMAGED = ("malformed", "not a database", "disk image", "no such table", "no such column")


class Database:
    """One connection that any thread may use; `problem` says what is wrong with the file, None: nothing.

    `wake` is called after each commit of a transaction that asked for it.
    """

    def __init__(self, path: str, schema: str, clock: Callable[[], float]) -> None:
        self.path = path
        self.problem: Optional[str] = None
        self.wake: Callable[[], None] = lambda: None
        self._schema = schema
        self._clock = clock
        self._lock = threading.RLock()
        self._inside = False
        self._woken = False
        self._on_disk = False
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._connection = self._open()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All changes inside the block are made together, or none of them; a failing database drops them and sets `problem`."""
        with self._lock:
            if self._inside:
                yield self._connection
                return
            self._begin()
            changes = self._connection.total_changes
            try:
                yield self._connection
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                self._failed(error)
                return
            except BaseException:
                self._undo()
                raise
            finally:
                self._inside = False
            woken, healed = self._woken, self.problem
            proven = self._on_disk and self._connection.total_changes > changes
            self.problem = None if proven else self.problem
        if healed and proven:
            self._healed(healed)
        if woken:
            self.wake()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._inside:
                yield self._connection
                return
            self._inside = True
            try:
                yield self._connection
            except sqlite3.Error as error:
                self._failed(error)
            finally:
                self._inside = False

    def check(self) -> Optional[str]:
        """Try whether the database can be written to again; return the problem that is left."""
        if self.problem is not None:
            with self._lock:
                if not self._on_disk:
                    self._connection.close()
                    self._connection = self._open()
            with self.transaction():
                self._put_meta("checked", repr(self._clock()))
        return self.problem

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _healed(self, problem: str) -> None:
        """The file works again, and changes may have been lost meanwhile."""

    def _uncertain(self) -> None:
        """Changes were undone: what was counted in memory is no longer certain."""

    def _meta(self, name: str) -> Optional[str]:
        value: Optional[str] = None
        with self._reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            value = row[0] if row else None
        return value

    def _put_meta(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _begin(self) -> None:
        self._inside, self._woken = True, False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:  # the first change inside the block says why
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("BEGIN")

    def _undo(self) -> None:
        self._uncertain()
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _failed(self, error: sqlite3.Error) -> None:
        self.problem = f"the agent's database {self.path} fails: {error}"
        if _is_damaged(error):
            self._uncertain()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._move_aside()
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        """The database file; a damaged one is moved aside first, and where none can be, one in memory does until the next `check`."""
        for dummy in range(2):
            try:
                connection = _connect(self.path, self._schema)
                self._on_disk = True
                return connection
            except (sqlite3.Error, OSError) as error:
                self.problem = f"the agent's database {self.path} can not be opened: {error}"
                if _is_damaged(error):
                    self._move_aside()
        self._on_disk = False
        return _connect(":memory:", self._schema)

    def _move_aside(self) -> None:
        self.problem = f"the agent's database was damaged; it is kept as {self.path}.damaged-..., and a new one was begun"
        for end in ("-wal", "-shm", ""):
            with contextlib.suppress(OSError):
                os.replace(self.path + end, f"{self.path}.damaged-{self._clock():.0f}{end}")


def _connect(path: str, schema: str) -> sqlite3.Connection:
    if path != ":memory:":
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA cache_size = -512")
        sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if sound != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {sound}")
        connection.executescript(schema)
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (uuid.uuid4().hex,))
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_damaged(error: Exception) -> bool:
    return any(sign in str(error) for sign in _DAMAGED)
