"""CPU groups in the manager: VMs get the baseline of their group, and what changes in a group is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.agents.cpu_groups import look_after, shown
from domus_controller.store import objects
from domus_core.errors import Conflict, NoCapacity

from tests.support.manager_room import Room

EPYC = {"model": "EPYC", "vendor": "AMD", "require": [], "disable": []}
MILAN = {"model": "EPYC-Milan", "vendor": "AMD", "require": ["pku"], "disable": []}
OLD = {"model": "Opteron_G3", "vendor": "AMD", "require": [], "disable": []}
NEHALEM = {"model": "Nehalem", "vendor": "Intel", "require": [], "disable": []}
VM = {"name": "web1", "cpu_group": "rack1"}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2", "srv3"))
    joins(made, "srv1", MILAN)
    joins(made, "srv2", EPYC)
    joins(made, "srv3", NEHALEM, group="rack2")
    yield made
    made.close()


def joins(room: Room, server: str, cpu: Any, group: str = "rack1") -> None:
    """A server tells its CPU, and which group it is in."""
    room.hear(server, guest_cpu=cpu, cpu_model="x", virtualization="kvm")
    room.tell(server, "server", {"name": server, "cpu_group": group})


def asked(room: Room, vm: dict[str, Any]) -> Any:
    """The baseline that an agent is asked for when the VM is applied."""
    room.ended(room.jobs.apply({"vms": [vm]}, by="ann"))
    return room.agents.submitted[-1][1]["document"]["vms"][0].get("cpu_baseline")


def reported(room: Room, baseline: Any, **more: Any) -> None:
    """The VM is there, as it was asked for."""
    spec = {"name": "web1", "cpu_group": "rack1", **({"cpu_baseline": baseline} if baseline else {}), **more}
    room.tell("srv2", "vm", spec, recorded=spec, state="running", measured={"state": "running"}, site="default")


def test_a_vm_that_leaves_its_cpu_open_gets_what_all_of_its_group_have(room: Room) -> None:
    assert asked(room, VM) == EPYC
    assert asked(room, {"name": "web2", "cpu_group": "rack2"}) == {**NEHALEM}
    assert asked(room, {**VM, "name": "web3", "cpu_model": "host-model"}) is None
    assert asked(room, {"name": "web4"}) is None


def test_libvirt_is_asked_once_and_again_when_a_cpu_changes(room: Room) -> None:
    asked(room, VM)
    asked(room, {**VM, "name": "web2"})
    assert len(room.agents.compared) == 1
    joins(room, "srv2", OLD)
    assert asked(room, {**VM, "name": "web3"}) == OLD and len(room.agents.compared) == 2


def test_another_member_is_asked_when_one_does_not_answer(room: Room) -> None:
    room.agents.unreachable.add(room.servers["srv1"])
    assert asked(room, {**VM, "server": "srv2"}) == EPYC and room.agents.compared == [room.servers["srv2"]]


def test_a_vm_that_was_given_a_model_earlier_keeps_it(room: Room) -> None:
    reported(room, None, cpu_model="host-model")
    room.ended(room.jobs.apply({"vms": [VM, {**VM, "name": "web2", "server": "srv2"}]}, by="ann"))
    assert [vm.get("cpu_baseline") for vm in room.agents.submitted[-1][1]["document"]["vms"]] == [None, EPYC]


def test_an_agent_that_is_older_gets_no_baseline(room: Room) -> None:
    for name in ("srv1", "srv2"):
        room.store.write(lambda connection, one=room.servers[name]: connection.execute("UPDATE servers SET version = '0.0.1' WHERE id = ?", (one,)).rowcount)
    assert asked(room, VM) is None


@pytest.mark.parametrize("server", ["srv1", "srv2"], ids=["asked of another server", "asked of its server"])
def test_a_weaker_member_leaves_the_vms_of_the_group_pending_until_they_are_applied(room: Room, server: str) -> None:
    asked(room, {**VM, "server": server})
    reported(room, EPYC)
    look_after(room.store, room.agents)  # type: ignore[arg-type]
    assert objects.drift(room.store)["items"] == []
    joins(room, "srv1", OLD)
    look_after(room.store, room.agents)  # type: ignore[arg-type]
    (found,) = objects.drift(room.store)["items"]
    differences = [(one["field"], one["asked"], one["recorded"]) for one in found["drift"]]
    assert (found["name"], differences) == ("web1", [("cpu_baseline.model", "Opteron_G3", "EPYC")])
    assert objects.page(room.store, "vm")["items"][0]["request"]["state"] == "pending"
    assert asked(room, VM) == OLD
    reported(room, OLD)
    assert objects.drift(room.store)["items"] == []


def test_a_server_that_has_no_cpu_in_common_with_the_group_does_not_join_it(room: Room) -> None:
    with pytest.raises(Conflict) as caught:
        room.jobs.apply({"servers": [{"name": "srv3", "cpu_group": "rack1"}]}, by="ann")
    assert str(caught.value).startswith(
        "server srv3 cpu_group: srv2 (AMD EPYC) and srv1 (AMD EPYC-Milan) and srv3 (Intel Nehalem) have no CPU in common: CPU vendors do not match"
    )
    assert room.ended(room.jobs.apply({"servers": [{"name": "srv3", "cpu_group": "rack3"}]}, by="ann"))["state"] == "succeeded"


def test_a_group_whose_processors_do_not_go_together_is_explained_and_takes_no_vm(room: Room) -> None:
    joins(room, "srv3", NEHALEM)
    with pytest.raises(Conflict) as caught:
        room.jobs.apply({"vms": [VM]}, by="ann")
    assert "its CPU group rack1 has no baseline: srv2 (AMD EPYC)" in str(caught.value)
    (group,) = shown(room.store, room.agents)  # type: ignore[arg-type]
    assert group["baseline"] is None and "vendors do not match" in group["problem"]


def test_that_nobody_answers_is_told_and_not_remembered(room: Room) -> None:
    room.agents.unreachable.update(room.servers.values())
    with pytest.raises(Conflict) as caught:
        room.jobs.apply({"vms": [VM]}, by="ann")
    assert "does not answer" in str(caught.value)
    room.agents.unreachable.clear()
    assert asked(room, VM) == EPYC


def test_the_groups_are_shown(room: Room) -> None:
    joins(room, "srv2", None)
    first, second = shown(room.store, room.agents)  # type: ignore[arg-type]
    assert (first["name"], [one["server"] for one in first["members"]], first["baseline"]) == ("rack1", ["srv1", "srv2"], MILAN)
    assert (second["name"], second["baseline"], second["problem"]) == ("rack2", NEHALEM, None)


def test_a_group_without_servers_takes_no_vm(room: Room) -> None:
    with pytest.raises(NoCapacity):
        room.jobs.apply({"vms": [{**VM, "cpu_group": "rack9"}]}, by="ann")
