"""What agents report: each record is stored once, however often and in whatever order it comes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from domus_core.errors import InvalidSpec, NotFound, shorten

from . import events, objects
from .database import Connection, Row, Store

MOST_NUMBER = 1 << 62
UNFIT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
REFUSED = {"kind": "callback.refused", "severity": "error"}


def ingest(store: Store, server_id: str, epoch: str, records: Iterable[Mapping[str, Any]]) -> int:
    """Store the records of one callback, durably, and return the highest number stored of this epoch.

    What was stored before is skipped. After a jump in the numbers the missing ones are still taken when they come, and the server's
    copy counts as incomplete (see `incomplete`). Raises InvalidSpec, NotFound (not our server); then nothing was stored.
    """
    ordered = sorted(records, key=_number)
    received_at = store.now()

    def change(connection: Connection) -> int:
        if connection.execute("SELECT 1 FROM servers WHERE id = ?", (server_id,)).fetchone() is None:
            raise NotFound("is not a server of this manager", object=f"server {server_id}", remedy="Release it, then take it over again")
        return _Intake(connection, server_id, epoch, received_at).take(ordered)

    return store.write(change)


class _Intake:
    """The records of one callback on their way into the tables."""

    def __init__(self, connection: Connection, server_id: str, epoch: str, received_at: float) -> None:
        self.connection = connection
        self.server_id = server_id
        self.epoch = epoch
        self.received_at = received_at
        position = connection.execute("SELECT * FROM callback_positions WHERE server_id = ? AND epoch = ?", (server_id, epoch)).fetchone()
        self.acknowledged = int(position["acknowledged"]) if position else 0
        self.gapped = bool(connection.execute("SELECT 1 FROM callback_gaps WHERE server_id = ? AND epoch = ? LIMIT 1", (server_id, epoch)).fetchone())
        self.known = position
        self.missed = False

    def take(self, ordered: list[Mapping[str, Any]]) -> int:
        """Store what is new; return the highest number stored."""
        before = self.acknowledged
        for record in ordered:
            number = record["seq"]
            if number > self.acknowledged:
                if number > self.acknowledged + 1:
                    self._note_gap(self.acknowledged + 1, number - 1)
                self.acknowledged = number
                self._store(record)
            elif self.gapped and self._fill_gap(number):
                # A later record may have told of the same object already: only what happened is taken, the state is read again.
                self.missed = True
                if record.get("type") == "event":
                    self._store(record)
        if self.known is None or self.acknowledged > before or self.missed:
            self._note_position()
        return self.acknowledged

    def _store(self, record: Mapping[str, Any]) -> None:
        """Store one record; one that can not be stored is told as an event, since refusing it would hold up all that follow."""
        self.connection.execute("SAVEPOINT record")
        try:
            self._put(record)
        except (InvalidSpec, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, *UNFIT) as error:
            self.connection.execute("ROLLBACK TO record")
            events.add(self.connection, {**REFUSED, "at": self.received_at, "server_id": self.server_id, "data": _problem(record, error)})
        self.connection.execute("RELEASE record")

    def _put(self, record: Mapping[str, Any]) -> None:
        told = record.get("type")
        if told == "event":
            events.add(self.connection, {**record, "server_id": self.server_id}, self.received_at)
        elif told == "object":
            objects.put(self.connection, self.server_id, record["description"], record["kind"], record["key"], self.received_at)
        elif told != "void":
            raise InvalidSpec("is not a type of record", field="type", value=told)

    def _note_position(self) -> None:
        """The epoch that has news is the current one; a new one, and one that misses something, is incomplete."""
        current = self.known is not None and self.known["current"] and not self.missed
        if self.known is None or not self.known["current"]:
            self.connection.execute("UPDATE callback_positions SET current = 0 WHERE server_id = ?", (self.server_id,))
        self.connection.execute(
            "INSERT INTO callback_positions (server_id, epoch, acknowledged, current, complete) VALUES (?, ?, ?, 1, 0) ON CONFLICT (server_id, epoch)"
            " DO UPDATE SET acknowledged = excluded.acknowledged, current = 1, complete = CASE WHEN ? THEN complete ELSE 0 END",
            (self.server_id, self.epoch, self.acknowledged, current),
        )

    def _note_gap(self, first: int, last: int) -> None:
        self.connection.execute("INSERT INTO callback_gaps (server_id, epoch, first, last) VALUES (?, ?, ?, ?)", (self.server_id, self.epoch, first, last))
        self.gapped = self.missed = True

    def _fill_gap(self, number: int) -> bool:
        """Take a number out of the gap it is in; return whether there was one."""
        place = (self.server_id, self.epoch)
        gap = self.connection.execute(
            "SELECT first, last FROM callback_gaps WHERE server_id = ? AND epoch = ? AND first <= ? ORDER BY first DESC LIMIT 1", (*place, number)
        ).fetchone()
        if gap is None or gap["last"] < number:
            return False
        self.connection.execute("DELETE FROM callback_gaps WHERE server_id = ? AND epoch = ? AND first = ?", (*place, gap["first"]))
        left = [(*place, first, last) for first, last in ((gap["first"], number - 1), (number + 1, gap["last"])) if first <= last]
        self.connection.executemany("INSERT INTO callback_gaps (server_id, epoch, first, last) VALUES (?, ?, ?, ?)", left)
        return True


def _number(record: Mapping[str, Any]) -> int:
    number = record.get("seq") if isinstance(record, Mapping) else None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < MOST_NUMBER:
        raise InvalidSpec("is not a record number", object="callback", field="seq", value=number)
    return number


def _problem(record: Mapping[str, Any], error: Exception) -> dict[str, Any]:
    problem = f"{type(error).__name__}: {error}".encode("ascii", "replace").decode()
    return {"record": record["seq"], "type": shorten(record.get("type")), "problem": shorten(problem)}


def incomplete(store: Store) -> list[str]:
    """The ids of the servers whose copy may lack something: they are to be asked for their inventory (or a resync)."""
    rows = store.rows("SELECT server_id FROM callback_positions WHERE current = 1 AND complete = 0 ORDER BY server_id")
    return [row["server_id"] for row in rows]


def completed(store: Store, server_id: str, epoch: str) -> None:
    """Note that the server's copy is complete again in this epoch, after `objects.replace_all`."""
    sql = "UPDATE callback_positions SET complete = 1 WHERE server_id = ? AND epoch = ?"

    def change(connection: Connection) -> None:
        connection.execute(sql, (server_id, epoch))
        connection.execute("DELETE FROM callback_gaps WHERE server_id = ? AND epoch != ?", (server_id, epoch))

    store.write(change)


def position(store: Store, server_id: str) -> dict[str, Any]:
    """Where a server's reports are: {epoch, acknowledged, complete}; epoch None before the first."""
    row: Row | None = store.row("SELECT * FROM callback_positions WHERE server_id = ? AND current = 1", (server_id,))
    if row is None:
        return {"epoch": None, "acknowledged": 0, "complete": False}
    return {"epoch": row["epoch"], "acknowledged": row["acknowledged"], "complete": bool(row["complete"])}
