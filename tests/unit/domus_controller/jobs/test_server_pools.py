"""Server pools in the manager: who is told what of whom, what is kept sealed, what is refused before anything is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs.server_pools import recall
from domus_controller.store import pool_secrets, requests, server_pools, servers, site_objects, trust
from domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Unreachable

from tests.support.manager_room import Room

NAMES = ("srv1", "srv2", "srv3", "srv4")
DEVICE = {"name": "bmc", "agent": "fence_ipmilan", "servers": [{"name": "srv1"}, {"name": "srv2"}], "options": [{"name": "password", "secret": "s3cret"}]}
LINK = {"name": "lan", "subnet": "192.0.2.0/24"}
POOL: dict[str, Any] = {"name": "rack1", "servers": ["srv1", "srv2"], "file_system": "fs", "heartbeat": [LINK], "fencing": [DEVICE]}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, NAMES)
    for number, name in enumerate(NAMES, 1):
        made.hear(name, node=f"h{number}", addresses=[f"192.0.2.{number}", "198.51.100.7"])
    yield made
    made.close()


def apply(room: Room, *pools: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Apply pools; what each server was sent of the first one, by name."""
    before = len(room.agents.submitted)
    job = room.ended(room.jobs.apply({"server_pools": list(pools)}, by="ann"))
    assert job["state"] == "succeeded", job["error"]
    names = {id: name for name, id in room.servers.items()}
    return {names[server]: content["document"]["server_pools"][0] for server, content in room.agents.submitted[before:]}


def joined(room: Room, *names: str, pool: str = "rack1", **more: Any) -> None:
    """These servers report the pool, and what they see of it."""
    for name in names:
        room.tell(name, "server_pool", {"name": pool, "servers": list(names)}, **more)


def sees(room: Room, name: str, pool: str = "rack1", **told: Any) -> None:
    """A member tells how its pool is."""
    host = f"h{name[-1]}"
    seen = {"pool": pool, "server": host, "quorate": True, "coordinator": "h1", "members": {}, "vms": {}, "problems": [], "fence_devices": {}, **told}
    room.hear(name, node=host, addresses=[f"192.0.2.{name[-1]}", "198.51.100.7"], server_pool=seen)


def refused(room: Room, *pools: dict[str, Any]) -> DomusError:
    before = len(room.agents.submitted)
    with pytest.raises(DomusError) as told:
        room.jobs.apply({"server_pools": list(pools)}, by="ann")
    assert len(room.agents.submitted) == before
    return told.value


def test_each_member_is_told_of_all_and_gets_the_same_key(room: Room) -> None:
    sent = apply(room, POOL)
    assert list(sent) == ["srv1", "srv2"] and sent["srv1"] == sent["srv2"]
    cluster = sent["srv1"]["cluster"]
    assert [(one["name"], one["host"], one["node_id"], one["addresses"]) for one in cluster["members"]] == [
        ("srv1", "h1", 1, ["192.0.2.1"]),
        ("srv2", "h2", 2, ["192.0.2.2"]),
    ]
    assert len(cluster["authkey"]) > 300
    assert sent["srv1"]["fencing"][0]["options"][0]["secret"] == "s3cret"


def test_without_a_heartbeat_network_members_hear_each_other_where_the_manager_reaches_them(room: Room) -> None:
    told = refused(room, {**POOL, "heartbeat": []})
    assert told.field == "heartbeat" and "same address" in told.message, "all servers of this test have one"


def test_numbers_and_key_stay_whoever_comes_and_goes(room: Room) -> None:
    key = apply(room, POOL)["srv1"]["cluster"]["authkey"]
    joined(room, "srv1", "srv2")
    sent = apply(room, {"name": "rack1", "servers": ["srv2", "srv3"]})
    assert sent["srv1"] == {"name": "rack1", "state": "absent"}
    assert [(one["name"], one["node_id"]) for one in sent["srv3"]["cluster"]["members"]] == [("srv2", 2), ("srv3", 3)]
    assert sent["srv3"]["cluster"]["authkey"] == key
    assert sent["srv3"]["fencing"][0]["options"][0]["secret"] == "s3cret", "who joins later gets the secrets, too"
    room.forget("srv1", "server_pool", "rack1")
    joined(room, "srv2", "srv3")
    sent = apply(room, {"name": "rack1", "servers": ["srv4", "srv1", "srv2", "srv3"]})
    assert [(one["name"], one["node_id"]) for one in sent["srv4"]["cluster"]["members"]] == [("srv4", 4), ("srv1", 1), ("srv2", 2), ("srv3", 3)]


def test_no_secret_is_in_the_database_nor_in_what_was_asked(room: Room) -> None:
    key = apply(room, POOL)["srv1"]["cluster"]["authkey"]
    asked = [one["asked"] for one in requests.page(room.store)["items"]]
    assert len(asked) == 2 and all("cluster" not in one for one in asked)
    told = json.dumps([asked, site_objects.find(room.store, "server_pool", "rack1"), server_pools.all(room.store)], default=str)
    assert "s3cret" not in told and key not in told and "********" in told
    for file in Path(room.config.directory).rglob("*.db*"):
        assert b"s3cret" not in file.read_bytes() and key.encode() not in file.read_bytes()


def test_what_a_part_of_a_pool_leaves_out_stays(room: Room) -> None:
    apply(room, {**POOL, "quorum_device": {"host": "quorum.example.org", "algorithm": "lms"}})
    joined(room, "srv1", "srv2")
    sent = apply(room, {"name": "rack1", "quorum_device": {"host": "other.example.org"}})
    assert sent["srv1"]["quorum_device"] == {"host": "other.example.org", "algorithm": "lms"}


def test_a_plan_or_a_check_is_no_word_that_counts(room: Room) -> None:
    apply(room, POOL)
    joined(room, "srv1", "srv2")
    room.jobs.plan({"server_pools": [{"name": "rack1", "token": 9000, "servers": ["srv1"]}]}, by="ann")
    room.ended(room.jobs.apply({"server_pools": [{"name": "rack1", "token": 9000}]}, by="ann", check=True))
    sent = apply(room, {"name": "rack1", "description": "x"})
    assert "token" not in sent["srv1"] and sent["srv1"]["servers"] == ["srv1", "srv2"]


def test_servers_of_a_pool_trust_each_other_and_those_that_left_do_not(room: Room) -> None:
    apply(room, POOL)
    pool = {name: servers.find(room.store, name)["pool"] for name in NAMES}
    assert pool == {"srv1": "rack1", "srv2": "rack1", "srv3": "default", "srv4": "default"}
    joined(room, "srv1", "srv2")
    trust.note(room.store, room.servers["srv2"], pool="by-hand")
    apply(room, {"name": "rack1", "servers": ["srv1"], "fencing": []})
    assert servers.find(room.store, "srv2")["pool"] == "by-hand", "what somebody else has said stays"


def test_a_pool_that_failed_on_a_server_does_not_move_it(room: Room) -> None:
    room.agents.fails = {"rack1": Conflict("no")}
    assert room.ended(room.jobs.apply({"server_pools": [POOL]}, by="ann"))["state"] == "failed"
    assert servers.find(room.store, "srv1")["pool"] == "default"


def test_a_pool_that_has_ended_is_forgotten_and_has_another_key_the_next_time(room: Room) -> None:
    key = apply(room, POOL)["srv1"]["cluster"]["authkey"]
    joined(room, "srv1", "srv2")
    assert apply(room, {"name": "rack1", "state": "absent"}) == {name: {"name": "rack1", "state": "absent"} for name in ("srv1", "srv2")}
    assert pool_secrets.find(room.store, "rack1") is None and servers.find(room.store, "srv1")["pool"] == "default"
    for name in ("srv1", "srv2"):
        room.forget(name, "server_pool", "rack1")
    assert apply(room, POOL)["srv1"]["cluster"]["authkey"] != key


def test_who_is_not_heard_keeps_members_from_coming_and_going(room: Room) -> None:
    apply(room, POOL)
    joined(room, "srv1", "srv2")
    room.store.write(lambda connection: connection.execute("UPDATE servers SET state = 'offline' WHERE name = 'srv2'").rowcount)
    for change in ({"servers": ["srv1", "srv2", "srv3"]}, {"token": 5000}):
        told = refused(room, {"name": "rack1", **change})
        assert "srv2 is not heard" in told.message and told.remedy
    assert "token" not in apply(room, {"name": "rack1", "description": "x"})["srv1"], "what is no change of members goes on"
    apply(room, {"name": "rack1", "servers": ["srv1"], "fencing": []})


def test_a_server_with_ha_vms_does_not_leave(room: Room) -> None:
    apply(room, POOL)
    joined(room, "srv1", "srv2")
    sees(room, "srv1", vms={"web1": ["h2"], "web2": ["h1"]})
    told = refused(room, {"name": "rack1", "servers": ["srv1"], "fencing": []})
    assert "srv2" in told.message and "web1" in told.message and "web2" not in told.message and "srv2 --evacuate" in told.remedy
    assert "web" in refused(room, {"name": "rack1", "state": "absent"}).message


def test_a_pool_that_a_role_has_made_keeps_its_key_and_its_numbers(room: Room) -> None:
    asked: list[str] = []

    def membership(server_id: str) -> dict[str, Any]:
        asked.append(server_id)
        return {"pool": "rack1", "node_ids": {"h2": 1, "h1": 7}, "authkey": "a2V5"}

    room.agents._pool_membership = membership  # type: ignore[attr-defined]
    sees(room, "srv1")
    cluster = apply(room, {**POOL, "servers": ["srv1", "srv2", "srv3"]})["srv3"]["cluster"]
    assert [one["node_id"] for one in cluster["members"]] == [7, 1, 8] and cluster["authkey"] == "a2V5"
    apply(room, {**POOL, "servers": ["srv1", "srv2", "srv3"]})
    assert asked == [room.servers["srv1"]], "once learned it is known"


def test_a_pool_whose_members_do_not_answer_gets_no_key_of_its_own(room: Room) -> None:
    sees(room, "srv1")
    room.agents.unreachable.add(room.servers["srv1"])
    told = refused(room, POOL)
    assert isinstance(told, Unreachable) and recall(room.jobs._tools, "rack1") is None


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"cluster": {"members": []}}, InvalidSpec, "not a known key"),
        ({"servers": ["srv1", "srv2", "nobody"]}, NotFound, "no server of this name"),
        ({"servers": []}, InvalidSpec, "names no server"),
        ({"file_system": None}, Conflict, "is missing"),
        ({"heartbeat": [{"name": "x", "subnet": "203.0.113.0/24"}]}, Conflict, "has no address"),
        ({"heartbeat": [{"name": "x", "subnet": "198.51.100.0/24"}]}, InvalidSpec, "same address"),
    ],
)
def test_what_is_refused(room: Room, changes: dict[str, Any], kind: type[DomusError], word: str) -> None:
    told = refused(room, {**POOL, **changes})
    assert isinstance(told, kind) or told.code == kind.code
    assert word in str(told) and "rack1" in str(told)


def test_an_address_that_a_member_has_for_a_while_does_not_make_it_another_member(room: Room) -> None:
    before = apply(room, POOL)
    room.hear("srv1", node="h1", addresses=["192.0.2.200", "192.0.2.1", "198.51.100.7"])
    after = apply(room, {**POOL, "start_policy": "current"})
    assert after["srv1"]["cluster"]["members"] == before["srv1"]["cluster"]["members"]
    room.hear("srv2", node="h2", addresses=["192.0.2.200", "192.0.2.201", "198.51.100.7"])
    assert "srv2 has several addresses in 192.0.2.0/24" in refused(room, POOL).message


def test_a_server_that_has_not_told_its_addresses_is_named(room: Room) -> None:
    room.hear("srv2")
    told = refused(room, POOL)
    assert "srv2 has not told its addresses" in told.message and told.remedy


def test_a_pool_without_a_cluster_is_told_whole_and_has_no_key(room: Room) -> None:
    sent = apply(room, {"name": "lab", "servers": ["srv3", "srv4"], "clustered": False})
    assert sent["srv3"] == {"name": "lab", "servers": ["srv3", "srv4"], "clustered": False}
    assert servers.find(room.store, "srv3")["pool"] == "lab" and pool_secrets.find(room.store, "lab") is None
    joined(room, "srv3", "srv4", pool="lab")
    sent = apply(room, {"name": "lab", "description": "x", "servers": ["srv4"]})
    assert sent == {"srv3": {"name": "lab", "state": "absent"}, "srv4": {"name": "lab", "servers": ["srv4"], "clustered": False, "description": "x"}}
    (shown,) = server_pools.all(room.store)
    assert (shown["name"], shown["state"], shown["clustered"], shown["failover"]) == ("lab", "not_clustered", False, None)


def test_a_pool_is_shown_with_its_lease_and_what_a_failover_takes(room: Room) -> None:
    apply(room, {**POOL, "untested_fencing": True})
    joined(room, "srv1", "srv2", measured={"amiss": ["corosync.service does not run"]})
    room.tell("srv1", "repository", {"name": "fs"}, measured={"lease": 90})
    sees(room, "srv1")
    shown = server_pools.find(room.store, "rack1")
    assert shown["failover"] == {"noticed": 6.6, "fenced": 5.0, "lease": 90, "start": 3.0, "expected": 93.0}
    assert server_pools.failover({"fencing": [], "watchdog": {"timeout": 10}}, None)["fenced"] == 20.0, "nobody cuts: its watchdog"
    assert {one["kind"] for one in shown["problems"]} == {"not_as_asked", "untested_fencing"} and shown["state"] == "problems"
    assert shown["spec"]["file_system"] == "fs" and [one["server"] for one in shown["servers"]] == ["srv1", "srv2"]
