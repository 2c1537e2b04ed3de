"""Silent servers are told once, and those that come back; an incomplete copy is completed from the inventory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from domus_controller.agents.watch import SILENT_SECONDS, Watch
from domus_controller.store import callbacks, events, objects, servers
from domus_controller.store.database import Store
from domus_core.errors import Unreachable

NETWORK = {"kind": "network", "key": "lan", "id": "n1", "name": "lan", "site": None, "generation": 0, "state": "active", "spec": {"name": "lan"}}
NETWORK |= {"recorded": None, "running": True, "measured": {}, "fingerprint": "f", "restart_required": []}


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Inventory:
    """Agents that know nothing but their inventory."""

    def __init__(self) -> None:
        self.away = False

    def call(self, server_id: str, method: str, parameters: Mapping[str, Any], timeout: float = 30) -> Any:
        """The inventory."""
        if self.away:
            raise Unreachable("gone")
        return {"objects": [NETWORK], "server": {}}


class Room:
    """A store with one server, and what watches it."""

    def __init__(self, directory: Path) -> None:
        self.clock, self.inventory = Clock(), Inventory()
        self.store = Store(directory, self.clock)
        servers.add(self.store, {"id": "s1", "name": "srv1", "address": "192.0.2.1", "port": 8899, "serial": "1"})
        self.watch = Watch(self.store, self.inventory)  # type: ignore[arg-type]

    def hear(self) -> None:
        """A callback comes."""
        self.store.write(lambda connection: servers.heard_from(connection, "s1", self.clock.now, "1", "up"))

    def told(self) -> list[str]:
        """The events, the oldest first."""
        return [one["kind"] for one in events.page(self.store, since=0)["items"]]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.store.close()


def test_silence_and_return_are_told_once_each(room: Room) -> None:
    room.hear()
    room.watch.look()
    room.clock.now += SILENT_SECONDS - 1
    room.watch.look()
    assert room.told() == []
    room.clock.now += 2
    room.watch.look()
    room.watch.look()
    assert room.told() == ["server.offline"] and servers.find(room.store, "s1")["state"] == "offline"
    room.hear()
    room.watch.look()
    room.watch.look()
    assert room.told() == ["server.offline", "server.online"]


def test_a_server_that_was_never_heard_is_not_told_as_gone(room: Room) -> None:
    room.clock.now += 1000
    room.watch.look()
    assert room.told() == []


def test_an_incomplete_copy_is_completed_once_the_server_answers(room: Room) -> None:
    room.hear()
    callbacks.ingest(room.store, "s1", "e1", [{"seq": 5, "at": room.clock.now, "type": "event", "kind": "agent.started"}])
    if not callbacks.incomplete(room.store):
        pytest.fail("a jump in the numbers is expected to make the copy incomplete")
    room.inventory.away = True
    room.watch.look()
    assert callbacks.incomplete(room.store) == ["s1"]
    room.inventory.away = False
    room.watch.look()
    assert callbacks.incomplete(room.store) == []
    assert objects.find(room.store, "network", "lan")["server"] == "srv1"
