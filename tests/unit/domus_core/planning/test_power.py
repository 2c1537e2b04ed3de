"""Power management: servers are emptied and switched off while the rest carries the load, and woken when it does not."""

from __future__ import annotations

import dataclasses
from typing import Any

from domus_core.planning.balancing import Aims
from domus_core.planning.capacity import Server
from domus_core.planning.cluster_state import Cluster
from domus_core.planning.loss import unbearable
from domus_core.planning.placement import rule_broken, separated_from
from domus_core.planning.power import OFF, POWER_OFF, WAKE, Round, Switch, plan_power
from hypothesis import given
from hypothesis import strategies as st

from .clusters import clusters, dimensions, homes, moved, server, vm

LIMITS = {"memory": 0.8, "vcpus": 0.8}
AIMS = Aims(most_moves=1000)


def planned(servers: list[Server], asleep: set[str] = frozenset(), aims: Aims = AIMS, **more: Any) -> Round:  # type: ignore[assignment]
    return plan_power(servers, asleep, dimensions(servers, LIMITS), aims, **more)


def test_the_least_loaded_server_is_emptied_onto_the_fullest_and_switched_off() -> None:
    servers = [server("a", vm("a1", 2), vm("a2", 2)), server("b", vm("b1", 2)), server("c", vm("c1", 6))]
    found = planned(servers)
    assert [(move.vm, move.to) for move in found.moves] == [("b1", "id-c")]
    assert found.switches == (Switch(POWER_OFF, "id-b", "its VMs have room on the others"),)
    assert found.moves[0].reason == "b can be switched off without it"


def test_an_empty_server_is_switched_off_at_once_but_so_many_stay_on() -> None:
    servers = [server("a", vm("a1", 6)), server("b")]
    assert [one.server for one in planned(servers).switches] == ["id-b"]
    assert planned(servers, least_on=2) == Round(waiting="2 servers are to stay on")
    assert planned(servers, may_sleep={"id-a"}).switches == (Switch(POWER_OFF, "id-a", "its VMs have room on the others"),)


def test_no_server_gets_above_its_threshold() -> None:
    servers = [server("a", vm("a1", 10)), server("b", vm("b1", 4))]
    assert "no room for vm b1 below the thresholds" in planned(servers).waiting


def test_a_vm_that_can_not_move_keeps_its_server_on() -> None:
    tagged = vm("fast", server_tags=frozenset({"ssd"}))
    servers = [server("a", tagged, tags=frozenset({"ssd"})), server("b", vm("b1", 2)), server("c", vm("c1", 4))]
    assert [one.server for one in planned(servers).switches] == ["id-b"]
    assert [one.server for one in planned(servers, fixed={"b1", "c1"}).switches] == []


def test_a_server_that_a_misplaced_vm_waits_for_is_not_emptied() -> None:
    """Else it depends on how many moves a round has, where such a VM ends."""
    apart = {"anti_affinity": frozenset({"db"})}
    small = [vm("vm01", 1, 2), *(vm(f"vm{number:02}", 1) for number in (2, 4, 5, 6, 7, 8, 9, 10))]
    servers = [
        server("srv0", *small, vm("vm03", 6, server_tags=frozenset({"ssd"}), **apart)),
        server("srv1"),
        server("srv2", vm("vm00", 1, **apart), tags=frozenset({"ssd"})),
    ]
    assert settled(servers, set(), Aims(1)) == settled(servers, set(), AIMS)
    assert "id-srv2" not in settled(servers, set(), AIMS)[1]


def test_room_for_the_loss_of_a_server_keeps_one_on() -> None:
    servers = [server(name, vm(f"{name}1", 4, 2)) for name in "abc"]
    assert len(planned(servers).switches) == 1
    kept = planned(servers, aims=Aims(1000, spare_servers=1))
    assert len(kept.switches) == 1 and unbearable(servers[1:], 1) is None
    pair = servers[:2]
    assert planned(pair, aims=Aims(1000, spare_servers=1)).waiting == "a is the least loaded, but without b there is no place for 2 VMs, vm a1 first"


def test_a_server_is_woken_when_one_is_too_full_and_relieves_it_afterwards() -> None:
    servers = [server("a", *(vm(f"a{number}", 2) for number in range(7))), server("b", closed=OFF)]
    found = planned(servers, {"id-b"})
    assert found.switches == (Switch(WAKE, "id-b", "a is above the threshold of memory"),)
    awake = [servers[0], server("b")]
    assert {move.to for move in planned(awake).moves} == {"id-b"}


def test_no_server_is_woken_that_would_not_help() -> None:
    huge = [server("a", vm("a1", 14)), server("b", closed=OFF)]
    assert planned(huge, {"id-b"}).switches == (), "its only VM would be as much too much for the other"
    tagged = vm("fast", server_tags=frozenset({"ssd"}))
    servers = [server("a", tagged), server("b", closed=OFF), server("c", closed=OFF, tags=frozenset({"ssd"}))]
    assert planned(servers, {"id-b", "id-c"}).switches == (Switch(WAKE, "id-c", "vm fast may not be on a: that lacks tag ssd"),)
    assert planned(servers, {"id-b", "id-c"}, fixed={"fast"}).switches == ()


def test_a_server_is_woken_when_no_loss_can_be_borne() -> None:
    servers = [server("a", vm("a1", 12)), server("b", vm("b1", 12)), server("c", closed=OFF)]
    found = planned(servers, {"id-c"}, Aims(1000, spare_servers=1))
    assert [(one.action, one.server) for one in found.switches] == [(WAKE, "id-c")] and "there is no place for 1 VMs" in found.switches[0].reason
    assert "no server is asleep" in planned(servers[:2], aims=Aims(1000, spare_servers=1)).waiting


def test_at_most_so_many_moves_and_the_switch_comes_with_the_last() -> None:
    servers = [server("a", vm("a1", 6, 4)), server("b", vm("b1", 1), vm("b2", 1), vm("b3", 1))]
    first = planned(servers, aims=Aims(2))
    assert (len(first.moves), first.switches) == (2, ())
    second = planned(moved(servers, first.moves), aims=Aims(2))
    assert [move.vm for move in second.moves] == ["b3"] and [one.action for one in second.switches] == [POWER_OFF]


def carried_out(servers: list[Server], asleep: set[str], found: Round, moves: int | None = None) -> tuple[list[Server], set[str]]:
    """What a round makes of the servers; when it is broken off after some moves, nothing is switched."""
    servers = moved(servers, found.moves[:moves])
    for switch in found.switches if moves is None else ():
        asleep = asleep | {switch.server} if switch.action == POWER_OFF else asleep - {switch.server}
        closed = OFF if switch.action == POWER_OFF else None
        servers = [dataclasses.replace(one, closed=closed) if one.id == switch.server else one for one in servers]
    return servers, asleep


def settled(servers: list[Server], asleep: set[str], aims: Aims) -> tuple[dict[str, str], set[str]]:
    """Where it ends, round after round; that it ends is part of it."""
    for _ in range(100):
        found = planned(servers, asleep, aims)
        if not found.moves and not found.switches:
            return homes(servers), asleep
        servers, asleep = carried_out(servers, asleep, found)
    raise AssertionError("it never comes to rest")


@given(clusters(), st.integers(0, 12), st.integers(0, 1))
def test_a_round_that_is_broken_off_is_gone_on_with(servers: list[Server], done: int, spare: int) -> None:
    aims = Aims(1000, spare_servers=spare)
    found = planned(servers, set(), aims)
    broken_off, asleep = carried_out(servers, set(), found, min(done, len(found.moves)))
    assert settled(broken_off, asleep, aims) == settled(servers, set(), aims)


@given(clusters(), st.integers(1, 4))
def test_small_rounds_end_as_a_large_one_does(servers: list[Server], most: int) -> None:
    assert settled(servers, set(), Aims(most)) == settled(servers, set(), AIMS)


def too_full(servers: list[Server], asleep: set[str]) -> set[str]:
    """The servers that are on and above a threshold."""
    cluster = Cluster([one for one in servers if one.id not in asleep], dimensions(servers, LIMITS))
    return {one.id for number, one in enumerate(cluster.servers) if cluster.spread.over(number) is not None}


@given(clusters(), st.integers(0, 1))
def test_no_rule_is_broken_and_what_is_left_carries_the_load(servers: list[Server], spare: int) -> None:
    aims, asleep = Aims(1000, spare_servers=spare), set[str]()
    for _ in range(20):
        found, full = planned(servers, asleep, aims), too_full(servers, asleep)
        for move in found.moves:
            target = next(one for one in servers if one.id == move.to)
            demand = next(one for each in servers for one in each.vms if one.name == move.vm)
            assert target.id not in asleep and rule_broken(demand, target) is None and separated_from(demand, target) is None
            servers = moved(servers, [move])
        servers, asleep = carried_out(servers, asleep, dataclasses.replace(found, moves=()))
        off = {switch.server for switch in found.switches if switch.action == POWER_OFF}
        assert not any(one.vms for one in servers if one.id in off)
        if off:
            assert too_full(servers, asleep) <= full and unbearable([one for one in servers if one.id not in asleep], spare) is None
            assert not any(switch.action == WAKE and switch.server in off for switch in planned(servers, asleep, aims).switches)
