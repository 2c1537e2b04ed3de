"""Spare room: a new VM never takes what its pool needs to bear a loss, and the refusal says so for each server."""

from __future__ import annotations

import dataclasses

from domus_core.errors import NoCapacity
from domus_core.planning.capacity import Demand, Server
from domus_core.planning.loss import unbearable
from domus_core.planning.placement import Placement, Planner, choose_destination, place_all
from domus_core.planning.spare import SparePlanner
from hypothesis import given
from hypothesis import strategies as st

from .clusters import clusters, server, vm


def pool(*servers: Server, spare: int = 1, name: str = "rack1") -> list[Server]:
    return [dataclasses.replace(one, pool=name, spare_servers=spare) for one in servers]


def placed(vms: list[Demand], servers: list[Server]) -> dict[str, str]:
    found = place_all(vms, servers, SparePlanner)
    return {name: one.server for name, one in found.items() if isinstance(one, Placement)}


def refused(one: Demand, servers: list[Server]) -> str:
    error = place_all([one], servers, SparePlanner)[one.name]
    assert isinstance(error, NoCapacity)
    return error.message


def test_two_servers_that_keep_one_to_spare_take_what_one_of_them_bears() -> None:
    servers = pool(server("a", vm("a1", 8)), server("b", vm("b1", 4)))
    assert placed([vm("new", 4)], servers) == {"new": "id-b"}
    told = refused(vm("new", 5), servers)
    assert "a: room is kept for the loss of a server: without a there is no place for 1 VMs, vm " in told
    assert "b: room is kept for the loss of a server: without b there is no place for 1 VMs, vm " in told


def test_without_a_policy_all_room_is_given() -> None:
    servers = pool(server("a", vm("a1", 8)), server("b", vm("b1", 4)), spare=0)
    assert placed([vm("new", 12)], servers) == {"new": "id-b"}


def test_each_vm_of_a_batch_leaves_less_for_those_after_it() -> None:
    servers = pool(server("a"), server("b"), server("c"), spare=2)
    found = placed([vm(f"vm{number}", 4) for number in range(5)], servers)
    assert len(found) == 4, "one server must be able to bear them all"


def test_a_pool_is_no_spare_room_for_another() -> None:
    servers = [*pool(server("a", vm("a1", 10)), server("b", vm("b1", 6))), *pool(server("c"), spare=0, name="rack2")]
    assert placed([vm("new", 1)], servers) == {"new": "id-c"}
    told = refused(vm("new", 17), servers)
    assert "c: 16 GiB of memory free, 17 GiB needed" in told


def test_another_server_of_the_pool_does_where_the_first_would_spend_the_room() -> None:
    """Were it on a, and a lost, a1 would take the room on b that it alone may have."""
    ssd = frozenset({"ssd"})
    a, b = server("a", vm("a1", 7), memory=64 << 30, tags=ssd), server("b", vm("b1", 5), tags=ssd)
    servers = pool(a, b, server("c", vm("c1", 10), memory=20 << 30))
    assert placed([vm("new", 5, server_tags=ssd)], servers) == {"new": "id-b"}
    assert placed([vm("new", 5, server_tags=ssd)], pool(*servers, spare=0)) == {"new": "id-a"}


def test_who_leaves_a_server_may_use_the_room() -> None:
    servers = pool(server("a", vm("a1", 8)), server("b", vm("b1", 8)))
    assert choose_destination(vm("a1", 8), servers, "id-a", {}).server == "id-b"


@given(clusters(), st.integers(1, 2), st.lists(st.integers(1, 6), max_size=6))
def test_what_was_placed_can_be_borne_and_nothing_else_differs(servers: list[Server], spare: int, sizes: list[int]) -> None:
    vms = [vm(f"new{number}", size) for number, size in enumerate(sizes)]
    kept = pool(*servers, spare=spare)
    found = placed(vms, kept)
    after = [dataclasses.replace(one, vms=(*one.vms, *(each for each in vms if found.get(each.name) == one.id))) for one in kept]
    assert not found or unbearable(after, spare) is None
    with_it, without = (place_all(vms, pool(*servers, spare=0), planners) for planners in (SparePlanner, Planner))
    assert {name: str(one) for name, one in with_it.items()} == {name: str(one) for name, one in without.items()}
