"""Backups are whole, and restoring one changes nothing on any server."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest
from domus_controller.store import backup, callbacks, objects, policy_looks, server_states, servers
from domus_controller.store.database import Store
from domus_core.errors import Busy, DriverError, NotFound

from .described import FIRST, Clock, described, event, put


def test_a_backup_is_whole_and_restored_as_it_was(store: Store, tmp_path: Path) -> None:
    put(store, described(1, memory=1))
    callbacks.ingest(store, FIRST, "e", [event(1)])
    callbacks.completed(store, FIRST, "e")
    server_states.set_powered_off(store, FIRST, {"by": "ann", "reason": "", "policy": False})
    made = backup.backup(store, tmp_path / "one.db")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    put(store, described(1, memory=2))
    since, manager_id = objects.latest_sequence(store), store.manager_id
    store.close()
    aside = backup.restore(made, store.directory)
    assert aside is not None and aside.exists()
    restored = Store(store.directory)
    assert objects.find(restored, "vm", "vm00001")["spec"]["memory"] == 1 and restored.manager_id == manager_id
    assert callbacks.incomplete(restored) == [FIRST]
    assert [item["name"] for item in objects.page(restored, "vm", since=since)["items"]] == ["vm00001"]
    first = servers.find(restored, "first")
    assert (first["state"], first["powered_off"]) == ("unknown", None), "who was woken or switched off since is not known"
    assert abs((policy_looks.restored_at(restored) or 0) - time.time()) < 60
    restored.close()


def test_a_backup_is_made_while_others_write(store: Store, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            put(store, described(number % 50, memory=number))

    thread = threading.Thread(target=write)
    thread.start()
    for number in range(5):
        backup.backup(store, tmp_path / f"{number}.db")
    stop.set()
    thread.join()
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*-wal"))


def test_only_the_newest_are_kept_by_name_not_by_clock(store: Store, tmp_path: Path, clock: Clock) -> None:
    directory = tmp_path / "backups"
    for dummy in range(5):
        clock.at += 60
        backup.backup_into(store, directory, keep=3)
    (directory / "mine.db").write_text("not a backup of ours")
    clock.at -= 7200
    newest = backup.backup_into(store, directory, keep=3)
    assert newest.exists() and len(backup.backups(directory)) == 3 and (directory / "mine.db").exists()


def test_a_restore_needs_the_store_alone(store: Store, tmp_path: Path) -> None:
    made = backup.backup(store, tmp_path / "one.db")
    with pytest.raises(Busy):
        backup.restore(made, store.directory)
    with pytest.raises(NotFound):
        backup.restore(tmp_path / "none.db", store.directory)


def test_a_damaged_or_foreign_backup_is_refused_and_nothing_touched(store: Store, tmp_path: Path) -> None:
    put(store, described(1))
    made = backup.backup(store, tmp_path / "one.db")
    store.close()
    content = bytearray(made.read_bytes())
    content[8192 * 3 : 8192 * 6] = b"\xaa" * (8192 * 3)
    (tmp_path / "damaged.db").write_bytes(content)
    (tmp_path / "text.db").write_text("hello " * 1000)
    with sqlite3.connect(tmp_path / "foreign.db") as foreign:
        foreign.execute("CREATE TABLE other (x)")
    foreign.close()
    before = {path.name: path.read_bytes() for path in store.directory.iterdir()}
    for name in ("damaged", "text", "foreign"):
        with pytest.raises(DriverError):
            backup.restore(tmp_path / f"{name}.db", store.directory)
    assert {path.name: path.read_bytes() for path in store.directory.iterdir()} == before


def test_it_is_restored_into_an_empty_directory(store: Store, tmp_path: Path) -> None:
    put(store, described(1))
    made = backup.backup(store, tmp_path / "one.db")
    assert backup.restore(made, tmp_path / "new") is None
    restored = Store(tmp_path / "new")
    assert objects.find(restored, "vm", "vm00001")
    restored.close()
