"""No room, no permission, damage, and death at any moment: nothing that was acknowledged is lost, and each says what to do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from domus_controller.store import backup, callbacks, events, objects, servers
from domus_controller.store.database import Store
from domus_core.errors import DomusError, DriverError, NoCapacity

from .described import FIRST, described, event, put, told

ROOT = Path(__file__).parents[4]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 2 MiB."""
    if os.geteuid() != 0:
        pytest.fail("needs root to mount a small file system: sudo .venv/bin/pytest")
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "domus-test", str(root)], check=True)
    yield root
    subprocess.run(["umount", str(root)], check=True)


def add_first(store: Store) -> None:
    servers.add(store, {"id": FIRST, "name": "first", "address": "a", "port": 1, "serial": None})


def test_a_full_file_system_is_told_and_left_behind(small: Path) -> None:
    store = Store(small / "store")
    add_first(store)
    acknowledged = 0
    with pytest.raises(NoCapacity, match="Make room"):
        for number in range(1, 10_000, 20):
            records = [event(one, data={"text": "x" * 500}) for one in range(number, number + 20)]
            acknowledged = callbacks.ingest(store, FIRST, "e", records)
    assert acknowledged
    with pytest.raises(NoCapacity):
        backup.backup(store, small / "backup.db")
    assert not list(small.glob("*backup*")) and not list(small.glob(".*backup*"))
    assert len(events.page(store, 1000, since=0)["items"]) == min(acknowledged, 1000)
    assert store.row("SELECT count(*) AS n FROM events")["n"] == acknowledged
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    assert callbacks.ingest(store, FIRST, "e", [event(acknowledged + 1)]) == acknowledged + 1
    store.close()
    again = Store(small / "store")
    assert again.row("SELECT count(*) AS n FROM events")["n"] == acknowledged + 1
    again.close()


def test_no_room_at_the_start_is_told(small: Path) -> None:
    with (small / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    with pytest.raises(DomusError) as caught:
        Store(small / "store")
    assert caught.value.code == "no_capacity"


def test_a_read_only_file_system_is_told(small: Path) -> None:
    Store(small / "store").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises(DriverError, match="can not be written"):
        Store(small / "store")


@pytest.mark.parametrize("pages", [(0, 1), (1, 4), (3, 40)])
def test_a_damaged_file_is_told_at_the_start_with_the_way_out(store: Store, tmp_path: Path, pages: tuple[int, int]) -> None:
    for number in range(50):
        put(store, described(number))
    good = backup.backup(store, tmp_path / "good.db")
    store.close()
    with store.path.open("r+b") as file:
        file.seek(8192 * pages[0])
        file.write(random.Random(1).randbytes(8192 * (pages[1] - pages[0])))
    with pytest.raises(DriverError, match="damaged.*domus-manager restore"):
        Store(store.directory)
    backup.restore(good, store.directory)
    again = Store(store.directory)
    assert len(objects.page(again, "vm")["items"]) == 50
    again.close()


def test_damage_while_it_runs_is_told(store: Store) -> None:
    for number in range(200):
        put(store, described(number))
    store.write(lambda connection: None)
    other = Store(store.directory)
    other.close()
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with store.path.open("r+b") as file:
        file.seek(8192 * 2)
        file.write(random.Random(1).randbytes(store.path.stat().st_size - 8192 * 2))
    with pytest.raises(DriverError, match="damaged"):
        for number in range(200):
            objects.find(store, "vm", described(number)["id"])


WRITER = """
import sys
from domus_controller.store import callbacks
from domus_controller.store.database import Store
store = Store(sys.argv[1])
first = callbacks.position(store, sys.argv[2])["acknowledged"] + 1
while True:
    records = [{"seq": n, "at": 1.0, "type": "event", "kind": f"n.{n}", "data": {}} for n in range(first, first + 7)]
    first = callbacks.ingest(store, sys.argv[2], "e", records) + 1
    print(first - 1, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    add_first(store)
    store.close()
    path = os.pathsep.join(str(ROOT / part) for part in ("controller", "plugins/module_utils"))
    chance = random.Random(7)
    for dummy in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store"), FIRST], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(chance.random() * 0.1)
        writer.send_signal(signal.SIGKILL)
        told_before_death = writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        writer.stdout.close()
        acknowledged = max([acknowledged, *(int(line) for line in told_before_death if line.endswith("\n"))])
        store = Store(tmp_path / "store")
        assert store.rows("PRAGMA integrity_check")[0][0] == "ok"
        stored = [row["kind"] for row in store.rows("SELECT kind FROM events ORDER BY id")]
        assert len(stored) >= acknowledged and stored == [f"n.{number}" for number in range(1, len(stored) + 1)]
        assert callbacks.position(store, FIRST)["acknowledged"] == len(stored)
        store.close()


def test_a_clock_set_back_an_hour_loses_and_reorders_nothing(store: Store, clock) -> None:
    callbacks.ingest(store, FIRST, "e", [event(1, "a.one"), told(2, described(1, memory=1))])
    clock.at -= 3600
    callbacks.ingest(store, FIRST, "e", [event(3, "a.two"), told(4, described(1, memory=2))])
    assert [item["kind"] for item in events.page(store)["items"]] == ["a.two", "a.one"]
    assert objects.find(store, "vm", "vm00001")["spec"]["memory"] == 2
