"""Policies are read from the documents that the members of a pool keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.store import policies, requests
from domus_controller.store.fleet import read_fleet

from tests.support.manager_room import Room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2"))
    made.hear()
    yield made
    made.close()


def tell(room: Room, server: str, pool: str = "default", **policy: Any) -> None:
    room.tell(server, "server_pool", {"name": pool, "servers": ["srv1", "srv2"], "policy": policy})


def ask(room: Room, server: str, state: str = "effective", **policy: Any) -> None:
    """Somebody has asked a server for it, and this came of it."""
    job, id = f"job-{server}-{state}-{len(policy)}-{policy.get('mode')}", room.servers[server]
    room.store.write(lambda connection: requests.record(connection, "default", id, "server_pool", "default", {"name": "default", "policy": policy}, job))
    requests.settle(room.store, job, {("server_pool", "default", id): state})


def test_the_policy_that_took_effect_last_counts_whatever_others_have_kept(room: Room) -> None:
    assert policies.policies_of(room.store) == {}
    tell(room, "srv1", mode="dpm", period=5, servers=["srv2"], least_on=1)
    (found,) = policies.policies_of(room.store).values()
    assert (found.asked_at, found.is_on, list(found.spec.servers or ())) == (None, True, ["srv2"]), "nobody has asked this manager for it"
    ask(room, "srv1", mode="dpm")
    tell(room, "srv2", mode="drs")
    assert policies.policies_of(room.store)["default"].spec.mode == "dpm", "what a member tells later it may have kept from long ago"
    ask(room, "srv2", mode="drs")
    found = policies.policies_of(room.store)["default"]
    assert found.spec.mode == "drs" and found.asked_at is not None
    ask(room, "srv1", "failed", mode="off")
    assert policies.policies_of(room.store)["default"].spec.mode == "drs", "who was not reached has kept what it had"


def test_a_pool_without_a_policy_has_none(room: Room) -> None:
    room.tell("srv1", "server_pool", {"name": "default", "servers": ["srv1"]})
    assert policies.policies_of(room.store) == {} and policies.spare_servers(room.store) == {}


def test_placement_keeps_the_spare_room_of_the_policy_whatever_its_mode_is(room: Room) -> None:
    tell(room, "srv1", mode="off", spare_servers=1)
    assert [(one.pool, one.spare_servers) for one in read_fleet(room.store)] == [("default", 1)] * 2
    tell(room, "srv1", pool="elsewhere", spare_servers=1)
    assert policies.spare_servers(room.store) == {"default": 1, "elsewhere": 1}
