"""Whether a server is there: a pure decision from what was heard of it, and the transitions, each told by one event.

unknown ──heard──► running ──silent──► disconnected ──silent for long──► offline        heard again: running, from any of them
                   maintenance: running, in the mode of that name                       unknown: silent, and not to be trusted
    off: silent, and switched off on purpose
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from . import events
from .database import Connection, Row, Store
from .servers import CONNECTED, DISCONNECTED, MAINTENANCE, OFF, OFFLINE, RUNNING, UNKNOWN, host_uuid, same_hosts
from .values import as_json, from_json

REFUSED = "its reports are refused: they come with a certificate that is not its current one; take it over again: domus server add --replace"
SILENT = f"state NOT IN ('{RUNNING}', '{MAINTENANCE}')"
SEVERITY = {RUNNING: "info", OFF: "info", DISCONNECTED: "warning", OFFLINE: "error", UNKNOWN: "error"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """For how many seconds of silence a server counts as disconnected, and as offline."""

    disconnected: float = 30.0
    offline: float = 120.0


@dataclasses.dataclass(frozen=True)
class Heard:
    """What is known of a server: the state it was in, when it was heard last (None: never), its mode, whether it is not to be trusted, and
    whether it was switched off on purpose."""

    state: str
    last_heard: Optional[float]
    maintenance: bool = False
    distrusted: bool = False
    powered_off: bool = False


def state_of(server: Heard, now: float, listening_since: float, limits: Limits) -> str:
    """The state of a server at a moment; `listening_since` is from when on this manager would have heard it.

    That it was silent while nobody listened is not held against it: then the state stays what it was. Silence never makes it better.
    """
    if server.last_heard is None:
        return UNKNOWN
    silent = now - max(server.last_heard, listening_since)
    if silent < limits.disconnected:
        return shown_state(server.state, server.maintenance)
    if server.powered_off:
        return OFF
    if server.distrusted:
        return UNKNOWN
    return OFFLINE if silent >= limits.offline or server.state == OFFLINE else DISCONNECTED


def shown_state(state: str, maintenance: bool) -> str:
    """The state with the mode: a server that is not there is not shown as in maintenance."""
    if state in CONNECTED:
        return MAINTENANCE if maintenance else RUNNING
    return state


def heard(
    connection: Connection,
    id: str,
    at: float,
    version: Optional[str],
    libvirt: Optional[str],
    facts: Optional[Mapping[str, Any]] = None,
    problem: Optional[str] = None,
) -> None:
    """Note a callback (`at` by the manager's clock; libvirt "up" or "down"), and tell when the server was not there before.

    What is None stays as it was told before, but for `problem`: None says that the agent has none.
    """
    before = connection.execute("SELECT state, last_seen, maintenance FROM servers WHERE id = ?", (id,)).fetchone()
    if before is None:
        return
    connection.execute(
        "UPDATE servers SET last_seen = ?, version = coalesce(?, version), libvirt = coalesce(?, libvirt), problem = ?, diagnosis = NULL, distrusted = 0"
        " WHERE id = ?",
        (at, version, libvirt, problem, id),
    )
    if facts is not None:
        _keep_facts(connection, id, at, facts)
    if before["state"] not in CONNECTED:
        silent = None if before["last_seen"] is None else round(max(0.0, at - before["last_seen"]), 1)
        connection.execute("UPDATE servers SET powered_off = NULL WHERE id = ?", (id,))
        _change(connection, id, shown_state(RUNNING, bool(before["maintenance"])), at)
        _tell(connection, id, RUNNING, at, {"before": before["state"], "silent_seconds": silent})


def judge(store: Store, listening_since: float, limits: Limits) -> dict[str, str]:
    """Change the states of those that are silent, tell each change once, and return the state of every server by id.

    One that was heard in the future (the clock was set back) counts as heard just now.
    """
    now = store.now()
    rows = store.rows("SELECT id, state, last_seen, maintenance, distrusted, powered_off FROM servers")
    found = {row["id"]: state_of(_heard(row), now, min(now, listening_since), limits) for row in rows}
    moved = [row for row in rows if found[row["id"]] != row["state"] or (row["last_seen"] or 0.0) > now]
    if moved:

        def change(connection: Connection) -> None:
            connection.execute("UPDATE servers SET last_seen = ?1 WHERE last_seen > ?1", (now,))
            for row in moved:
                # Whoever was heard while this was thought out is not silent.
                seen = connection.execute("SELECT state, last_seen, diagnosis, powered_off FROM servers WHERE id = ?", (row["id"],)).fetchone()
                state = found[row["id"]]
                if seen is None or (seen["state"], seen["last_seen"]) != (row["state"], row["last_seen"]) or state == row["state"]:
                    continue
                _change(connection, row["id"], state, now)
                _tell(connection, row["id"], state, now, {"before": row["state"], **_told(seen, state)})

        store.write(change)
    return found


def diagnose(store: Store, id: str, diagnosis: str, distrusted: bool) -> None:
    """Note why a silent server is silent, and whether it is because one side does not trust the other."""
    sql = f"UPDATE servers SET diagnosis = ?, distrusted = ? WHERE id = ? AND {SILENT}"
    store.write(lambda connection: connection.execute(sql, (diagnosis, distrusted, id)).rowcount)


def answers(store: Store, id: str, diagnosis: str) -> None:
    """Note that a silent server answers when it is asked; that its reports are refused says more."""
    sql = f"UPDATE servers SET diagnosis = ? WHERE id = ? AND NOT distrusted AND {SILENT}"
    store.write(lambda connection: connection.execute(sql, (diagnosis, id)).rowcount)


def refused(store: Store, id: str) -> None:
    """Note that a silent server tries to report with a certificate that is not its current one; while it is heard, somebody else does."""
    if store.row(f"SELECT 1 FROM servers s WHERE id = ? AND NOT distrusted AND {SILENT}", (id,)) is not None:
        diagnose(store, id, REFUSED, True)


def set_maintenance(store: Store, id: str, enabled: bool, reason: str, by: str) -> None:
    """Enter or leave maintenance mode; to be in it already changes at most the reason."""

    def change(connection: Connection) -> None:
        before = connection.execute("SELECT state, maintenance, maintenance_reason FROM servers WHERE id = ?", (id,)).fetchone()
        kept = (reason or None) if enabled else None
        if before is None or (bool(before["maintenance"]), before["maintenance_reason"]) == (enabled, kept):
            return
        connection.execute("UPDATE servers SET maintenance = ?, maintenance_reason = ? WHERE id = ?", (enabled, kept, id))
        state = shown_state(before["state"], enabled)
        if state != before["state"]:
            _change(connection, id, state, store.now())
        _tell(connection, id, MAINTENANCE, store.now(), {"enabled": enabled, "reason": kept, "by": by})

    store.write(change)


def set_powered_off(store: Store, id: str, mark: Optional[Mapping[str, Any]]) -> None:
    """A server is switched off on purpose: {by, reason, policy}; its silence is no alarm then, and nothing is placed on it. None: it is not.

    It is over by itself when the server is heard after it has been silent.
    """
    text = None if mark is None else as_json({"at": store.now(), **mark})
    store.write(lambda connection: connection.execute("UPDATE servers SET powered_off = ? WHERE id = ?", (text, id)).rowcount)


def _told(seen: Row, state: str) -> dict[str, Any]:
    """What the event of a server that fell silent says beside its states."""
    if state == OFF:
        return {name: value for name, value in from_json(seen["powered_off"] or "{}").items() if name != "at"}
    return {"problem": seen["diagnosis"]} if seen["diagnosis"] else {}


def _heard(row: Row) -> Heard:
    return Heard(row["state"], row["last_seen"], bool(row["maintenance"]), bool(row["distrusted"]), row["powered_off"] is not None)


def _keep_facts(connection: Connection, id: str, at: float, facts: Mapping[str, Any]) -> None:
    uuid, before = host_uuid(facts), connection.execute("SELECT host_uuid FROM server_facts WHERE server_id = ?", (id,)).fetchone()
    connection.execute("INSERT OR REPLACE INTO server_facts VALUES (?, ?, ?)", (id, uuid, as_json(facts)))
    others = same_hosts(connection, id, uuid)
    if others and (before is None or before["host_uuid"] != uuid):
        _tell(connection, id, "same_host_uuid", at, {"uuid": uuid, "servers": others}, "error")


def _change(connection: Connection, id: str, state: str, at: float) -> None:
    connection.execute("UPDATE servers SET state = ?, state_since = ? WHERE id = ?", (state, at, id))


def _tell(connection: Connection, id: str, what: str, at: float, data: Mapping[str, Any], severity: str = "") -> None:
    severity = severity or SEVERITY.get(what, "info")
    events.add(connection, {"at": at, "kind": f"server.{what}", "severity": severity, "server_id": id, "object": None, "data": data, "operation": None})
