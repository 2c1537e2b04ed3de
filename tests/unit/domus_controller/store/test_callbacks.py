"""Each record of an agent counts once, in whatever order and however often it comes."""

from __future__ import annotations

import random
import threading
import uuid
from typing import Any

import pytest
from domus_controller.store import callbacks, events, objects, servers
from domus_controller.store.database import Store
from domus_core.errors import InvalidSpec, NotFound
from hypothesis import given, settings
from hypothesis import strategies as st

from .described import FIRST, SECOND, described, event, told, vm_id


def kinds(store: Store, server: str = FIRST) -> list[str]:
    return [item["kind"] for item in events.page(store, 1000, filters={"server": server}, since=0)["items"]]


def test_records_are_stored_and_acknowledged(store: Store) -> None:
    records = [event(1, object={"kind": "vm", "key": "web", "id": vm_id(1)}), told(2, described(1)), {"seq": 3, "at": 1, "type": "void"}]
    assert callbacks.ingest(store, FIRST, "e", records) == 3
    item = events.page(store)["items"][0]
    assert (item["kind"], item["server"], item["object"]["id"], item["severity"]) == ("vm.started", "first", vm_id(1), "info")
    assert objects.find(store, "vm", vm_id(1))["server"] == "first"
    assert callbacks.ingest(store, FIRST, "e", [told(4, None, "vm00001")]) == 4
    with pytest.raises(NotFound):
        objects.find(store, "vm", vm_id(1))


def test_a_duplicate_is_stored_once(store: Store) -> None:
    batch = [event(number) for number in range(1, 6)]
    assert [callbacks.ingest(store, FIRST, "e", batch) for dummy in range(3)] == [5, 5, 5]
    assert callbacks.ingest(store, FIRST, "e", [*batch, *batch, event(6), event(6)]) == 6
    assert len(kinds(store)) == 6


def test_an_old_duplicate_does_not_bring_an_old_state_back(store: Store) -> None:
    callbacks.ingest(store, FIRST, "e", [told(1, described(1, memory=1)), told(2, described(1, memory=2))])
    callbacks.ingest(store, FIRST, "e", [told(1, described(1, memory=1))])
    assert objects.find(store, "vm", vm_id(1))["spec"]["memory"] == 2


def test_nothing_is_acknowledged_of_nothing(store: Store) -> None:
    assert callbacks.ingest(store, FIRST, "e", []) == 0
    assert callbacks.incomplete(store) == [FIRST]


def test_a_new_epoch_starts_at_its_own_numbers_and_asks_for_the_inventory(store: Store) -> None:
    callbacks.ingest(store, FIRST, "one", [event(1, "a.one"), event(2, "a.two")])
    callbacks.completed(store, FIRST, "one")
    assert callbacks.incomplete(store) == []
    assert callbacks.ingest(store, FIRST, "two", [event(1, "b.one")]) == 1
    assert callbacks.incomplete(store) == [FIRST]
    assert callbacks.position(store, FIRST) == {"epoch": "two", "acknowledged": 1, "complete": False}
    assert callbacks.ingest(store, FIRST, "one", [event(2, "a.two")]) == 2
    assert callbacks.position(store, FIRST)["epoch"] == "two"
    assert kinds(store) == ["a.one", "a.two", "b.one"]


def test_a_completed_server_stays_complete_while_all_is_well(store: Store) -> None:
    callbacks.ingest(store, FIRST, "e", [event(1)])
    callbacks.completed(store, FIRST, "e")
    callbacks.ingest(store, FIRST, "e", [event(2), event(3)])
    assert callbacks.incomplete(store) == []
    assert callbacks.ingest(store, FIRST, "e", [event(9)]) == 9
    assert callbacks.incomplete(store) == [FIRST]


def test_after_a_gap_the_missing_ones_are_taken_and_an_old_state_is_not(store: Store) -> None:
    callbacks.ingest(store, FIRST, "e", [event(1, "n.1"), told(8, described(1, memory=8))])
    assert callbacks.ingest(store, FIRST, "e", [event(4, "n.4"), told(5, described(1, memory=5))]) == 8
    callbacks.ingest(store, FIRST, "e", [event(4, "n.4"), event(2, "n.2"), event(7, "n.7"), event(1, "n.1")])
    assert kinds(store) == ["n.1", "n.4", "n.2", "n.7"]
    assert objects.find(store, "vm", vm_id(1))["spec"]["memory"] == 8


def test_servers_do_not_share_numbers_and_strangers_are_refused(store: Store) -> None:
    callbacks.ingest(store, FIRST, "e", [event(1)])
    callbacks.ingest(store, SECOND, "e", [event(1)])
    assert len(kinds(store, FIRST)) == len(kinds(store, SECOND)) == 1
    with pytest.raises(NotFound):
        callbacks.ingest(store, vm_id(5), "e", [event(1)])
    servers.remove(store, FIRST)
    assert callbacks.position(store, FIRST)["epoch"] is None


@pytest.mark.parametrize("number", [None, "1", True, 0, -1, 1.5, 1 << 63])
def test_a_record_without_a_number_refuses_all(store: Store, number: Any) -> None:
    with pytest.raises(InvalidSpec):
        callbacks.ingest(store, FIRST, "e", [event(1), {**event(2), "seq": number}])
    assert kinds(store) == []


BAD: list[dict[str, Any]] = [
    {"type": "event"},
    {"type": "strange"},
    {"type": "event", "at": "soon", "kind": "x"},
    {"type": "event", "at": 1, "kind": 5, "object": "x"},
    {"type": "event", "at": 1e300, "kind": "x"},
    {"type": "event", "at": float("nan"), "kind": "x"},
    {"type": "event", "at": 1, "kind": "\ud800"},
    {"type": "event", "at": 1, "kind": ["x"]},
    {"type": "object", "kind": "vm", "key": "a"},
    {"type": "object", "kind": "vm", "key": "a", "description": {}},
    {"type": "object", "kind": "vm", "key": "a", "description": described(1)},
    {"type": "object", "kind": "planet", "key": "a", "description": {**described(1, key="a"), "kind": "planet"}},
    {"type": "object", "kind": "vm", "key": "a", "description": {**described(1, key="a"), "id": 5}},
    {"type": "object", "kind": "vm", "key": "a", "description": {**described(1, key="a"), "spec": {"nics": [{"name": []}]}, "running": {}}},
    {"type": "object", "kind": "vm", "key": "a", "description": {**described(1, key="a"), "spec": {"tags": 5}}},
    {"type": "object", "kind": "vm", "key": "a", "description": {**described(1, key="a"), "measured": 7}},
    {"type": "object", "kind": "vm", "key": "a", "description": {**described(1, key="a"), "generation": 1 << 70}},
    {"type": "object", "kind": "vm", "key": "a", "description": {**described(1, key="a"), "state": {}}},
]


@pytest.mark.parametrize("bad", BAD)
def test_a_record_that_can_not_be_stored_holds_nothing_up_and_is_told(store: Store, bad: dict[str, Any]) -> None:
    assert callbacks.ingest(store, FIRST, "e", [event(1), {**bad, "seq": 2}, event(3)]) == 3
    assert kinds(store) == ["vm.started", "callback.refused", "vm.started"]
    assert objects.page(store, "vm")["items"] == []


def test_strange_text_and_numbers_are_shown_as_json_can(store: Store) -> None:
    callbacks.ingest(store, FIRST, "e", [event(1, data={"a": "\ud800 \0 ü", "b": float("nan"), "c": [float("inf"), 1 << 70]})])
    assert events.page(store)["items"][0]["data"] == {"a": "\ud800 \0 ü", "b": None, "c": [None, 1 << 70]}


NUMBERS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), max_size=12)


@settings(max_examples=25, deadline=None)
@given(batches=NUMBERS)
def test_any_order_stores_each_number_once(shared_store: Store, batches: list[list[int]]) -> None:
    epoch = uuid.uuid4()
    for batch in batches:
        callbacks.ingest(shared_store, FIRST, str(epoch), [event(number, f"{epoch}.{number}") for number in batch])
    stored = [item["kind"] for item in events.page(shared_store, 1000, filters={"kind": f"{epoch}.*"})["items"]]
    assert sorted(stored) == sorted(f"{epoch}.{number}" for number in {number for batch in batches for number in batch})


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory):
    made = Store(tmp_path_factory.mktemp("shared"))
    servers.add(made, {"id": FIRST, "name": "first", "address": "a", "port": 1, "serial": None})
    yield made
    made.close()


def test_many_agents_at_once_lose_nothing_and_double_nothing(store: Store) -> None:
    agents = [vm_id(100 + place) for place in range(10)]
    for place, agent in enumerate(agents):
        servers.add(store, {"id": agent, "name": f"agent{place}", "address": "a", "port": 1, "serial": None})

    def report(agent: str) -> None:
        chance = random.Random(agent)
        acknowledged = 0
        while acknowledged < 200:
            first = max(1, acknowledged + 1 - chance.randrange(20))
            acknowledged = callbacks.ingest(store, agent, "e", [event(number, f"n.{number}") for number in range(first, min(first + 50, 201))])

    threads = [threading.Thread(target=report, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for agent in agents:
        assert kinds(store, agent) == [f"n.{number}" for number in range(1, 201)]
