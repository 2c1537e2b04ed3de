"""Evacuation with the real store and fake agents: shown first, refused as a whole, a few at a time, and taken up again after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs.evacuation import evacuate
from domus_controller.jobs.migrate_run import MigrateRun
from domus_controller.store import jobs, objects, server_states, servers
from domus_core.errors import Conflict, NoCapacity, NotFound, Refused

from tests.support.agent_process import wait_until
from tests.support.manager_room import ENDED, Room
from tests.support.movers import Movers, add


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2", "srv3"))
    made.hear()
    yield made
    made.close()


@pytest.fixture
def movers(room: Room) -> Movers:
    return Movers(room)


def item(room: Room, name: str = "srv1") -> dict[str, Any]:
    return servers.find(room.store, name)


def there(room: Room, server: str) -> set[str]:
    return {vm["name"] for vm in objects.page(room.store, "vm", filters={"server": server})["items"]}


def test_a_server_is_emptied_of_what_runs(room: Room, movers: Movers) -> None:
    for number, name in enumerate("abcd"):
        add(room, name, "srv1", 512 * (number + 1))
    add(room, "stopped", "srv1", state="stopped")
    shown = room.jobs.plan_evacuation(item(room), {})
    assert shown["possible"] and [move["vm"] for move in shown["moves"]] == ["d", "c", "b", "a"], "the largest first"
    assert all("least full" in move["reason"] for move in shown["moves"])
    assert movers.begun == [], "it is only shown"
    ended = room.ended(evacuate(room.jobs, item(room), by="ann"))
    assert (ended["state"], ended["error"], ended["changed"]) == ("succeeded", None, True)
    assert there(room, "srv1") == {"stopped"} and sorted(there(room, "srv2") | there(room, "srv3")) == list("abcd")
    assert {one["name"]: one["server"] for one in ended["result"]["objects"]}.keys() == set("abcd")
    lines = [event["data"].get("line", "") for event in jobs.events(room.store, ended["id"], 0)]
    assert any(line.startswith("vm d moves to") for line in lines) and any("(4 done)" in line for line in lines)


def test_it_is_refused_as_a_whole_before_anything_moves(room: Room, movers: Movers) -> None:
    add(room, "a", "srv1")
    add(room, "big", "srv1", 9000)
    add(room, "tagged", "srv1", server_tags=["ssd"])
    server_states.set_maintenance(room.store, room.servers["srv3"], True, "", "ann")
    with pytest.raises(Refused) as raised:
        evacuate(room.jobs, item(room), by="ann")
    told = str(raised.value)
    assert "vm big server: no server can take it: srv1: it is there now; srv2: " in told and "srv3: is in maintenance" in told
    assert "vm tagged" in told and "srv2: lacks tag ssd" in told
    assert movers.begun == [] and jobs.page(room.store)["items"] == []


def test_what_the_agents_refuse_goes_elsewhere(room: Room, movers: Movers) -> None:
    add(room, "a", "srv1")
    movers.bad.add(("a", "srv2"))
    assert [move["server"] for move in room.jobs.plan_evacuation(item(room), {})["moves"]] == ["srv3"]
    movers.bad.add(("a", "srv3"))
    move = room.jobs.plan_evacuation(item(room), {})["moves"][0]
    assert not move["possible"] and "srv2, srv3: can not take it: virtualization: the destination can not run this type of VM" in move["errors"][0]["message"]


def test_at_most_so_many_move_at_once_and_anti_affinity_is_kept(room: Room, movers: Movers) -> None:
    movers.at_once = False
    for name in "abc":
        add(room, name, "srv1")
    add(room, "x", "srv1", anti_affinity=["g"])
    add(room, "y", "srv2", anti_affinity=["g"])
    job = evacuate(room.jobs, item(room), by="ann", at_once=2)
    for _ in range(4):
        room.until(lambda: any(one["state"] == "running" for one in room.agents.operations.values()))
        open_ones = [id for id, one in list(room.agents.operations.items()) if one["state"] == "running"]
        assert len(open_ones) <= 2
        movers.finish(open_ones[0])
    assert room.ended(job)["state"] == "succeeded"
    assert "x" in there(room, "srv3")


def test_one_that_fails_stays_and_the_others_go_on(room: Room, movers: Movers) -> None:
    for name in "abc":
        add(room, name, "srv1")
    movers.fails.add("b")
    ended = room.ended(evacuate(room.jobs, item(room), by="ann"))
    assert (ended["state"], ended["error"]["message"], ended["changed"]) == ("failed", "broke off", True)
    assert there(room, "srv1") == {"b"}


def test_a_cancelled_one_leaves_what_has_moved(room: Room, movers: Movers) -> None:
    movers.at_once = False
    for name in "abc":
        add(room, name, "srv1")
    job = evacuate(room.jobs, item(room), by="ann", at_once=1)
    first = room.until(lambda: next(iter(room.agents.operations), None))
    movers.finish(first)
    room.until(lambda: len(room.agents.operations) == 2)
    room.jobs.cancel(job["id"], by="ben")
    ended = room.ended(job)
    assert ended["state"] == "cancelled" and "1 VMs had moved" in ended["error"]["message"]
    assert len(there(room, "srv1")) == 2 and len(room.agents.operations) == 2
    assert all(one["state"] in ENDED for one in jobs.parts_of(room.store, job["id"]))


def test_it_is_taken_up_again_after_a_restart(room: Room, movers: Movers) -> None:
    movers.at_once = False
    for name in "abc":
        add(room, name, "srv1")
    job = evacuate(room.jobs, item(room), by="ann", at_once=1)
    first = room.until(lambda: next(iter(room.agents.operations), None))
    movers.finish(first)
    room.until(lambda: len(room.agents.operations) == 2)
    movers.at_once = True
    room.restart()
    for id, one in list(room.agents.operations.items()):
        if one["state"] == "running":
            movers.finish(id)
    assert room.ended(job)["state"] == "succeeded"
    assert there(room, "srv1") == set() and len(movers.begun) == 3, "none moved twice"


def reasons(staying: list[dict[str, Any]]) -> dict[str, str]:
    return {one["vm"]: one["reason"] for one in staying}


def test_what_does_not_run_stays_and_is_named_unless_it_is_asked_for(room: Room, movers: Movers) -> None:
    for name, state in (("a", "running"), ("off", "stopped"), ("bound", "stopped"), ("saved", "suspended")):
        add(room, name, "srv1", state=state)
    movers.bad.update({("bound", "srv2"), ("bound", "srv3")})
    shown = room.jobs.plan_evacuation(item(room), {})
    assert shown["possible"] and [move["vm"] for move in shown["moves"]] == ["a"]
    assert all("--stopped" in reasons(shown["staying"])[name] for name in ("off", "bound")) and "is suspended" in reasons(shown["staying"])["saved"]
    shown = room.jobs.plan_evacuation(item(room), {}, stopped=True)
    assert shown["possible"] and [move["vm"] for move in shown["moves"]] == ["a", "off"]
    assert "virtualization: the destination can not run this type of VM" in reasons(shown["staying"])["bound"]
    ended = room.ended(evacuate(room.jobs, item(room), by="ann", stopped=True))
    assert (ended["state"], ended["error"]) == ("succeeded", None) and there(room, "srv1") == {"bound", "saved"}
    assert reasons(ended["result"]["staying"]).keys() == {"bound", "saved"}
    lines = [event["data"].get("line", "") for event in jobs.events(room.store, ended["id"], 0)]
    assert any(line.startswith("vm bound stays: is stopped, and can not move: ") for line in lines)


def test_what_is_stopped_takes_no_room_from_what_runs(room: Room, movers: Movers) -> None:
    add(room, "large", "srv1", 6000, state="stopped")
    add(room, "small", "srv1", 3000)
    for server in ("srv2", "srv3"):
        add(room, f"there-{server}", server, 1000)
    server_states.set_maintenance(room.store, room.servers["srv3"], True, "", "ann")
    shown = room.jobs.plan_evacuation(item(room), {}, stopped=True)
    assert shown["possible"] and [move["vm"] for move in shown["moves"]] == ["small"]
    assert "no server can take it" in reasons(shown["staying"])["large"]


def test_a_stopped_vm_whose_move_fails_fails_the_evacuation(room: Room, movers: Movers) -> None:
    add(room, "off", "srv1", state="stopped")
    movers.fails.add("off")
    ended = room.ended(evacuate(room.jobs, item(room), by="ann", stopped=True))
    assert (ended["state"], ended["error"]["message"], ended["result"]["staying"]) == ("failed", "broke off", [])
    again = room.ended(room.jobs.relaunch(ended["id"], by="ann"))
    assert jobs.details(room.store, again["id"])["options"]["stopped"] is True, "it is done as it was asked for"


def test_a_vm_for_which_no_server_is_named_goes_where_there_is_room(room: Room, movers: Movers) -> None:
    add(room, "a", "srv1")
    add(room, "full", "srv2", 7000)
    ended = room.ended(room.jobs.migrate("a", None, {}, by="ann"))
    assert ended["state"] == "succeeded" and there(room, "srv3") == {"a"} and "least full" in ended["reason"]
    add(room, "huge", "srv1", 9000)
    with pytest.raises(NoCapacity) as raised:
        room.jobs.migrate("huge", None, {}, by="ann")
    assert "srv2: " in str(raised.value)
    with pytest.raises(NotFound):
        room.jobs.migrate("nobody", None, {}, by="ann")


def test_a_server_that_is_named_is_still_bound_by_its_rules(room: Room, movers: Movers) -> None:
    add(room, "a", "srv1", anti_affinity=["db"])
    add(room, "b", "srv2", anti_affinity=["db"])
    add(room, "full", "srv3", 9000)
    with pytest.raises(Conflict, match="anti-affinity"):
        room.jobs.migrate("a", "srv2", {}, by="ann")
    server_states.set_maintenance(room.store, room.servers["srv3"], True, "", "ann")
    told = room.jobs.check_migration("a", "srv3", {})
    assert not told["possible"] and told["plan"] is None and "maintenance" in told["errors"][0]["message"]
    server_states.set_maintenance(room.store, room.servers["srv3"], False, "", "ann")
    assert room.ended(room.jobs.migrate("a", "srv3", {}, by="ann"))["state"] == "succeeded", "who names a server answers for its room"


def test_a_vm_that_is_to_move_to_where_it_is_is_told_so(room: Room, movers: Movers) -> None:
    add(room, "a", "srv1")
    told = room.jobs.check_migration("a", "srv1", {})
    assert not told["possible"] and [error["message"] for error in told["errors"]] == ["is on this server already"]
    with pytest.raises(Conflict, match="is on this server already"):
        room.jobs.migrate("a", "srv1", {}, by="ann")


def test_a_move_that_was_begun_before_the_manager_was_killed_is_not_begun_again(room: Room, movers: Movers) -> None:
    """The job may still be queued in the store: what the agent was told would differ the second time, and be refused."""
    add(room, "a", "srv1")
    movers.at_once = False
    job = room.jobs.migrate("a", "srv2", {}, by="ann")
    wait_until(lambda: job["id"] in room.agents.operations)
    run = MigrateRun(room.jobs._tools, jobs.details(room.store, job["id"]), frozenset())
    assert run._submit()["state"] == "running"
    assert len(movers.begun) == 1, "the destination is not asked to make ready once more"
    movers.finish(job["id"])
    assert room.ended(job)["state"] == "succeeded"
