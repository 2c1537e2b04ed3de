"""From a policy to a plan: which servers may sleep, how many stay on, and what becomes of sleepers under another policy."""

from __future__ import annotations

import pytest
from domus_core.model.policy import PolicySpec
from domus_core.planning.capacity import Server
from domus_core.planning.policies import NO_SLEEP, Look, Measured, Power, least_on_with_quorum, look
from domus_core.planning.power import OFF, POWER_OFF, WAKE, Switch

from .clusters import server, vm

SERVERS = [server("a", vm("a1", 6)), server("b"), server("c")]
AWAKE = Power()


def planned(there: list[Server], power: Power = AWAKE, **policy: object) -> Look:
    return look(there, Measured(), PolicySpec(**{"mode": "dpm", **policy}), power)  # type: ignore[arg-type]


def test_only_what_can_be_woken_again_is_switched_off() -> None:
    assert [one.server for one in planned(SERVERS).switches] == ["id-b"]
    assert [one.server for one in planned(SERVERS, Power(wakeable=frozenset({"id-c"}))).switches] == ["id-c"]
    none = planned(SERVERS, Power(wakeable=frozenset()))
    assert none.switches == () and "was not seen to be able to be woken again" in none.waiting
    assert planned(SERVERS, Power(wakeable=frozenset({"id-c"})), servers=("b",)).switches == ()


def test_a_pool_keeps_its_quorum() -> None:
    assert planned(SERVERS, Power(least_on=3)).waiting == "3 servers are to stay on"
    assert planned(SERVERS, Power(least_on=1), least_on=3).waiting == "3 servers are to stay on"


@pytest.mark.parametrize(("members", "spare", "ha", "least"), [(2, 0, False, 2), (3, 0, False, 2), (3, 0, True, 3), (5, 0, True, 4), (8, 2, True, 7)])
def test_how_many_stay_on_for_the_quorum(members: int, spare: int, ha: bool, least: int) -> None:
    assert least_on_with_quorum(members, spare, ha) == least


def test_who_sleeps_is_woken_when_the_policy_saves_no_power_any_more() -> None:
    servers = [*SERVERS[:2], server("c", closed=OFF)]
    asleep = Power(frozenset({"id-c"}))
    assert planned(servers, asleep, mode="drs").switches == (Switch(WAKE, "id-c", NO_SLEEP),)
    assert [one.action for one in planned(servers, asleep).switches] == [POWER_OFF], "under dpm it sleeps on"
