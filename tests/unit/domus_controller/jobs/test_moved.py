"""VMs that are not where they were: no agent makes one a second time, the job follows it once, and says so when nobody knows where it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.store import objects, requests, server_states
from domus_core.errors import Moved, NoCapacity

from tests.support.manager_room import Room

A = str(uuid.uuid5(uuid.NAMESPACE_DNS, "a"))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2", "srv3"))
    made.hear()
    made.agents.vms = {server: {} for server in made.servers.values()}
    yield made
    made.close()


def documents(room: Room) -> list[tuple[str, list[str], Any]]:
    """Which server got which VMs in which order, and what it was told to exist."""
    names = {server: name for name, server in room.servers.items()}
    return [(names[server], [vm["name"] for vm in sent["document"].get("vms", ())], sent.get("existing")) for server, sent in room.agents.submitted]


def has(room: Room, server: str, *vms: str) -> None:
    """That is where they really are."""
    assert room.agents.vms is not None
    room.agents.vms[room.servers[server]] = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in vms}


def test_a_vm_that_has_moved_is_followed_once_and_all_else_goes_on(room: Room) -> None:
    room.add_vm("a", "srv1")
    has(room, "srv2", "a")
    job = room.jobs.apply({"vms": [{"name": "a", "cpus": 2}, {"name": "b", "server": "srv1"}], "networks": [{"name": "lan", "mode": "isolated"}]}, by="ann")
    ended = room.ended(job)
    assert (ended["state"], ended["error"]) == ("succeeded", None)
    assert documents(room) == [("srv1", ["a", "b"], {"a": A}), ("srv2", ["a"], {"a": A})]
    assert sorted((one["server"], one["name"]) for one in ended["result"]["objects"] if one["kind"] == "vm") == [("srv1", "b"), ("srv2", "a")]
    assert [one["name"] for one in room.agents.submitted[1][1]["document"]["networks"]] == ["lan"], "what it may need goes along"
    asked = {one["key"]: (one["server_id"], one["state"]) for one in requests.page(room.store)["items"] if one["kind"] == "vm"}
    assert asked == {"a": (room.servers["srv2"], "effective"), "b": (room.servers["srv1"], "effective")}


def test_what_was_found_nowhere_is_not_made_and_the_reason_is_told(room: Room) -> None:
    room.add_vm("a", "srv1")
    ended = room.ended(room.jobs.apply({"vms": [{"name": "a"}, {"name": "b", "server": "srv1"}]}, by="ann"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", Moved.code)
    assert "on no other server" in ended["error"]["message"] and "not made again" in ended["error"]["remedy"]
    assert len(room.agents.submitted) == 1
    states = {one["key"]: one["state"] for one in requests.page(room.store)["items"]}
    assert states == {"a": "failed", "b": "effective"}


def test_a_server_that_can_not_say_is_named(room: Room) -> None:
    room.add_vm("a", "srv1")
    room.agents.unreachable.add(room.servers["srv3"])
    error = room.ended(room.jobs.apply({"vms": [{"name": "a"}]}, by="ann"))["error"]
    assert "srv3 can not say" in error["message"] and "may be there" in error["remedy"]


def test_a_vm_on_two_servers_is_left_alone(room: Room) -> None:
    room.add_vm("a", "srv1")
    has(room, "srv2", "a")
    has(room, "srv3", "a")
    assert "srv2 and srv3" in room.ended(room.jobs.apply({"vms": [{"name": "a"}]}, by="ann"))["error"]["message"]
    assert len(room.agents.submitted) == 1


def test_a_vm_that_moves_on_once_more_is_not_chased(room: Room) -> None:
    room.add_vm("a", "srv1")
    has(room, "srv2", "a")
    original = room.agents._find_vms

    def find_then_move(server: str, vms: list[str]) -> Any:
        found = original(server, vms)
        if server == room.servers["srv3"]:
            has(room, "srv2")
        return found

    room.agents._find_vms = find_then_move  # type: ignore[method-assign]
    ended = room.ended(room.jobs.apply({"vms": [{"name": "a"}]}, by="ann"))
    assert ended["state"] == "failed" and len(room.agents.submitted) <= 2


def test_a_vm_that_vanished_is_sought_before_it_is_made_again(room: Room) -> None:
    room.add_vm("a", "srv1")
    has(room, "srv1", "a")
    assert room.ended(room.jobs.apply({"vms": [{"name": "a", "server": "srv1"}]}, by="ann"))["state"] == "succeeded"
    room.forget("srv1", "vm", "a")
    has(room, "srv1")
    has(room, "srv3", "a")
    assert objects.vanished(room.store, "default") == {"a": A}
    ended = room.ended(room.jobs.apply({"vms": [{"name": "a", "server": "srv1"}]}, by="ann"))
    assert ended["state"] == "succeeded"
    assert documents(room)[1:] == [("srv1", ["a"], {"a": A}), ("srv3", ["a"], {"a": A})]
    has(room, "srv3")
    objects_before = len(room.agents.submitted)
    assert room.ended(room.jobs.apply({"vms": [{"name": "a", "server": "srv1"}]}, by="ann"))["state"] == "succeeded"
    assert documents(room)[objects_before:] == [("srv1", ["a"], {})], "it is nowhere: it may be made anew"


def test_a_vm_on_a_silent_server_is_not_made_elsewhere(room: Room) -> None:
    room.add_vm("a", "srv2")
    room.agents.unreachable.add(room.servers["srv2"])
    room.store.write(lambda connection: connection.execute("UPDATE servers SET state = 'offline' WHERE name = 'srv2'").rowcount)
    ended = room.ended(room.jobs.apply({"vms": [{"name": "a", "server": "srv1"}]}, by="ann"))
    assert ended["state"] == "failed" and ended["error"]["code"] == "unreachable"
    assert "vm a is known to be there, so it was not made elsewhere" in ended["error"]["remedy"]
    assert documents(room) == []


def test_a_plan_is_not_carried_out_elsewhere(room: Room) -> None:
    plan = room.jobs.plan({"vms": [{"name": "a", "server": "srv1"}]}, by="ann")
    room.add_vm("a", "srv2")
    has(room, "srv2", "a")
    ended = room.ended(room.jobs.apply_plan(plan["id"], by="ann"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "moved") and len(room.agents.submitted) == 1


def test_two_documents_do_not_make_one_vm_on_two_servers(room: Room) -> None:
    room.agents.holding = True
    first = room.jobs.apply({"vms": [{"name": "a"}]}, by="ann")
    room.until(lambda: room.agents.submitted)
    second = room.jobs.apply({"vms": [{"name": "a"}, {"name": "b"}]}, by="ben")
    assert room.state(second) == "queued"
    for operation in list(room.agents.operations):
        room.agents.finish(operation)
    room.ended(first)
    room.agents.holding = False
    room.ended(second)
    assert sorted((server, vms) for server, vms, _ in documents(room)) == [("srv1", ["a"]), ("srv1", ["a"]), ("srv2", ["b"])], "promised room is taken"


def test_placement_goes_by_what_servers_have_told(room: Room) -> None:
    room.hear("srv1", memory=2 << 30)
    room.tell("srv2", "server", {"name": "srv2", "tags": ["ssd"], "memory_reserve": 0})
    server_states.set_maintenance(room.store, room.servers["srv3"], True, "", "ann")
    plan = room.jobs.plan({"vms": [{"name": "a", "memory": "2GiB"}]}, by="ann")
    assert plan["objects"][0]["server"] == "srv2" and "least full" in plan["objects"][0]["placement"]
    with pytest.raises(NoCapacity) as raised:
        room.jobs.apply({"vms": [{"name": "a", "memory": "3GiB", "server_tags": ["gpu"]}]}, by="ann")
    assert "srv1, srv2: lacks tag gpu; srv3: is in maintenance" in str(raised.value)
