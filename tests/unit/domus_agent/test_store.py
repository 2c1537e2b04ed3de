"""The agent's database: the outbox, its order and its bounds, and what happens when the file fails."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_agent.store import AgentStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AgentStore]:
    made = AgentStore(str(tmp_path), lambda: 100.0, most_events=20)
    yield made
    made.close()


def kinds(store: AgentStore) -> list[tuple[int, str]]:
    return [(record["seq"], record["type"]) for record in store.unsent()]


def test_records_are_numbered_without_gaps_from_one(store: AgentStore) -> None:
    assert [store.add_event("vm.started"), store.put_object("vm", "a", "1", {"n": 1}), store.add_event("vm.stopped")] == [1, 2, 3]
    assert kinds(store) == [(1, "event"), (2, "object"), (3, "event")]
    assert store.unsent(2) == store.unsent()[:2]
    event, told, dummy = store.unsent()
    assert event == {"seq": 1, "at": 100.0, "type": "event", "kind": "vm.started", "severity": "info", "object": None, "data": {}, "operation": None}
    assert told == {"seq": 2, "at": 100.0, "type": "object", "kind": "vm", "key": "a", "id": "1", "description": {"n": 1}}


def test_an_outdated_record_of_an_object_is_void(store: AgentStore) -> None:
    store.put_object("vm", "a", "1", {"n": 1})
    store.put_object("vm", "b", "2", {"n": 1})
    assert store.put_object("vm", "a", "1", {"n": 2}) == 3
    assert store.put_object("vm", "b", "", None) == 4
    assert kinds(store) == [(1, "void"), (2, "void"), (3, "object"), (4, "object")]
    assert store.unsent()[2]["description"] == {"n": 2}
    assert (store.unsent()[3]["id"], store.unsent()[3]["description"]) == ("2", None)


def test_what_was_put_last_is_no_news(store: AgentStore) -> None:
    assert store.put_object("vm", "a", "", None) is None
    assert store.put_object("vm", "a", "1", {"n": 1}) == 1
    assert store.put_object("vm", "a", "1", {"n": 1}) is None
    assert store.objects("vm") == [{"n": 1}]
    assert store.objects("network") == []
    assert store.key_of("vm", "1") == "a"
    assert store.key_of("vm", "2") is None


def test_what_is_acknowledged_is_forgotten_and_numbers_go_on(store: AgentStore, tmp_path: Path) -> None:
    for dummy in range(3):
        store.add_event("vm.started")
    epoch = store.epoch
    store.acknowledged(2, "another epoch")
    assert len(store.unsent()) == 3
    store.acknowledged(2, store.epoch)
    store.acknowledged(1, store.epoch)
    assert kinds(store) == [(3, "event")]
    store.acknowledged(99, epoch)
    assert (store.unsent(), store.acknowledged_seq(), store.mark()) == ([], 3, 3)
    store.close()
    again = AgentStore(str(tmp_path))
    assert again.epoch == epoch
    assert again.add_event("vm.started") == 4
    again.close()


def test_everything_can_be_told_again(store: AgentStore) -> None:
    store.put_object("vm", "a", "1", {"n": 1})
    store.put_object("vm", "b", "2", {"n": 2})
    store.acknowledged(2, store.epoch)
    assert store.announce_all() == 4
    assert [record["key"] for record in store.unsent()] == ["a", "b"]


def test_a_new_epoch_begins_with_all_objects(store: AgentStore) -> None:
    store.add_event("vm.started")
    store.put_object("vm", "a", "1", {"n": 1})
    store.revoke("ab", 1e9)
    before = store.epoch
    store.begin_epoch()
    assert store.epoch != before
    assert kinds(store) == [(1, "object")]
    assert store.revoked() == {}


def test_events_beyond_the_bound_are_lost_and_counted(store: AgentStore) -> None:
    store.put_object("vm", "a", "1", {"n": 1})
    for number in range(100):
        store.add_event("vm.started", data={"number": number})
    records = store.unsent(1000)
    kept = [record for record in records if record["type"] == "event"]
    assert len(kept) <= 20
    lost = sum(record["data"]["count"] for record in kept if record["kind"] == "events.lost")
    assert lost + sum(record["kind"] == "vm.started" for record in kept) == 100
    assert kept[-1]["data"] == {"number": 99} or kept[-2]["data"] == {"number": 99}
    assert records[0]["type"] == "object"
    assert [record["seq"] for record in records] == list(range(1, store.mark() + 1))


def test_a_transaction_is_made_as_a_whole_or_not_at_all(store: AgentStore) -> None:
    woken = []
    store.wake = lambda: woken.append(True)
    with pytest.raises(RuntimeError), store.transaction():
        store.add_event("vm.started")
        store.put_object("vm", "a", "1", {})
        raise RuntimeError
    assert (store.unsent(), woken) == ([], [])
    with store.transaction():
        store.add_event("vm.started")
        store.put_object("vm", "a", "1", {})
        assert woken == []
    assert (len(store.unsent()), woken) == (2, [True])


def test_threads_do_not_get_into_each_others_transactions(store: AgentStore) -> None:
    def work(number: int) -> None:
        for dummy in range(5):
            with store.transaction():
                first = store.add_event("a", data={"thread": number})
                assert store.put_object("vm", f"{number}", "1", {"seq": first}) == first + 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.mark() == 30


def test_operations_are_kept_until_they_are_old(store: AgentStore) -> None:
    store.put_operation("a", ("digest", "manager:1", "ab"), {"state": "queued"})
    store.put_operation("b", ("digest", "job:1", "cd"), {"state": "succeeded"})
    assert store.unfinished() == ["a"]
    assert store.operation("b") == (("digest", "job:1", "cd"), {"state": "succeeded"})
    assert store.operation("c") is None
    store.forget_operations(99.0)
    assert store.counts()["operations"] == 2
    store.forget_operations(101.0)
    assert (store.operation("b"), store.unfinished()) == (None, ["a"])


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 8192], ids=["text", "zeros", "torn"])
def test_a_damaged_file_is_moved_aside_and_a_new_epoch_begins(tmp_path: Path, damage: bytes) -> None:
    before = AgentStore(str(tmp_path))
    epoch = before.epoch
    before.add_event("vm.started")
    before.close()
    (tmp_path / "agent.db").write_bytes(damage)
    store, recovered = AgentStore(str(tmp_path), lambda: 5.0), []
    store.recovered = lambda: recovered.append(True)
    assert "damaged" in (store.problem or "")
    assert (tmp_path / "agent.db.damaged-5").read_bytes() == damage
    assert store.add_event("vm.stopped") == 1
    assert store.epoch not in ("", epoch)
    assert (store.problem, recovered) == (None, [True])
    assert [record["kind"] for record in store.unsent()] == ["vm.stopped", "agent.database_recovered"]
    assert (tmp_path / "agent.db").stat().st_mode & 0o777 == 0o600
    store.close()


def test_damage_that_shows_while_it_works_begins_a_new_epoch(store: AgentStore, tmp_path: Path) -> None:
    epoch = store.epoch
    with sqlite3.connect(tmp_path / "agent.db") as other:
        other.execute("DROP TABLE outbox")
    other.close()
    assert store.add_event("vm.started") == 0
    assert store.problem and store.epoch != epoch
    assert store.add_event("vm.started") == 1
    assert store.problem is None


def test_a_full_disk_stops_neither_reading_nor_the_agent(store: AgentStore) -> None:
    recovered: list[Any] = []
    store.recovered = lambda: recovered.append(True)
    store.put_object("vm", "a", "1", {"n": 1})
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    assert store.put_object("vm", "b", "2", {"text": "x" * 100_000}) is None
    assert "full" in (store.problem or "")
    assert store.objects("vm") == [{"n": 1}]
    assert [record["key"] for record in store.unsent()] == ["a"]
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.problem and recovered == []
    assert store.check() is None
    assert recovered == [True]
    assert store.unsent()[-1]["kind"] == "agent.database_recovered"


def test_where_no_file_can_be_made_memory_does_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "agent.db").mkdir()
    store = AgentStore(str(tmp_path))
    assert store.problem
    assert store.add_event("vm.started") == 1
    assert len(store.unsent()) == 1
    assert store.check()
    os.rmdir(tmp_path / "agent.db")
    assert store.check() is None
    assert store.add_event("vm.stopped") > 0
    store.close()
    again = AgentStore(str(tmp_path))
    assert "vm.stopped" in [record.get("kind") for record in again.unsent()]
    again.close()
