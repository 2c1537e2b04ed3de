"""What a policy would do with what the manager knows, and what the loss of a server would mean; nothing moves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs.balancing import show_balance, show_loss
from domus_controller.store import jobs, server_states, servers, statistics
from domus_core.model.policy import PolicySpec

from tests.support.manager_room import Room

GIB = 1 << 30
PORT = {"name": "eth0", "kind": "physical", "link": True, "speed": 1000, "mac": "02:00:00:00:00:01", "wakes": True}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2", "srv3"))
    made.hear(memory=17 * GIB, interfaces=[PORT])
    yield made
    made.close()


def add(room: Room, server: str, name: str, gib: int = 2, state: str = "running", **more: Any) -> str:
    spec = {"name": name, "memory": gib * GIB, "cpus": 1, "disks": [], "nics": [], "cdroms": [], **more}
    id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    room.tell(server, "vm", spec, recorded=spec, state=state, running=True if state == "running" else None, id=id, site="default")
    return id


def planned(room: Room, **policy: Any) -> dict[str, Any]:
    (pool,) = show_balance(room.store, PolicySpec(**policy))
    return pool


def test_an_uneven_site_is_evened_out(room: Room) -> None:
    for number in range(6):
        add(room, "srv1", f"vm{number}")
    pool = planned(room, mode="drs", most_moves=8)
    assert len(pool["moves"]) == 4 and {one["source"] for one in pool["moves"]} == {"srv1"}
    assert {one["server"] for one in pool["moves"]} == {"srv2", "srv3"} and pool["after"] < pool["before"]
    assert pool["moves"][0]["id"] == str(uuid.uuid5(uuid.NAMESPACE_DNS, pool["moves"][0]["vm"])) and "of srv1 is used" in pool["moves"][0]["reason"]
    assert len(planned(room, mode="drs")["moves"]) == 4 and room.agents.submitted == []


def test_what_does_not_run_and_what_needs_what_others_lack_stays(room: Room) -> None:
    room.tell("srv1", "network", {"name": "lan", "mode": "isolated"})
    for number in range(3):
        add(room, "srv1", f"off{number}", state="stopped")
        add(room, "srv1", f"lan{number}", nics=[{"name": "eth0", "network": "lan"}])
    assert planned(room, mode="drs")["moves"] == []


def test_a_disk_on_a_servers_own_storage_goes_nowhere_by_itself(room: Room) -> None:
    """Every server has a repository of that name, and only this one has the disk in it."""
    for server in ("srv1", "srv2", "srv3"):
        room.tell(server, "repository", {"name": "local", "path": "/srv/local"}, measured={"shared": False})
        room.tell(server, "repository", {"name": "nas", "path": "/srv/nas"}, measured={"shared": True})
    for number in range(3):
        add(room, "srv1", f"own{number}", disks=[{"name": "root", "virtual_disk": f"local/own{number}"}])
    assert planned(room, mode="drs")["moves"] == []
    told = show_loss(room.store, servers.find(room.store, "srv1"))
    assert not told["possible"] and "shared repository local" in told["moves"][0]["errors"][0]["message"]
    add(room, "srv1", "far", disks=[{"name": "root", "virtual_disk": "nas/far"}])
    moves = show_loss(room.store, servers.find(room.store, "srv1"))["moves"]
    assert {one["vm"]: one["possible"] for one in moves}["far"]


def test_a_server_in_maintenance_takes_no_part(room: Room) -> None:
    for number in range(6):
        add(room, "srv1", f"vm{number}")
    server_states.set_maintenance(room.store, room.servers["srv2"], True, "", "ann")
    pool = planned(room, mode="drs")
    assert pool["servers"] == ["srv1", "srv3"] and {one["server"] for one in pool["moves"]} == {"srv3"}


def test_what_vms_use_counts(room: Room) -> None:
    ids = [add(room, "srv1", f"a{number}") for number in range(2)] + [add(room, server, f"b{server}") for server in ("srv2", "srv2", "srv3")]
    add(room, "srv3", "c")
    for minute, at in enumerate((room.store.now() - 120, room.store.now())):
        for name, id in room.servers.items():
            vms = {uuid: {"cpu_time_ns": minute * 200 * 10**9, "net_received": 0, "net_sent": 0} for uuid in ids[:2] if name == "srv1"}
            statistics.put(room.store, id, {"at": at, "vms": vms, "host": {}})
    quiet = planned(room, mode="drs", cpu_threshold=90)
    busy = planned(room, mode="drs", cpu_threshold=60)
    assert quiet["moves"] == [] and [(one["vm"], one["source"]) for one in busy["moves"]] == [("a0", "srv1")]
    assert busy["uncounted"] == []


def test_a_resource_that_not_every_server_tells_does_not_count_and_that_is_told(room: Room) -> None:
    room.hear("srv3", memory=17 * GIB, interfaces=[])
    assert planned(room, mode="drs")["uncounted"] == ["network"]


def test_saving_power_empties_the_least_loaded(room: Room) -> None:
    add(room, "srv1", "large", 6)
    add(room, "srv2", "small", 1)
    pool = planned(room, mode="dpm")
    assert [(one["action"], one["server"]) for one in pool["switches"]] == [("power off", "srv3")]
    assert "3 servers are to stay on" in planned(room, mode="dpm", least_on=3)["waiting"]
    room.hear("srv3", memory=17 * GIB, interfaces=[{**PORT, "wakes": False}])
    assert [one["server"] for one in planned(room, mode="dpm")["switches"]] == ["srv2"], "of what is not seen to wake again none sleeps"


def test_who_sleeps_takes_part_and_is_woken_when_it_is_needed(room: Room) -> None:
    server_states.set_powered_off(room.store, room.servers["srv3"], {"by": "policy", "reason": "", "policy": True})
    server_states.set_powered_off(room.store, room.servers["srv2"], {"by": "ann", "reason": "", "policy": False})
    room.store.write(lambda connection: connection.execute("UPDATE servers SET state = 'off' WHERE name != 'srv1'").rowcount)
    for number in range(7):
        add(room, "srv1", f"vm{number}")
    pool = planned(room, mode="dpm")
    assert pool["servers"] == ["srv1", "srv3"], "who was switched off by a person is left alone"
    assert [(one["action"], one["server"]) for one in pool["switches"]] == [("wake", "srv3")] and pool["moves"] == []


def test_what_if_a_server_dies(room: Room) -> None:
    add(room, "srv1", "large", 12)
    add(room, "srv1", "small", 1, state="stopped")
    add(room, "srv2", "there", 8)
    server = {"id": room.servers["srv1"], "name": "srv1"}
    lost = show_loss(room.store, server)
    assert lost["possible"] and [(one["vm"], one["server"]) for one in lost["moves"]] == [("large", "srv3"), ("small", "srv2")]
    add(room, "srv3", "too", 8)
    lost = show_loss(room.store, server)
    assert not lost["possible"] and "is lost" in lost["moves"][0]["errors"][0]["message"]


def test_a_vm_on_its_way_stays_and_its_room_is_taken_where_it_gets(room: Room) -> None:
    for number in range(4):
        add(room, "srv1", f"vm{number}", 3)
    add(room, "srv1", "going", 4)
    free = planned(room, mode="drs", most_moves=1)["moves"][0]
    assert (free["vm"], free["server"]) == ("going", "srv2")
    options = {"vm": "x", "server": room.servers["srv2"], "migration": {}}
    job = {"id": str(uuid.uuid4()), "kind": "migrate", "created_by": "ann", "reason": "", "servers": list(room.servers.values())[:2], "options": options}
    room.store.write(lambda connection: jobs.create(connection, {**job, "objects": [{"kind": "vm", "name": "going"}]}))
    moves = planned(room, mode="drs")["moves"]
    assert moves and "going" not in {one["vm"] for one in moves} and moves[0]["server"] == "srv3"
    server_states.set_maintenance(room.store, room.servers["srv2"], True, "", "ann")
    assert "going" not in {one["vm"] for one in planned(room, mode="drs")["moves"]}, "wherever it goes"
