"""Policies are read from the documents that the members of a pool keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.store import policies
from domus_controller.store.fleet import read_fleet

from tests.support.manager_room import Room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2"))
    made.hear()
    yield made
    made.close()


def tell(room: Room, server: str, pool: str = "default", generation: int = 1, **policy: Any) -> None:
    room.tell(server, "server_pool", {"name": pool, "servers": ["srv1", "srv2"], "policy": policy}, generation=generation)


def test_a_pool_has_the_policy_of_its_newest_document(room: Room) -> None:
    assert policies.policies_of(room.store) == {}
    tell(room, "srv1", generation=2, mode="dpm", period=5, servers=["srv2"], least_on=1)
    tell(room, "srv2", generation=1, mode="drs")
    (found,) = policies.policies_of(room.store).values()
    assert (found.pool, found.is_on, found.spec.mode, found.spec.period, list(found.spec.servers or ())) == ("default", True, "dpm", 5, ["srv2"])
    tell(room, "srv2", generation=3, mode="off")
    assert not policies.policies_of(room.store)["default"].is_on


def test_a_pool_without_a_policy_has_none(room: Room) -> None:
    room.tell("srv1", "server_pool", {"name": "default", "servers": ["srv1"]})
    assert policies.policies_of(room.store) == {} and policies.spare_servers(room.store) == {}


def test_placement_keeps_the_spare_room_of_the_policy_whatever_its_mode_is(room: Room) -> None:
    tell(room, "srv1", mode="off", spare_servers=1)
    assert [(one.pool, one.spare_servers) for one in read_fleet(room.store)] == [("default", 1)] * 2
    tell(room, "srv1", pool="elsewhere", spare_servers=1)
    assert policies.spare_servers(room.store) == {"default": 1, "elsewhere": 1}
