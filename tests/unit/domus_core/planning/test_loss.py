"""What if servers die: every VM has a place, or a reason why not."""

from __future__ import annotations

from domus_core.planning.capacity import Server
from domus_core.planning.loss import LOST, plan_loss, unbearable
from domus_core.planning.placement import rule_broken
from hypothesis import given

from .clusters import clusters, server, vm


def test_the_vms_of_a_lost_server_start_elsewhere_the_largest_first() -> None:
    servers = [server("a", vm("small", 1), vm("large", 8)), server("b", vm("there", 6)), server("c")]
    found = plan_loss(servers, {"id-a"})
    assert [(one.vm, one.to) for one in found] == [("large", "id-c"), ("small", "id-b")]
    assert "least full" in found[0].reason


def test_who_has_no_place_is_told_why() -> None:
    (found,) = plan_loss([server("a", vm("large", 12)), server("b", vm("there", 6))], {"id-a"})
    assert found.to is None and found.error is not None
    assert f"a: {LOST}" in found.error.message and "b: 10 GiB of memory free, 12 GiB needed" in found.error.message


def test_a_lost_servers_vms_take_no_room_there_and_cpus_of_the_dead_do_not_matter() -> None:
    servers = [server("a", vm("x"), cpu_group="old"), server("b", vm("y", 16), cpu_group="new"), server("c", cpu_group="new")]
    assert {one.vm: one.to for one in plan_loss(servers, {"id-a", "id-b"})} == {"y": "id-c", "x": None}
    assert {one.vm: one.to for one in plan_loss(servers, {"id-a"})} == {"x": "id-c"}


def test_what_can_not_be_borne_is_told_with_the_servers() -> None:
    servers = [server("a", vm("a1", 9)), server("b", vm("b1", 9)), server("c")]
    assert unbearable(servers, 1) is None
    assert unbearable(servers, 2) == "without a, b there is no place for 1 VMs, vm b1 first"
    assert unbearable(servers, 0) is None


@given(clusters())
def test_no_rule_is_broken_and_no_vm_is_forgotten(servers: list[Server]) -> None:
    lost = servers[0]
    found = plan_loss(servers, {lost.id})
    assert {one.vm for one in found} == {one.name for one in lost.vms}
    assert all(one.error is not None for one in found if one.to is None)
    for one in found:
        if one.to is not None:
            target = next(each for each in servers if each.id == one.to)
            demand = next(each for each in lost.vms if each.name == one.vm)
            assert target.id != lost.id and rule_broken(demand, target) is None
