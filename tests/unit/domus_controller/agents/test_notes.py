"""What only the manager knows of a server is told to it once, and again when it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domus_controller.agents.notes import Notes, maintenance_of, pool_of
from domus_controller.store import server_states, servers, trust
from domus_controller.store.database import Store
from domus_core.errors import NotFound, Unreachable

ID = "6a1f4e0e-0000-4000-8000-000000000001"


class Agents:
    """Notes what is told; fails as it is told to."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.fails: Exception | None = None

    def call(self, server_id: str, method: str, parameters: dict[str, Any], timeout: float) -> None:
        self.told.append(parameters["notes"])
        if self.fails:
            raise self.fails


def test_told_once_and_again_when_changed_or_not_heard(tmp_path: Path) -> None:
    store, agents = Store(tmp_path), Agents()
    try:
        servers.add(store, {"id": ID, "name": "srv1", "address": "192.0.2.1", "port": 1, "serial": "1"})
        notes = Notes(store, agents)  # type: ignore[arg-type]
        notes.look()
        assert agents.told == []  # it is not there
        store.write(lambda connection: server_states.heard(connection, ID, store.now(), "1", "up"))
        agents.fails = Unreachable("away")
        notes.look()
        agents.fails = None
        notes.look()
        notes.look()
        assert agents.told == [{"pool": "default", "maintenance": False, "maintenance_reason": None}] * 2
        trust.note(store, ID, pool="rack1")
        server_states.set_maintenance(store, ID, True, "new fans", "admin")
        agents.fails = NotFound("there is no such method")  # an older agent is not asked again and again
        notes.look()
        notes.look()
        assert agents.told[2:] == [{"pool": "rack1", "maintenance": True, "maintenance_reason": "new fans"}]
    finally:
        store.close()


@pytest.mark.parametrize(("told", "pool"), [({}, "default"), ({"notes": {}}, "default"), ({"notes": {"pool": "x"}}, "x"), ({"notes": {"pool": 1}}, "default")])
def test_the_pool_of_before(told: dict[str, Any], pool: str) -> None:
    assert pool_of(told) == pool and maintenance_of(told) is None


def test_the_maintenance_mode_of_before() -> None:
    assert maintenance_of({"notes": {"maintenance": True, "maintenance_reason": "fans"}}) == "fans"
    assert maintenance_of({"notes": {"maintenance": True, "maintenance_reason": None}}) == ""
    assert maintenance_of({"notes": {"maintenance": False, "maintenance_reason": "fans"}}) is None
