"""Which certificates the servers have: those that count, those on their way, when they end; and the servers that have gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from .database import Connection, Row, Store

DEFAULT_POOL = "default"
# So long a server that has gone may hold a certificate that is still good.
REMEMBERED_SECONDS = 366 * 86400.0


def row(store: Store, server_id: str) -> Optional[Row]:
    """What is known of a server's certificates."""
    return store.row("SELECT * FROM server_trust WHERE server_id = ?", (server_id,))


def note(store: Store, server_id: str, **values: Any) -> None:
    """Store columns of a server's row, which is made when it is not there; it has not gone."""
    store.write(lambda connection: _note(connection, server_id, {**values, "gone_at": None}))


def accepts(store: Store, server_id: str, serial: int) -> bool:
    """May the server call back with the certificate of this serial number? The first time that its next one is shown, the one before counts no more."""
    found = store.row("SELECT s.serial, t.next_serial FROM servers s LEFT JOIN server_trust t ON t.server_id = s.id WHERE s.id = ?", (server_id,))
    if found is None or found["serial"] is None:
        return False
    if int(found["serial"], 16) == serial:
        return True
    if found["next_serial"] is None or int(found["next_serial"], 16) != serial:
        return False
    return store.write(lambda connection: _promote(connection, server_id, found["next_serial"]))


def heard(store: Store, server_id: str, tls: Optional[Mapping[str, Any]]) -> list[str]:
    """Note what a server tells of libvirt's certificate {serial, crl}, None when it does not set libvirt up; return serial numbers that count no more."""
    libvirt, serial = int(tls is not None), None if tls is None else tls.get("serial")
    known = row(store, server_id)
    told = None if known is None else (known["libvirt"], known["told_serial"])
    if told == (libvirt, serial) and (known is None or known["next_libvirt_serial"] is None or known["next_libvirt_serial"] != serial):
        return []

    def change(connection: Connection) -> list[str]:
        _note(connection, server_id, {"libvirt": libvirt, "told_serial": serial})
        if serial is None:
            return []
        confirmed = connection.execute(
            "SELECT libvirt_serial, qemu_serial FROM server_trust WHERE server_id = ? AND next_libvirt_serial = ?", (server_id, serial)
        ).fetchone()
        if confirmed is None:
            return []
        connection.execute(
            "UPDATE server_trust SET libvirt_serial = next_libvirt_serial, qemu_serial = next_qemu_serial, libvirt_ends_at = next_libvirt_ends_at,"
            " libvirt_pool = next_pool, next_libvirt_serial = NULL, next_qemu_serial = NULL WHERE server_id = ?",
            (server_id,),
        )
        return [one for one in confirmed if one is not None]

    return store.write(change)


def libvirt_serials(store: Store, server_id: str) -> list[str]:
    """The serial numbers of all certificates for libvirt and QEMU that a server may have."""
    found = row(store, server_id)
    names = ("libvirt_serial", "qemu_serial", "next_libvirt_serial", "next_qemu_serial")
    return [] if found is None else [found[name] for name in names if found[name] is not None]


def due(store: Store, before: float) -> list[str]:
    """The servers that are heard and need a certificate: one ends before that time, or is not there, not installed, or for another pool."""
    rows = store.rows(
        "SELECT s.id FROM servers s LEFT JOIN server_trust t ON t.server_id = s.id WHERE s.state IN ('running', 'maintenance') AND s.serial IS NOT NULL AND ("
        " t.ends_at IS NULL OR t.ends_at < ?1 OR (t.libvirt = 1 AND (t.libvirt_serial IS NULL OR t.libvirt_ends_at < ?1 OR t.libvirt_pool != t.pool"
        " OR t.told_serial IS NOT t.libvirt_serial))) ORDER BY s.id",
        (before,),
    )
    return [found["id"] for found in rows]


def with_libvirt(store: Store) -> list[str]:
    """The servers, heard or not, whose libvirt uses our certificates."""
    return [found["id"] for found in store.rows("SELECT s.id FROM servers s JOIN server_trust t ON t.server_id = s.id WHERE t.libvirt = 1 ORDER BY s.id")]


def gone(store: Store) -> list[str]:
    """The ids of the servers that were revoked or have gone, as long as a certificate of theirs could be good."""
    rows = store.rows("SELECT server_id FROM server_trust WHERE gone_at > ? ORDER BY server_id", (store.now() - REMEMBERED_SECONDS,))
    return [found["server_id"] for found in rows]


def bury(store: Store, server_id: str) -> None:
    """Accept no certificate of a server any more."""

    def change(connection: Connection) -> None:
        connection.execute("UPDATE servers SET serial = NULL WHERE id = ?", (server_id,))
        nothing = dict.fromkeys(("ends_at", "next_serial", "libvirt_serial", "qemu_serial", "next_libvirt_serial", "next_qemu_serial", "told_serial"))
        _note(connection, server_id, {**nothing, "gone_at": store.now(), "libvirt": 0})

    store.write(change)


def forget_gone(store: Store) -> int:
    """Forget the servers whose last certificate has ended by itself; return how many."""
    sql = "DELETE FROM server_trust WHERE gone_at < ?"
    return store.write(lambda connection: connection.execute(sql, (store.now() - REMEMBERED_SECONDS,)).rowcount)


def _promote(connection: Connection, server_id: str, serial: str) -> bool:
    connection.execute("UPDATE servers SET serial = ? WHERE id = ?", (serial, server_id))
    sql = "UPDATE server_trust SET ends_at = next_ends_at, next_serial = NULL WHERE server_id = ? AND next_serial = ?"
    return bool(connection.execute(sql, (server_id, serial)).rowcount)


def _note(connection: Connection, server_id: str, values: Mapping[str, Any]) -> None:
    connection.execute("INSERT INTO server_trust (server_id) VALUES (?) ON CONFLICT DO NOTHING", (server_id,))
    # The names are this module's and its callers', never a user's.
    connection.execute(f"UPDATE server_trust SET {', '.join(f'{name} = ?' for name in values)} WHERE server_id = ?", (*values.values(), server_id))
