"""The servers that this manager owns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from domus_core.errors import Conflict, NotFound
from domus_core.version import VERSION, is_older

from .database import Connection, Row, Store
from .values import Page, as_json, checked_filters, checked_limit, decode_cursor, from_json, near_or_known, page_of, shown_time

NAME_REMEDY = "Choose another name; if it is that server, reinstalled: domus server add --replace"
RUNNING, DISCONNECTED, OFFLINE, MAINTENANCE, UNKNOWN, OFF = STATES = ("running", "disconnected", "offline", "maintenance", "unknown", "off")
# What the manager hears from; of the others it knows what they told last.
CONNECTED = frozenset({RUNNING, MAINTENANCE})
SAME_UUID_REMEDY = "libvirt moves no VM between them; give each its own host_uuid in /etc/libvirt/libvirtd.conf (uuidgen), and restart libvirtd"
SERVER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VMS = "SELECT count(*) FROM objects o INDEXED BY objects_server WHERE o.kind = 'vm' AND o.server_id = s.id AND o.deleted IS NULL"
TAGS = (
    "SELECT json_group_array(t.tag) FROM objects o INDEXED BY objects_server JOIN object_tags t ON t.row = o.row"
    " WHERE o.kind = 'server' AND o.server_id = s.id AND o.deleted IS NULL"
)
SAME_HOST = "SELECT o.name FROM server_facts g JOIN servers o ON o.id = g.server_id WHERE g.host_uuid = {uuid} AND g.server_id != {id}"
TWINS = f"SELECT json_group_array(name) FROM ({SAME_HOST.format(uuid='f.host_uuid', id='s.id')})"
TRUSTED = ("pool", "ends_at", "libvirt_ends_at")
TRUST = ", ".join(f"(SELECT t.{name} FROM server_trust t WHERE t.server_id = s.id) AS {name}" for name in TRUSTED)
COUNTED = (
    f"SELECT s.*, f.facts AS told_facts, ({VMS}) AS vms, ({TAGS}) AS tags, ({TWINS}) AS twins, {TRUST}"
    " FROM servers s LEFT JOIN server_facts f ON f.server_id = s.id"
)


def add(store: Store, server: Mapping[str, Any]) -> dict[str, Any]:
    """Store a server {id, name, address, port, serial} that was taken over; the same id again replaces it. Raises Conflict for a name in use."""

    def change(connection: Connection) -> None:
        other = connection.execute("SELECT id FROM servers WHERE name = ? AND id != ?", (server["name"], server["id"])).fetchone()
        if other is not None:
            raise Conflict("is the name of another server", object=f"server {server['name']}", field="name", value=server["name"], remedy=NAME_REMEDY)
        connection.execute(
            "INSERT INTO servers (id, name, address, port, serial, added_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET name = excluded.name, address = excluded.address, port = excluded.port, serial = excluded.serial",
            (server["id"], server["name"], server["address"], server["port"], server.get("serial"), store.now()),
        )

    store.write(change)
    return find(store, server["id"])


def find(store: Store, id_or_name: str) -> dict[str, Any]:
    """A server by id or name. Raises NotFound."""
    row = store.row(f"{COUNTED} WHERE s.id = ?", (id_or_name,)) or store.row(f"{COUNTED} WHERE s.name = ?", (id_or_name,))
    if row is None:
        raise NotFound("is not a server of this manager", object=f"server {id_or_name}", remedy="List the servers, or take it over first")
    return _item(row)


def page(store: Store, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None) -> Page:
    """A page of servers by name. Filters: name, state. Raises InvalidSpec."""
    checked_limit(limit)
    given = checked_filters(filters, ("name", "state"))
    terms = [f"s.{name} = ?" for name in given]
    values = [str(value) for value in given.values()]
    if cursor is not None:
        terms.append("s.name > ?")
        values += decode_cursor(cursor, str)
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    rows = store.rows(f"{COUNTED}{where} ORDER BY s.name LIMIT ?", (*values, limit + 1))
    return page_of(rows, limit, _item, lambda row: (row["name"],))


def all(store: Store) -> list[dict[str, Any]]:
    """All servers by name."""
    return [_item(row) for row in store.rows(f"{COUNTED} ORDER BY s.name")]


def _server_id(store: Store, id_or_name: str) -> Optional[str]:
    found = store.row("SELECT id FROM servers WHERE id = ?1 UNION ALL SELECT id FROM servers WHERE name = ?1", (id_or_name,))
    return str(found["id"]) if found else None


def known_server_id(store: Store, id_or_name: str) -> str:
    """The id of a server that is named by id or name; an id may be that of one that was released. Raises NotFound, with the names that are near."""
    found = _server_id(store, id_or_name)
    if found is None and not SERVER_ID.fullmatch(id_or_name):
        names = [str(row["name"]) for row in store.rows("SELECT name FROM servers s ORDER BY s.name")]
        raise NotFound("is not a server of this manager", object=f"server {id_or_name}", remedy=near_or_known(id_or_name, names))
    return found or id_or_name


def silent(store: Store) -> frozenset[str]:
    """The ids of the servers that are not heard: what is known of their objects is what they told last."""
    return frozenset(row["id"] for row in store.rows(f"SELECT id FROM servers s WHERE state NOT IN ('{RUNNING}', '{MAINTENANCE}')"))


def set_name(store: Store, id: str, name: str) -> None:
    """Call a server something else. Raises what the database raises when the name is in use."""
    store.write(lambda connection: connection.execute("UPDATE servers SET name = ? WHERE id = ?", (name, id)).rowcount)


def same_host(store: Store, host_uuid: str, id: str) -> Optional[dict[str, Any]]:
    """Another server whose libvirt tells the same host UUID."""
    found = store.row(f"{COUNTED} WHERE f.host_uuid = ? AND s.id != ?", (host_uuid, id))
    return None if found is None else _item(found)


def serial(store: Store, id: str) -> Optional[str]:
    """The serial number (hex) of the only certificate that the server's callbacks are accepted with; None when it is not our server."""
    found = store.row("SELECT serial FROM servers WHERE id = ?", (id,))
    return found["serial"] if found else None


def remove(store: Store, id: str) -> None:
    """Forget a server and what it reported; its events stay. Raises NotFound."""
    from . import objects

    def change(connection: Connection) -> None:
        if not connection.execute("DELETE FROM servers WHERE id = ?", (id,)).rowcount:
            raise NotFound("is not a server of this manager", object=f"server {id}")
        objects.bury_all(connection, id, store.now())
        for table in ("callback_positions", "callback_gaps", "server_facts"):
            connection.execute(f"DELETE FROM {table} WHERE server_id = ?", (id,))

    store.write(change)
    store.statistics.write(lambda connection: connection.execute("DELETE FROM latest WHERE server_id = ?", (id,)).rowcount)


def set_serial(store: Store, id: str, serial: Optional[str]) -> None:
    """Note the serial number (hex) of the server's new certificate."""
    store.write(lambda connection: connection.execute("UPDATE servers SET serial = ? WHERE id = ?", (serial, id)).rowcount)


def set_address(store: Store, id: str, address: str, port: int) -> None:
    """Note where the server's agent is reached now."""
    store.write(lambda connection: connection.execute("UPDATE servers SET address = ?, port = ? WHERE id = ?", (address, port, id)).rowcount)


def revoke(store: Store, serial: str, server_ids: Iterable[str], until: float) -> None:
    """Revoke a certificate (serial number in hex) on these servers; `until` is when it ends anyway."""
    values = (serial, as_json(sorted(server_ids)), until)
    store.write(lambda connection: connection.execute("INSERT OR REPLACE INTO revoked VALUES (?, ?, ?)", values).rowcount)


def revoked(store: Store, server_id: str) -> list[dict[str, Any]]:
    """What a server is not to accept now: [{serial, until}], as the answer to a callback says it."""
    rows = store.rows(
        "SELECT serial, until FROM revoked WHERE until > ? AND EXISTS (SELECT 1 FROM json_each(server_ids) WHERE value = ?)", (store.now(), server_id)
    )
    return [{"serial": row["serial"], "until": row["until"]} for row in rows]


def forget_revoked(store: Store) -> int:
    """Forget the revoked certificates that have ended by themselves; return how many."""
    return store.write(lambda connection: connection.execute("DELETE FROM revoked WHERE until < ?", (store.now(),)).rowcount)


def host_uuid(facts: Mapping[str, Any]) -> Optional[str]:
    """What libvirt calls the machine in a server's facts; it refuses to migrate between two of the same name."""
    uuid = facts.get("uuid")
    return uuid if isinstance(uuid, str) and uuid else None


def same_hosts(connection: Connection, id: str, uuid: Optional[str]) -> list[str]:
    """The names of the other servers that have this host UUID."""
    return sorted(row["name"] for row in connection.execute(SAME_HOST.format(uuid="?", id="?"), (uuid, id)))


def _item(row: Row) -> dict[str, Any]:
    item = {name: row[name] for name in ("id", "name", "address", "port", "state", "version", "libvirt", "problem", "vms", "maintenance_reason")}
    item |= {"last_seen": shown_time(row["last_seen"]), "state_since": shown_time(row["state_since"]), "maintenance": bool(row["maintenance"])}
    item |= {"tags": sorted(set(from_json(row["tags"]))), "behind": is_older(row["version"], VERSION), "facts": from_json(row["told_facts"])}
    item["powered_off"] = powered_off(row)
    ends = {"certificate_ends_at": shown_time(row["ends_at"]), "libvirt_certificate_ends_at": shown_time(row["libvirt_ends_at"])}
    return {**item, **ends, "pool": row["pool"] or "default", "revoked": row["serial"] is None, "problems": _problems(row)}


def powered_off(row: Row) -> Optional[dict[str, Any]]:
    """Since when, by whom and why a server is off on purpose, or on its way there; None: it is not."""
    mark = from_json(row["powered_off"]) if row["powered_off"] else None
    return None if mark is None else {**mark, "at": shown_time(mark["at"])}


def _problems(row: Row) -> list[str]:
    """What is to be told of a server, each in a sentence that says what to do."""
    found = [row["problem"]] if row["problem"] else []
    if row["diagnosis"] and row["state"] not in CONNECTED:
        found.append(row["diagnosis"])
    if twins := from_json(row["twins"]):
        found.append(f"has the same host UUID as {', '.join(sorted(twins))}: {SAME_UUID_REMEDY}")
    return found
