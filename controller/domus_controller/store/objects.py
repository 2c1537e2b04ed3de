"""The objects that the servers report, as the API shows them; the servers' word counts, this is a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

from domus_core.errors import Conflict, InvalidSpec, NotFound, shorten
from domus_core.model.kinds import BY_NAME

from . import events
from .conflicts import ALIVE, TWICE, conflicts, preferred
from .database import Connection, Row, Store
from .items import digest, is_moving, next_sequence, refresh, refresh_all_gone, refresh_gone
from .servers import known_server_id, silent
from .tagged import follow_tags
from .values import MOST_PER_PAGE, Page, as_json, checked_filters, checked_limit, checked_word, decode_cursor, encode_cursor, from_json

FILTERS = ("name", "server", "state", "site", "tag")
KEEP_DELETED = 30 * 86400.0
LAST_CHARACTER = "\U0010ffff"


def put(connection: Connection, server_id: str, description: Optional[Mapping[str, Any]], kind: str, key: str, at: float) -> None:
    """Store what a server says of an object (None: it is gone); nothing is written, and no sequence number used, when nothing changed."""
    known = connection.execute(
        "SELECT row, id FROM objects WHERE kind = ? AND server_id = ? AND key = ? AND deleted IS NULL", (kind, server_id, key)
    ).fetchone()
    if known is not None and (description is None or known["id"] != description["id"]):
        _bury(connection, kind, known["row"], known["id"], at)
    if description is None:
        return
    _check(description, kind, key)
    text = as_json(description)
    content = digest(text)
    before = connection.execute(
        "SELECT row, content, deleted, name FROM objects WHERE kind = ? AND id = ? AND server_id = ?", (kind, description["id"], server_id)
    ).fetchone()
    if before is not None and before["content"] == content and before["deleted"] is None:
        return
    row = _store(connection, server_id, description, text, content, before)
    _tag(connection, row, description, before)
    if kind == "vm":
        if description.get("state") in ALIVE:
            _supersede(connection, server_id, description["id"], at)
        _compare_copies(connection, description["id"], at)
    if kind == "server":
        follow_tags(connection, server_id, description.get("spec") or {}, at)
    refresh(connection, row, at)
    if before is None or before["deleted"] is not None:
        refresh_all_gone(connection, kind, key, description["id"])


def _check(description: Mapping[str, Any], kind: str, key: str) -> None:
    if kind not in BY_NAME or description["kind"] != kind or description["key"] != key:
        raise InvalidSpec("is not the description of this object", object=f"{shorten(kind)} {shorten(key)}", field="kind", value=description["kind"])
    if not all(isinstance(description[name], str) for name in ("id", "name", "key")):
        raise InvalidSpec("has no id or no name", object=f"{kind} {key}", field="id", value=description["id"])


def _store(connection: Connection, server_id: str, description: Mapping[str, Any], text: str, content: str, before: Optional[Row]) -> int:
    values = (description["key"], description["name"], description.get("site"), description.get("state"), description.get("generation") or 0, content, text)
    if before is not None:
        connection.execute(
            "UPDATE objects SET key = ?, name = ?, site = ?, state = ?, generation = ?, content = ?, description = ?, deleted = NULL WHERE row = ?",
            (*values, before["row"]),
        )
        return int(before["row"])
    made = connection.execute(
        "INSERT INTO objects (key, name, site, state, generation, content, description, kind, id, server_id, sequence, changed_at, drifted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0)",
        (*values, description["kind"], description["id"], server_id),
    )
    return int(made.lastrowid or 0)


def _tag(connection: Connection, row: int, description: Mapping[str, Any], before: Optional[Row]) -> None:
    if before is not None:
        connection.execute("DELETE FROM object_tags WHERE row = ?", (row,))
    tags = dict.fromkeys((description.get("spec") or {}).get("tags") or ())
    connection.executemany("INSERT INTO object_tags VALUES (?, ?, ?, ?)", [(tag, description["kind"], description["name"], row) for tag in tags])


def _bury(connection: Connection, kind: str, row: int, id: str, at: float) -> None:
    """Keep only that it was there, for those who follow the changes."""
    connection.execute("DELETE FROM object_tags WHERE row = ?", (row,))
    connection.execute(
        "UPDATE objects SET deleted = ?, changed_at = ?, sequence = ?, drifted = 0, conflict = NULL, content = '', etag = NULL, description = NULL, item = NULL"
        " WHERE row = ?",
        (at, at, next_sequence(connection), row),
    )
    refresh_gone(connection, row)
    if kind == "vm":
        _compare_copies(connection, id, at)


def bury_all(connection: Connection, server_id: str, at: float) -> None:
    """All that a server reported is gone, since the server is."""
    for row in connection.execute("SELECT kind, row, id FROM objects WHERE server_id = ? AND deleted IS NULL", (server_id,)).fetchall():
        _bury(connection, row["kind"], row["row"], row["id"], at)
    connection.execute("UPDATE objects SET drifted = 0, item = NULL WHERE drifted = 1 AND deleted IS NOT NULL AND server_id = ?", (server_id,))


def _supersede(connection: Connection, server_id: str, id: str, at: float) -> None:
    """It runs on this server of a clustered pool: what another member told of it before is over. The pool's locks and fencing see to that it runs once."""
    rows = connection.execute(
        "SELECT o.row, json_extract(f.facts, '$.server_pool.pool') AS pool FROM objects o LEFT JOIN server_facts f ON f.server_id = o.server_id"
        " WHERE o.kind = 'vm' AND o.id = ? AND o.server_id != ? AND o.deleted IS NULL",
        (id, server_id),
    ).fetchall()
    if not rows or is_moving(connection, id):
        return
    own = connection.execute("SELECT json_extract(facts, '$.server_pool.pool') AS pool FROM server_facts WHERE server_id = ?", (server_id,)).fetchone()
    for row in rows:
        if own is not None and row["pool"] == own["pool"] is not None:
            _bury(connection, "vm", row["row"], id, at)


def _compare_copies(connection: Connection, id: str, at: float) -> None:
    """Find out which copies of a VM contradict each other; say so in the items and, when it is new, in an event."""
    rows = connection.execute(
        "SELECT o.row, o.server_id, o.name, o.key, o.generation, o.state, o.conflict, s.name AS server,"
        " CASE WHEN count(*) OVER () > 1 THEN o.description END AS description"
        " FROM objects o LEFT JOIN servers s ON s.id = o.server_id WHERE o.kind = 'vm' AND o.id = ? AND o.deleted IS NULL",
        (id,),
    ).fetchall()
    if len(rows) == 1 and rows[0]["conflict"] is None:
        return
    # While it is moved it is reported by both servers for a moment: that is no contradiction.
    found = dict.fromkeys(row["server_id"] for row in rows) if is_moving(connection, id) else conflicts([_copy(row) for row in rows])
    for row in rows:
        conflict = found[row["server_id"]]
        text = None if conflict is None else as_json(conflict)
        if text == row["conflict"]:
            continue
        connection.execute("UPDATE objects SET conflict = ? WHERE row = ?", (text, row["row"]))
        refresh(connection, row["row"], at)
        if conflict is not None and conflict["reason"] != (from_json(row["conflict"]) or {}).get("reason"):
            _tell_conflict(connection, row, id, conflict, at)


def compare_moved(store: Store, job_id: str) -> None:
    """A migration has ended: what was not held against its VM meanwhile is from now on."""
    moved = store.row("SELECT json_extract(options, '$.vm') AS vm FROM jobs WHERE id = ? AND kind = 'migrate'", (job_id,))
    if moved is None:
        return

    def change(connection: Connection) -> None:
        _compare_copies(connection, moved["vm"], store.now())
        gone_ones = connection.execute("SELECT row FROM objects WHERE kind = 'vm' AND id = ? AND deleted IS NOT NULL", (moved["vm"],)).fetchall()
        for row in gone_ones:
            refresh_gone(connection, row["row"])

    store.write(change)


def _copy(row: Row) -> dict[str, Any]:
    told = from_json(row["description"]) or {}
    content = told.get("recorded") if told.get("recorded") is not None else told.get("spec")
    return {**{name: row[name] for name in ("server_id", "server", "generation", "state")}, "content": content}


def _tell_conflict(connection: Connection, row: Row, id: str, conflict: dict[str, Any], at: float) -> None:
    event = {
        "at": at,
        "kind": "vm.conflict",
        "severity": "error" if conflict["reason"] == TWICE else "warning",
        "server_id": row["server_id"],
        "object": {"kind": "vm", "key": row["key"], "id": id},
        "data": conflict,
    }
    events.add(connection, event)


def find(store: Store, kind: str, id_or_name: str, server: Optional[str] = None) -> dict[str, Any]:
    """One object by id, else by name (or key), of one server when `server` (id or name) is given.

    Of a VM that several servers report, the copy with the highest generation. Raises NotFound, or Conflict when a name is ambiguous.
    """
    return dict(from_json(find_text(store, kind, id_or_name, server)))


def find_text(store: Store, kind: str, id_or_name: str, server: Optional[str] = None) -> str:
    """Like `find`, as the item's JSON text."""
    wanted = None if server is None else known_server_id(store, server)
    for column in ("id", "name", "key"):
        rows = store.rows(f"SELECT id, server_id, generation, state, item FROM objects WHERE kind = ? AND {column} = ? AND deleted IS NULL", (kind, id_or_name))
        if wanted is not None:
            rows = [row for row in rows if row["server_id"] == wanted]
        if len({row["id"] for row in rows}) > 1:
            raise _ambiguous(store, kind, id_or_name, rows)
        if rows:
            chosen = preferred([dict(row) for row in rows])
            return _told(chosen["item"], chosen["server_id"] in silent(store))
    raise NotFound("is not there", object=f"{kind} {id_or_name}", remedy=f"List the objects of kind {kind}")


def _ambiguous(store: Store, kind: str, name: str, rows: list[Row]) -> Conflict:
    names = {row["id"]: row["name"] for row in store.rows("SELECT id, name FROM servers")}
    places = ", ".join(f"{row['id']} on {names.get(row['server_id'], row['server_id'])}" for row in rows[:5])
    return Conflict(f"is the name of {len(rows)} objects", object=f"{kind} {name}", field="name", remedy=f"Use the id: {places}")


def page(
    store: Store, kind: str, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None, since: Optional[int] = None
) -> Page:
    """A page of objects by name, or with `since` those that changed after that sequence number, in the order of the changes.

    Of an object that is gone the feed has {"id", "name", "deleted": true}. `since` of the answer is where to follow on. Filters: name
    (`web*` for a beginning), server (id or name), state, site, tag. Raises InvalidSpec, NotFound (no such server).
    """
    found = page_text(store, kind, limit, cursor, filters, since)
    return {**found, "items": [from_json(text) for text in found["items"]]}


def pages(store: Store, kind: str, filters: Optional[dict[str, Any]] = None) -> Iterator[dict[str, Any]]:
    """All objects of a kind by name, read a page at a time; filters as those of `page`."""
    cursor: Optional[str] = None
    while True:
        found = page(store, kind, MOST_PER_PAGE, cursor, filters)
        yield from found["items"]
        cursor = found["next"]
        if cursor is None:
            return


def page_text(
    store: Store, kind: str, limit: int = 100, cursor: Optional[str] = None, filters: Optional[dict[str, Any]] = None, since: Optional[int] = None
) -> Page:
    """Like `page`, with each item as its JSON text."""
    checked_limit(limit)
    given = checked_filters(filters, FILTERS)
    counter = store.row("SELECT value FROM counters WHERE name = 'sequence'")
    latest = int(counter["value"]) if counter else 0
    if since is not None:
        return _changes(store, kind, limit, cursor, given, since, latest)
    order, sql, values = _listing(store, kind, given)
    if cursor is not None:
        sql += f" AND ({order}) > (?, ?)"
        values += decode_cursor(cursor, str, int)
    rows = store.rows(f"{sql} ORDER BY {order} LIMIT ?", (*values, limit + 1))
    following = encode_cursor(rows[limit - 1]["name"], rows[limit - 1]["row"]) if len(rows) > limit else None
    unheard = silent(store)
    return {"items": [_told(row["item"], row["server_id"] in unheard) for row in rows[:limit]], "next": following, "since": latest}


def _told(item: str, stale: bool) -> str:
    """An item's JSON text, with whether its server is silent: that changes for many at once, and is therefore not kept in each."""
    return f'{item[:-1]},"stale":{"true" if stale else "false"}}}'


def _listing(store: Store, kind: str, given: dict[str, Any]) -> tuple[str, str, tuple[Any, ...]]:
    """The order of a page by name and its query; the index is chosen here, since the planner would sort."""
    terms, values = _terms(store, given)
    if "tag" in given:
        tagged = "object_tags t CROSS JOIN objects o ON o.row = t.row"
        sql = f"SELECT t.row, t.name, o.item, o.server_id FROM {tagged} WHERE t.tag = ? AND t.kind = ? AND o.deleted IS NULL"
        return "t.name, t.row", sql + terms, (str(given["tag"]), kind, *values)
    chosen = next((name for name in ("server", "state", "site") if name in given and "name" not in given), "name")
    sql = f"SELECT o.row, o.name, o.item, o.server_id FROM objects o INDEXED BY objects_{chosen} WHERE o.kind = ? AND o.deleted IS NULL"
    return "o.name, o.row", sql + terms, (kind, *values)


def _terms(store: Store, given: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    terms, values = "", []
    for name in ("name", "server", "state", "site"):
        if name not in given:
            continue
        value = str(given[name])
        if name == "name":
            # A stretch even for one name: of an equality the planner would make a sort.
            prefix = value.endswith("*")
            terms += " AND o.name >= ? AND o.name <= ?"
            values += [value[:-1], value[:-1] + LAST_CHARACTER] if prefix else [value, value]
        else:
            terms += f" AND o.{'server_id' if name == 'server' else name} = ?"
            values.append(known_server_id(store, value) if name == "server" else value)
    return terms, tuple(values)


def _changes(store: Store, kind: str, limit: int, cursor: Optional[str], given: dict[str, Any], since: int, latest: int) -> Page:
    after = since if cursor is None else decode_cursor(cursor, int)[0]
    terms, values = _terms(store, given)
    if "tag" in given:
        terms += " AND (o.deleted IS NOT NULL OR EXISTS (SELECT 1 FROM object_tags t WHERE t.row = o.row AND t.tag = ?))"
        values = (*values, str(given["tag"]))
    rows = store.rows(
        f"SELECT o.id, o.name, o.item, o.server_id, o.sequence, o.deleted FROM objects o INDEXED BY objects_sequence WHERE o.kind = ? AND o.sequence > ?{terms}"
        " ORDER BY o.sequence LIMIT ?",
        (kind, after, *values, limit + 1),
    )
    last = rows[:limit][-1]["sequence"] if rows else after
    unheard = silent(store)
    items = [_told(row["item"], row["server_id"] in unheard) if row["deleted"] is None else _tombstone(row) for row in rows[:limit]]
    more = len(rows) > limit
    return {"items": items, "next": encode_cursor(last) if more else None, "since": last if more else max(last, latest)}


def _tombstone(row: Row) -> str:
    return as_json({"id": row["id"], "name": row["name"], "deleted": True})


def locate(store: Store, site: str) -> dict[str, list[str]]:
    """Where the VMs of a site are: the ids of the servers that report each name."""
    rows = store.rows("SELECT name, server_id FROM objects INDEXED BY objects_place WHERE site = ? AND kind = 'vm' AND deleted IS NULL", (site,))
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row["server_id"])
    return found


def identify(store: Store, site: str) -> dict[str, str]:
    """The UUIDs of the VMs of a site, by name."""
    rows = store.rows("SELECT name, id FROM objects INDEXED BY objects_place WHERE site = ? AND kind = 'vm' AND deleted IS NULL", (site,))
    return {row["name"]: row["id"] for row in rows}


def vanished(store: Store, site: str) -> dict[str, str]:
    """The UUIDs of the VMs of a site that are gone though they were asked for, by name."""
    rows = store.rows("SELECT name, id FROM objects INDEXED BY objects_drifted WHERE kind = 'vm' AND site = ? AND deleted IS NOT NULL AND drifted = 1", (site,))
    return {row["name"]: row["id"] for row in rows}


def drift(store: Store, filters: Optional[dict[str, Any]] = None, limit: int = 100, cursor: Optional[str] = None) -> Page:
    """A page of the objects whose views differ, or that are gone though asked for: {kind, id, name, server, server_id, site, state, restart_required, drift}.

    Filters: kind, server, site, name. Raises InvalidSpec, NotFound (no such server).
    """
    checked_limit(limit)
    given = checked_filters(filters, ("kind", "server", "site", "name"))
    terms, values = _terms(store, given)
    if "kind" in given:
        terms, values = f"{terms} AND o.kind = ?", (*values, checked_word("kind", str(given["kind"]), BY_NAME))
    if cursor is not None:
        terms, values = f"{terms} AND (o.kind, o.name, o.row) > (?, ?, ?)", (*values, *decode_cursor(cursor, str, str, int))
    rows = store.rows(
        f"SELECT o.kind, o.name, o.row, o.item FROM objects o INDEXED BY objects_drifted WHERE o.drifted = 1{terms} ORDER BY o.kind, o.name, o.row LIMIT ?",
        (*values, limit + 1),
    )
    shown = ("kind", "id", "name", "server", "server_id", "site", "state", "restart_required", "drift")
    items = [{name: item[name] for name in shown} for item in (from_json(row["item"]) for row in rows[:limit])]
    last = rows[limit - 1] if len(rows) > limit else None
    return {"items": items, "next": encode_cursor(last["kind"], last["name"], last["row"]) if last else None}


def replace_all(store: Store, server_id: str, descriptions: Iterable[Mapping[str, Any]], since: int) -> None:
    """Make the copy of a server's objects what its inventory says; what changed after sequence number `since` is newer and stays."""
    told = {(one["kind"], one["key"]): one for one in descriptions}

    def change(connection: Connection) -> None:
        rows = connection.execute("SELECT kind, key, sequence FROM objects WHERE server_id = ? AND deleted IS NULL", (server_id,)).fetchall()
        newer = {(row["kind"], row["key"]) for row in rows if row["sequence"] > since}
        for row in rows:
            if (row["kind"], row["key"]) not in told and (row["kind"], row["key"]) not in newer:
                put(connection, server_id, None, row["kind"], row["key"], store.now())
        for (kind, key), description in told.items():
            if (kind, key) not in newer:
                put(connection, server_id, description, kind, key, store.now())

    store.write(change)


def latest_sequence(store: Store) -> int:
    """The sequence number of the newest change."""
    found = store.row("SELECT value FROM counters WHERE name = 'sequence'")
    return int(found["value"]) if found else 0


def forget_deleted(store: Store, before: float) -> int:
    """Forget what was deleted before that time (see KEEP_DELETED) and is not missed; return how many."""
    return store.write(lambda connection: connection.execute("DELETE FROM objects WHERE deleted < ? AND drifted = 0", (before,)).rowcount)
