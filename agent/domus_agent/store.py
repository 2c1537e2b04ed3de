"""The agent's database: what the manager has still to hear, the objects as last seen, operations, revoked certificates.

A full or damaged disk stops neither verbs nor reading: a transaction that fails is dropped, `problem` says why, and once the
database works again `recovered` is called, so that everything is looked at anew. A damaged file is moved aside and a new epoch
begins. What must outlive the database (identity and trust) is not kept here.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from typing import Any, Callable, Optional

from .database import Database

FILE = "agent.db"
MOST_EVENTS = 100_000
DROPPED_AT_ONCE = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT, key TEXT, id TEXT, event TEXT);
CREATE INDEX IF NOT EXISTS outbox_objects ON outbox (kind, key) WHERE event IS NULL;
CREATE TABLE IF NOT EXISTS objects (kind TEXT, key TEXT, id TEXT NOT NULL, fingerprint TEXT, description TEXT NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS operations (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, who TEXT NOT NULL, serial TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL, told TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS revoked (serial TEXT PRIMARY KEY, until REAL NOT NULL);
"""


class AgentStore(Database):
    """The database in a directory. Every method may be called from any thread, alone or inside `with store.transaction()`.

    `wake` is called after each commit that added records to the outbox; `recovered` after the database works again, when changes
    may have been lost meanwhile. No method raises for a database that is full, read-only or damaged: see `problem`.
    """

    def __init__(self, directory: str, clock: Callable[[], float] = time.time, most_events: int = MOST_EVENTS) -> None:
        self.recovered: Callable[[], None] = lambda: None
        self._most_events = most_events
        self._events: Optional[int] = None
        super().__init__(os.path.join(directory, FILE), _SCHEMA, clock)

    def add_event(
        self,
        kind: str,
        object: Optional[dict[str, str]] = None,
        severity: str = "info",
        data: Optional[dict[str, Any]] = None,
        operation: Optional[str] = None,
    ) -> int:
        """Put an event into the outbox; return its sequence number (0: the database refused). The oldest beyond 100,000 are lost, and that is told."""
        seq = 0
        with self.transaction() as connection:
            told = {"kind": kind, "severity": severity, "object": object, "data": data or {}, "operation": operation}
            seq = self._insert(connection, None, None, None, _text(told))
            if self._events is None:
                self._events = _one(connection, "SELECT count(*) FROM outbox WHERE event IS NOT NULL")
            else:
                self._events += 1
            if self._events > self._most_events:
                self._drop_oldest(connection)
        return seq

    def put_object(self, kind: str, key: str, id: str, description: Optional[dict[str, Any]]) -> Optional[int]:
        """Remember an object as it is now (None: gone, then `id` may be empty).

        Return the sequence number of its record, None when just that was put last.
        """
        seq: Optional[int] = None
        with self.transaction() as connection:
            known = connection.execute("SELECT description, id FROM objects WHERE kind = ? AND key = ?", (kind, key)).fetchone()
            text = None if description is None else _text(description)
            if (known[0] if known else None) == text:
                return None
            id = id or known[1]
            if description is None:
                connection.execute("DELETE FROM objects WHERE kind = ? AND key = ?", (kind, key))
            else:
                row = (kind, key, id, description.get("fingerprint"), text)
                connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)
            seq = self._announce(connection, kind, key, id)
        return seq

    def announce_all(self) -> int:
        """Put every known object into the outbox again; return the mark: the last sequence number."""
        with self.transaction() as connection:
            for kind, key, id in connection.execute("SELECT kind, key, id FROM objects ORDER BY kind, key").fetchall():
                self._announce(connection, kind, key, id)
        return self.mark()

    def unsent(self, limit: int = 500) -> list[dict[str, Any]]:
        """The oldest records that were not acknowledged, gapless; an object's record tells it as it is now, one that is outdated is void."""
        records: dict[int, dict[str, Any]] = {}
        with self._reading() as connection:
            first = self.acknowledged_seq() + 1
            last = min(self.mark(), first + limit - 1)
            records = {seq: {"seq": seq, "type": "void"} for seq in range(first, last + 1)}
            rows = connection.execute(
                "SELECT seq, at, outbox.kind, outbox.key, outbox.id, event, description FROM outbox LEFT JOIN objects ON"
                " event IS NULL AND objects.kind = outbox.kind AND objects.key = outbox.key WHERE seq BETWEEN ? AND ?",
                (first, last),
            )
            for seq, at, kind, key, id, event, description in rows:
                if event is not None:
                    records[seq] = {"seq": seq, "at": at, "type": "event", **json.loads(event)}
                else:
                    told = json.loads(description) if description else None
                    records[seq] = {"seq": seq, "at": at, "type": "object", "kind": kind, "key": key, "id": id, "description": told}
        return list(records.values())

    def batch(self, limit: int) -> tuple[str, list[dict[str, Any]]]:
        """The epoch, and its oldest unsent records."""
        with self._reading():
            return self.epoch, self.unsent(limit)
        return "", []

    def acknowledged(self, seq: int, epoch: str) -> None:
        """The manager has stored everything of that epoch up to `seq`; it is forgotten here."""
        with self.transaction() as connection:
            seq = min(seq, self.mark())
            if epoch == self.epoch and seq > self.acknowledged_seq():
                connection.execute("DELETE FROM outbox WHERE seq <= ?", (seq,))
                self._put_meta("acknowledged", str(seq))
                self._events = None

    def acknowledged_seq(self) -> int:
        """Up to which sequence number the manager has stored everything."""
        return int(self._meta("acknowledged") or 0)

    def mark(self) -> int:
        """The last sequence number given out in this epoch."""
        seq = 0
        with self._reading() as connection:
            seq = _one(connection, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'")
        return seq

    def begin_epoch(self) -> None:
        """Nothing was ever told to the manager that listens from now on: an empty outbox, then every known object."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM outbox")
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'outbox'")
            connection.execute("DELETE FROM revoked")
            self._put_meta("acknowledged", "0")
            self._put_meta("epoch", uuid.uuid4().hex)
            self._events = None
            self.announce_all()

    @property
    def epoch(self) -> str:
        """32 hex digits, new with each new database: sequence numbers count anew with it."""
        return self._meta("epoch") or ""

    def counts(self) -> dict[str, int]:
        """How many records wait for the manager, and how many objects and operations are known."""
        counts = {"outbox": 0, "objects": 0, "operations": 0}
        with self._reading() as connection:
            counts = {table: _one(connection, f"SELECT count(*) FROM {table}") for table in counts}
        return counts

    def objects(self, kind: Optional[str] = None) -> list[dict[str, Any]]:
        """The descriptions of the objects as last seen, by kind and key."""
        rows: list[tuple[str]] = []
        with self._reading() as connection:
            rows = connection.execute("SELECT description FROM objects WHERE ? IN (kind, '') ORDER BY kind, key", (kind or "",)).fetchall()
        return [json.loads(row[0]) for row in rows]

    def key_of(self, kind: str, id: str) -> Optional[str]:
        """The key of the object that was last seen with this id."""
        row: Any = None
        with self._reading() as connection:
            row = connection.execute("SELECT key FROM objects WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return str(row[0]) if row else None

    def secret(self, name: str, otherwise: str) -> str:
        """What was kept under this name, which is `otherwise` the first time."""
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, otherwise))
        return self._meta(name) or otherwise

    # --- operations

    def put_operation(self, id: str, asked: tuple[str, str, str], told: dict[str, Any]) -> None:
        """Keep an operation: the digest of what was asked, by whom, with which certificate (serial number), and its status."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?, ?, ?)", (id, *asked, told["state"], self._clock(), _text(told)))

    def operation(self, id: str) -> Optional[tuple[tuple[str, str, str], dict[str, Any]]]:
        """What was kept of an operation: (digest, by whom, serial number), and its status."""
        row: Any = None
        with self._reading() as connection:
            row = connection.execute("SELECT digest, who, serial, told FROM operations WHERE id = ?", (id,)).fetchone()
        return (tuple(row[:3]), json.loads(row[3])) if row else None

    def unfinished(self) -> list[str]:
        """The operations that did not end."""
        rows: list[tuple[str]] = []
        with self._reading() as connection:
            rows = connection.execute("SELECT id FROM operations WHERE state IN ('queued', 'running') ORDER BY at").fetchall()
        return [row[0] for row in rows]

    def forget_operations(self, before: float) -> None:
        """Forget what ended before that time."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM operations WHERE at < ? AND state NOT IN ('queued', 'running')", (before,))

    # --- revoked certificates

    def revoke(self, serial: str, until: float) -> None:
        """Refuse a certificate until it would have ended anyway."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM revoked WHERE until < ?", (self._clock() - 86400,))
            connection.execute("INSERT OR REPLACE INTO revoked VALUES (?, ?)", (serial, until))

    def revoked(self) -> dict[str, float]:
        """The serial numbers of revoked certificates, and until when."""
        rows: list[tuple[str, float]] = []
        with self._reading() as connection:
            rows = connection.execute("SELECT serial, until FROM revoked").fetchall()
        return dict(rows)

    # --- inside

    def _insert(self, connection: sqlite3.Connection, kind: Optional[str], key: Optional[str], id: Optional[str], event: Optional[str]) -> int:
        row = (self._clock(), kind, key, id, event)
        seq = connection.execute("INSERT INTO outbox (at, kind, key, id, event) VALUES (?, ?, ?, ?, ?)", row).lastrowid
        self._woken = True
        return seq or 0

    def _announce(self, connection: sqlite3.Connection, kind: str, key: str, id: str) -> int:
        connection.execute("DELETE FROM outbox WHERE event IS NULL AND kind = ? AND key = ?", (kind, key))
        return self._insert(connection, kind, key, id, None)

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        """Make room, and have one event say how many were lost since the manager last listened."""
        count = min(DROPPED_AT_ONCE, self._most_events // 10 + 1)
        oldest = connection.execute("SELECT seq, event FROM outbox WHERE event IS NOT NULL ORDER BY seq LIMIT ?", (count,)).fetchall()
        told = [json.loads(event) for dummy, event in oldest]
        lost = sum(event["data"]["count"] if event["kind"] == "events.lost" else 1 for event in told)
        connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq, dummy in oldest])
        self._events = None
        self.add_event("events.lost", severity="warning", data={"count": lost})

    def _healed(self, problem: str) -> None:
        self.add_event("agent.database_recovered", severity="warning", data={"problem": problem})
        self.recovered()

    def _uncertain(self) -> None:
        self._events = None


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _one(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
