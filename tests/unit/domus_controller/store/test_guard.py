"""The guard: whatever servers do with a shared directory, in whatever order, one of them at most uses it."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from domus_controller.store import users
from domus_controller.store.database import Store
from domus_controller.store.guard import Guard, guarded, hoisted, make_guard, own_byte
from domus_core.errors import Busy, DriverError
from hypothesis import given
from hypothesis import strategies as st

OTHER = 4711
USE = """
import pathlib, sys
from domus_controller.store.guard import Guard
guard = Guard(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
print("up", flush=True)
input()
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    make_guard(tmp_path)
    return tmp_path


@contextlib.contextmanager
def used_by(directory: Path, byte: int):
    """Another process, as if it were on the server with this flag; it is killed at the end."""
    command = [sys.executable, "-c", USE, str(directory), str(byte)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        try:
            yield
        finally:
            process.kill()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40))
def test_one_server_at_most_has_its_flag_up(steps: list[tuple[int, bool]]) -> None:
    """Each step: a server hoists one more flag of its own, or lowers its oldest."""
    with tempfile.TemporaryDirectory() as folder:
        make_guard(Path(folder))
        held: dict[int, list[Guard]] = {server: [] for server in range(4)}
        for server, hoists in steps:
            others = any(guards for other, guards in held.items() if other != server)
            if hoists and others:
                with pytest.raises(Busy):
                    Guard(Path(folder), 1 + server)
            elif hoists:
                held[server].append(Guard(Path(folder), 1 + server))
            elif held[server]:
                held[server].pop(0).close()
        for guards in held.values():
            for guard in guards:
                guard.close()


def race(directory: str, byte: int, start, results) -> None:
    start.wait()
    for dummy in range(200):
        with contextlib.suppress(Busy):
            guard = Guard(Path(directory), byte)
            results.append(byte)
            assert set(results) == {byte}, results
            results.remove(byte)
            guard.close()


def test_servers_that_hoist_at_the_same_moment(shared: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        start, results = manager.Event(), manager.list()
        racers = [context.Process(target=race, args=(str(shared), byte, start, results)) for byte in (1, 2, 3)]
        for racer in racers:
            racer.start()
        start.set()
        for racer in racers:
            racer.join(120)
        assert [racer.exitcode for racer in racers] == [0, 0, 0]


def test_the_flag_of_a_process_that_was_killed_falls(shared: Path) -> None:
    with used_by(shared, OTHER), pytest.raises(Busy, match="another server has it in use"):
        Guard(shared)
    Guard(shared).close()


def test_who_waits_goes_on_when_the_other_flag_falls(shared: Path) -> None:
    other = Guard(shared, OTHER)
    timer = threading.Timer(0.3, other.close)
    timer.start()
    with guarded(shared, patience=60), pytest.raises(Busy):
        Guard(shared, OTHER)
    timer.join()


def test_a_directory_without_a_guard_file_is_a_single_servers(tmp_path: Path) -> None:
    assert hoisted(tmp_path) is None


def test_cloned_machines_have_flags_of_their_own() -> None:
    assert own_byte("same", "srv1") != own_byte("same", "srv2")
    assert own_byte("one", "srv1") != own_byte("two", "srv1")


def test_a_manager_whose_flag_was_taken_ends_at_once(shared: Path) -> None:
    guard, lost, ended = Guard(shared), list[int](), threading.Event()
    guard.watch(threading.Event(), lambda code: (lost.append(code), ended.set()), every=0.01)
    # As after an NFS server has dropped a client's locks: the other one is let in.
    with open(shared / "guard", "r+b") as other:
        request = guard_request(fcntl.F_RDLCK, OTHER)
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, request)
        assert ended.wait(60)
    assert lost == [3]
    guard.close()


def guard_request(kind: int, byte: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


def test_a_file_system_that_can_not_be_locked_is_told(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="can not be locked"):
        Guard(tmp_path)


def journal(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_shared_store_has_no_write_ahead_log(shared: Path) -> None:
    with contextlib.closing(Store(shared)) as store:
        users.create(store, "ada", "x", "viewer")
        assert store.row("SELECT name FROM users")["name"] == "ada"  # type: ignore[index]
        assert not list(shared.glob("*-wal")) and not list(shared.glob("*-shm"))
        with used_again(shared) as second:  # as by domus-manager beside the manager
            users.create(second, "bob", "x", "viewer")
        assert len(store.rows("SELECT name FROM users")) == 2


def used_again(directory: Path):
    return contextlib.closing(Store(directory))


def test_a_store_of_a_single_server_becomes_a_shared_one(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        users.create(store, "ada", "x", "viewer")
        known = store.manager_id
    assert journal(tmp_path / "manager.db") == "wal"
    make_guard(tmp_path)
    with contextlib.closing(Store(tmp_path)) as store:
        assert store.manager_id == known and len(users.list(store)) == 1
        assert not list(tmp_path.glob("*-wal"))
    assert journal(tmp_path / "manager.db") != "wal"


def test_another_servers_store_is_not_opened(shared: Path) -> None:
    Store(shared).close()
    before = (shared / "manager.db").stat().st_mtime_ns
    with used_by(shared, OTHER), pytest.raises(Busy):
        Store(shared)
    assert (shared / "manager.db").stat().st_mtime_ns == before


def test_readers_and_writers_of_a_shared_store_come_through(shared: Path) -> None:
    with contextlib.closing(Store(shared)) as store:
        problems: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(20):
                    users.create(store, f"user{number}-{turn}", "x", "viewer")
                    assert store.rows("SELECT name FROM users")
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert problems == [] and len(store.rows("SELECT name FROM users")) == 120
