"""Servers are switched off in order and woken, by a person as by a policy; what is seen decides, not what was told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs import power_run
from domus_controller.jobs.power_run import switch
from domus_controller.store import jobs, server_states, servers
from domus_core.errors import Conflict, DriverError, NotFound, Unreachable

from tests.support.manager_room import Room
from tests.support.movers import Movers, Power, add

CARD = {"name": "eth0", "kind": "physical", "link": True, "speed": 1000, "mac": "02:00:00:00:00:01", "wakes": True}
GIB = 1 << 30


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2", "srv3"))
    made.hear(interfaces=[CARD])
    yield made
    made.close()


@pytest.fixture
def power(room: Room) -> Power:
    Movers(room)
    return Power(room)


def item(room: Room, name: str = "srv1") -> dict[str, Any]:
    return servers.find(room.store, name)


def do(room: Room, name: str, on: bool, **more: Any) -> dict[str, Any]:
    return switch(room.jobs, room.store, item(room, name), on=on, by="ann", **more)


def in_pool(room: Room, *names: str) -> None:
    """These servers tell of a clustered pool whose device answered for all of them."""
    tests = [{"device": "ipmi", "server": f"{name}.example", "at": 1.0, "state": "on", "problem": None, "cut": False} for name in names]
    told = {"pool": "rack1", "quorate": True, "members": {f"{name}.example": "online" for name in names}, "fence_devices": {"ipmi": []}, "vms": {}}
    for name in names:
        room.hear(name, interfaces=[{**CARD, "wakes": False}], server_pool={**told, "server": f"{name}.example", "fence_tests": tests, "problems": []})


def test_a_server_is_switched_off_and_its_silence_alarms_nobody(room: Room, power: Power) -> None:
    ended = room.ended(do(room, "srv1", False, reason="holidays"))
    assert (ended["state"], ended["changed"], ended["kind"]) == ("succeeded", True, "power_off")
    assert power.told == [("off", "srv1", "holidays")]
    there = item(room)
    assert there["state"] == "off" and there["powered_off"] | {"by": "ann", "reason": "holidays", "policy": False} == there["powered_off"]


def test_it_is_refused_before_anything_is_told(room: Room, power: Power) -> None:
    add(room, "web", "srv1")
    with pytest.raises(Conflict, match="VMs run on it: web"):
        do(room, "srv1", False)
    room.store.write(lambda connection: connection.execute("UPDATE servers SET state = 'offline' WHERE name = 'srv2'").rowcount)
    with pytest.raises(Conflict, match="is offline"):
        do(room, "srv2", False)
    with pytest.raises(Conflict, match="is on: it is heard"):
        do(room, "srv3", True)
    assert power.told == [] and jobs.page(room.store)["items"] == []


def test_a_server_that_a_vm_is_on_its_way_to_stays_on(room: Room, power: Power) -> None:
    movers = Movers(room)
    movers.at_once = False
    add(room, "web", "srv2")
    job = room.jobs.migrate("web", "srv1", {}, by="ann")
    with pytest.raises(Conflict, match=r"job .* \(migrate\) works with it"):
        do(room, "srv1", False)
    movers.finish(room.until(lambda: next(iter(room.agents.operations), None)))
    room.ended(job)


def test_an_agent_that_refuses_leaves_it_as_it_was(room: Room, power: Power) -> None:
    power.refuses["srv1"] = Conflict("VMs run here: unknown", object="server srv1")
    ended = room.ended(do(room, "srv1", False))
    assert ended["state"] == "failed" and ended["error"]["message"] == "VMs run here: unknown"
    assert (item(room)["state"], item(room)["powered_off"]) == ("running", None)


def test_an_agent_that_is_too_old_is_named(room: Room, power: Power) -> None:
    power.refuses = dict.fromkeys(room.servers, NotFound("there is no such method", object="method power_off"))
    ended = room.ended(do(room, "srv1", False))
    assert (ended["error"]["code"], item(room)["powered_off"]) == ("unsupported", None) and "older than this manager" in ended["error"]["message"]
    in_pool(room, "srv1", "srv2")
    off(room)
    ended = room.ended(do(room, "srv1", True))
    assert ended["error"]["message"].count("older than this manager") == 3, "the device, and two neighbours"


def test_whether_it_goes_is_seen_even_when_the_answer_got_lost(room: Room, power: Power) -> None:
    power.refuses["srv1"] = Unreachable("did not answer in time")
    job = do(room, "srv1", False)
    room.until(lambda: power.told)
    assert room.state(job) == "running" and item(room)["powered_off"]
    power.falls_silent("srv1")
    assert room.ended(job)["state"] == "succeeded"


def test_one_that_does_not_end_is_told_and_is_used_again(room: Room, power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    power.at_once = False
    monkeypatch.setattr(power_run, "OFF_SECONDS", 0.1)
    ended = room.ended(do(room, "srv1", False))
    assert ended["state"] == "failed" and "still reports" in ended["error"]["message"]
    assert (item(room)["state"], item(room)["powered_off"]) == ("running", None)


def test_what_was_told_is_not_cancelled(room: Room, power: Power) -> None:
    power.at_once = False
    job = do(room, "srv1", False)
    room.until(lambda: power.told)
    room.jobs.cancel(job["id"], by="ben")
    power.falls_silent("srv1")
    assert room.ended(job)["state"] == "succeeded" and item(room)["state"] == "off"


def off(room: Room, name: str = "srv1") -> None:
    server_states.set_powered_off(room.store, room.servers[name], {"by": "ann", "reason": "", "policy": False})
    room.store.write(lambda connection: connection.execute("UPDATE servers SET state = 'off' WHERE name = ?", (name,)).rowcount)


def test_without_a_pool_it_is_woken_by_its_network_card(room: Room, power: Power) -> None:
    off(room)
    job = do(room, "srv1", True)
    room.until(lambda: len(power.told) == 2)
    assert sorted(power.told) == [("on", "srv2", [CARD["mac"]]), ("on", "srv3", [CARD["mac"]])]
    room.hear("srv1", interfaces=[CARD])
    assert room.ended(job)["state"] == "succeeded" and (item(room)["state"], item(room)["powered_off"]) == ("running", None)


def test_in_a_pool_a_member_has_its_device_do_it(room: Room, power: Power) -> None:
    in_pool(room, "srv1", "srv2")
    off(room)
    job = do(room, "srv1", True)
    room.until(lambda: power.told)
    assert power.told == [("on", "srv2", "srv1.example")]
    room.hear("srv1")
    ended = room.ended(job)
    lines = [event["data"].get("line") for event in jobs.events(room.store, ended["id"])]
    assert "ipmi has switched it on" in lines


def test_when_no_device_works_the_card_is_tried_and_at_last_it_is_said(room: Room, power: Power) -> None:
    in_pool(room, "srv1", "srv2")
    off(room)
    power.refuses = {name: DriverError("no route") for name in ("srv2", "srv3")}
    ended = room.ended(do(room, "srv1", True))
    assert ended["state"] == "failed" and "can not be woken: no route; srv2: no route; srv3: no route" in ended["error"]["message"]
    assert item(room)["state"] == "off", "nothing was switched"


def test_one_that_was_switched_on_and_is_not_heard_alarms(room: Room, power: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    off(room)
    monkeypatch.setattr(power_run, "ON_SECONDS", 0.1)
    ended = room.ended(do(room, "srv1", True))
    assert ended["state"] == "failed" and "is not heard" in ended["error"]["message"] and item(room)["powered_off"] is None


def test_after_a_restart_of_the_manager_nobody_is_told_twice_and_nothing_is_begun(room: Room, power: Power) -> None:
    power.at_once = False
    job = do(room, "srv1", False)
    room.until(lambda: power.told)
    room.jobs.stop()
    waiting = {"kind": "power_off", "created_by": "ann", "reason": "", "servers": [room.servers["srv2"]], "options": {}, "id": "queued"}
    room.store.write(lambda connection: jobs.create(connection, {**waiting, "objects": [{"kind": "server", "name": "srv2"}]}))
    room.restart()
    assert room.ended({"id": "queued"})["error"]["code"] == "interrupted"
    power.falls_silent("srv1")
    assert room.ended(job)["state"] == "succeeded" and len(power.told) == 1
