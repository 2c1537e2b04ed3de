"""The writer: many changes in one commit, each on its own; readers never wait."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from domus_controller.store.database import Database, Store
from domus_core.errors import Conflict, DriverError, InvalidSpec
from sqlite_utils import Database as Tables
from sqlite_utils import Migrations

NUMBERS = Migrations("numbers")


@NUMBERS(name="numbers")
def numbers(database: Tables) -> None:
    """One table."""
    database.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")


@pytest.fixture
def database(tmp_path: Path):
    made = Database(tmp_path / "numbers.db", NUMBERS)
    yield made
    made.close()


def insert(number: int):
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,)).lastrowid


def stored(database: Database) -> list[int]:
    return [row["number"] for row in database.rows("SELECT number FROM numbers ORDER BY number")]


def test_a_change_returns_its_result_and_is_seen_by_readers(database: Database) -> None:
    assert database.write(insert(7)) == 7
    assert stored(database) == [7]


def behind_a_slow_change(database: Database, changes: list) -> list:
    """Let changes wait while the writer is busy, so that they meet in one group; return what each came to."""
    entered, go_on = threading.Event(), threading.Event()
    outcomes: list = [None] * len(changes)

    def slow(connection: sqlite3.Connection) -> None:
        entered.set()
        go_on.wait()

    def ask(position: int) -> None:
        try:
            outcomes[position] = database.write(changes[position])
        except Exception as error:
            outcomes[position] = error

    threads = [threading.Thread(target=database.write, args=(slow,))]
    threads[0].start()
    entered.wait()
    for position in range(len(changes)):
        threads.append(threading.Thread(target=ask, args=(position,)))
        threads[-1].start()
    while database._changes.qsize() < len(changes):
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    return outcomes


def test_waiting_changes_share_a_commit(database: Database) -> None:
    before = database.changed(-1, 0)
    assert behind_a_slow_change(database, [insert(number) for number in range(40)]) == list(range(40))
    # The slow one used up the collecting time of its own group; all others are in the next ones.
    assert database.changed(-1, 0) - before <= 10
    assert stored(database) == list(range(40))


def test_a_failing_change_undoes_itself_alone(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        insert(100)(connection)
        raise Conflict("no")

    outcomes = behind_a_slow_change(database, [insert(1), fails, insert(2), insert(1)])
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [Conflict, Conflict]
    assert stored(database) == [1, 2]


def test_a_constraint_is_a_conflict_and_a_programming_error_is_raised_as_it_is(database: Database) -> None:
    database.write(insert(1))
    with pytest.raises(Conflict):
        database.write(insert(1))
    with pytest.raises(ZeroDivisionError):
        database.write(lambda connection: 1 // 0)
    assert database.write(insert(2)) == 2


def test_a_change_must_not_ask_for_a_change(database: Database) -> None:
    with pytest.raises(RuntimeError):
        database.write(lambda connection: database.write(insert(1)))


def test_readers_can_not_write(database: Database) -> None:
    with pytest.raises(DriverError):
        database.rows("INSERT INTO numbers VALUES (5)")


def test_each_thread_has_its_own_reader(database: Database) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(database.read()))
    thread.start()
    thread.join()
    assert found[0] is not database.read() and database.read() is database.read()


def test_changed_waits_for_a_commit(database: Database) -> None:
    before = database.changed(-1, 0)
    assert database.changed(before, 0.01) == before
    thread = threading.Thread(target=database.write, args=(insert(1),))
    thread.start()
    assert database.changed(before, 30) == before + 1
    thread.join()


def test_values_that_sqlite_can_not_hold_are_invalid(database: Database) -> None:
    for value in ("\ud800", 1 << 70):
        with pytest.raises(InvalidSpec):
            database.rows("SELECT * FROM numbers WHERE number = ?", (value,))


def test_after_close_it_refuses(tmp_path: Path) -> None:
    database = Database(tmp_path / "numbers.db", NUMBERS)
    database.write(insert(1))
    database.close()
    database.close()
    with pytest.raises(DriverError):
        database.write(insert(2))


def test_sixteen_writers_and_readers_never_find_it_locked(database: Database) -> None:
    problems: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 50):
                database.write(insert(number))
                assert number in stored(database)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(1000 * place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and len(stored(database)) == 800


def test_a_second_process_of_the_manager_shares_the_file(tmp_path: Path) -> None:
    first, second = Database(tmp_path / "numbers.db", NUMBERS), Database(tmp_path / "numbers.db", NUMBERS)
    threads = [threading.Thread(target=lambda at=at, db=db: [db.write(insert(at + n)) for n in range(50)]) for at, db in ((0, first), (100, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(first)) == len(stored(second)) == 100
    first.close()
    second.close()


def test_files_are_for_the_manager_alone_and_what_is_deleted_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for path in (tmp_path / "store").iterdir():
        if path.suffix == ".db":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    store.write(lambda connection: connection.execute("INSERT INTO about VALUES ('x', 'very-private-text')"))
    store.write(lambda connection: connection.execute("DELETE FROM about WHERE name = 'x'"))
    manager_id = store.manager_id
    store.close()
    assert b"very-private-text" not in (tmp_path / "store" / "manager.db").read_bytes()
    again = Store(tmp_path / "store")
    assert again.manager_id == manager_id
    again.close()
