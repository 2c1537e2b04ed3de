"""Balancing: each step mends a rule or lowers the score, breaks none, and a plan that is broken off goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import random

import pytest
from domus_core.planning.balancing import Aims, Balance, plan_balance
from domus_core.planning.capacity import Server
from domus_core.planning.cluster_state import Cluster
from domus_core.planning.placement import not_movable, rule_broken, separated_from
from hypothesis import given
from hypothesis import strategies as st

from .clusters import clusters, dimensions, homes, moved, server, vm

ALL = Aims(most_moves=1000)


def balanced(servers: list[Server], aims: Aims = ALL, **more: object) -> Balance:
    return plan_balance(servers, dimensions(servers), aims, **more)  # type: ignore[arg-type]


def where(servers: list[Server], aims: Aims = ALL) -> list[tuple[str, str, str]]:
    return [(move.vm, move.source, move.to) for move in balanced(servers, aims).moves]


def wrong(servers: list[Server]) -> int:
    """How many VMs are where they may not be, and how much is promised that is not there."""
    cluster = Cluster(servers, dimensions(servers))
    found = sum(len(cluster.misplaced(number)) for number in range(len(servers)))
    for number, one in enumerate(cluster.servers):
        found += max(0, cluster.memory[number] - (one.memory or 0)) + max(0, cluster.cpus[number] - (one.cpus or 0))
    return found


def score(servers: list[Server]) -> float:
    return Cluster(servers, dimensions(servers)).spread.score


def test_an_empty_server_gets_its_part() -> None:
    full = [vm(f"vm{number}", 2) for number in range(6)]
    found = balanced([server("a", *full), server("b")])
    assert len(found.moves) == 3 and found.after == 0.0 < found.before
    assert "memory: 75% of a is used and 0% of b" in found.moves[0].reason


@pytest.mark.parametrize("uneven", [0, 1])
def test_what_is_even_within_the_tolerance_stays(uneven: int) -> None:
    there = [vm(f"a{number}") for number in range(4)], [vm(f"b{number}") for number in range(4 + uneven)]
    assert where([server("a", *there[0]), server("b", *there[1])]) == []


def test_at_most_so_many_at_a_time() -> None:
    full = [vm(f"vm{number}") for number in range(12)]
    assert len(where([server("a", *full), server("b")], Aims(most_moves=2))) == 2


def test_a_broken_rule_comes_first_and_is_told() -> None:
    first, second = vm("db1", anti_affinity=frozenset({"db"})), vm("db2", anti_affinity=frozenset({"db"}))
    tagged = vm("fast", 2, server_tags=frozenset({"ssd"}))
    servers = [server("a", first, second, tagged, *(vm(f"x{number}", 2) for number in range(4))), server("b", tags=frozenset({"ssd"})), server("c")]
    moves = balanced(servers).moves
    assert (moves[0].vm, moves[0].to, moves[0].reason) == ("fast", "id-b", "it may not be on a: that lacks tag ssd")
    assert moves[1].vm == "db2" and "has vm db1 of anti-affinity group db" in moves[1].reason


def test_who_has_nowhere_to_go_is_told() -> None:
    found = balanced([server("a", vm("fast", server_tags=frozenset({"ssd"}))), server("b")])
    assert found.moves == () and found.stuck == {"fast": "a lacks tag ssd, and no other server can take it"}


def test_a_server_that_promises_more_than_it_has_is_relieved() -> None:
    moves = balanced([server("a", vm("big", 12), vm("small", 6)), server("b", vm("other", 8))]).moves
    assert [(move.vm, move.to) for move in moves] == [("small", "id-b")] and "promises more" in moves[0].reason


def test_what_is_fixed_stays_and_a_server_in_maintenance_gets_nothing() -> None:
    full = [vm(f"vm{number}", 2) for number in range(6)]
    assert where([server("a", *full), server("b", closed="is in maintenance")]) == []
    assert {move.vm for move in balanced([server("a", *full), server("b")], fixed={"vm0", "vm1"}).moves} <= {f"vm{number}" for number in range(2, 6)}


def test_what_is_fixed_stays_even_where_it_may_not_be() -> None:
    servers = [server("a", vm("fast", server_tags=frozenset({"ssd"}))), server("b", tags=frozenset({"ssd"}))]
    found = balanced(servers, fixed={"fast"})
    assert found.moves == () and found.stuck == {"fast": "a lacks tag ssd, and it is not to move"}


def test_a_name_that_two_vms_have_is_not_moved() -> None:
    full = [vm(f"vm{number}", 2) for number in range(6)]
    assert "vm0" not in {name for name, dummy, dummy in where([server("a", *full), server("b"), server("c", vm("vm0"))])}


def test_with_thresholds_only_a_server_above_is_relieved_and_none_gets_above() -> None:
    servers = [server("a", *(vm(f"a{number}", 2) for number in range(7))), server("b", *(vm(f"b{number}", 2) for number in range(5))), server("c")]
    assert plan_balance(servers, dimensions(servers, {"memory": 0.9}), ALL).moves == ()
    (move,) = plan_balance(servers, dimensions(servers, {"memory": 0.8}), ALL).moves
    assert (move.source, move.to) == ("id-a", "id-c")
    crowded = [servers[0], server("b", *(vm(f"b{number}", 3) for number in range(4)))]
    assert plan_balance(crowded, dimensions(crowded, {"memory": 0.8}), ALL).moves == ()


def test_room_for_the_loss_of_a_server_is_kept() -> None:
    # Evened out, the large server would hold more than fits on the two small ones.
    small = [server(name, *(vm(f"{name}{number}", 2, 0) for number in range(7))) for name in "ab"]
    servers = [*small, server("c", memory=64 << 30)]
    cluster = Cluster(servers, dimensions(servers))
    assert cluster.bears_loss_of(1)
    for spare in (0, 1):
        after = moved(servers, balanced(servers, Aims(1000, spare_servers=spare)).moves)
        assert Cluster(after, dimensions(after)).bears_loss_of(1) or not spare


@given(clusters(), st.integers(0, 1))
def test_every_step_mends_or_improves_and_breaks_nothing(servers: list[Server], spare: int) -> None:
    for move in balanced(servers, Aims(1000, spare_servers=spare)).moves:
        source, target = (next(one for one in servers if one.id == id) for id in (move.source, move.to))
        demand = next(one for one in source.vms if one.name == move.vm)
        assert target.closed is None and not_movable(source, target) is None
        assert rule_broken(demand, target) is None and separated_from(demand, target) is None
        after = moved(servers, [move])
        taken = next(one for one in after if one.id == move.to)
        assert sum(one.memory for one in taken.vms) <= (target.memory or 0) and sum(one.cpus for one in taken.vms) <= (target.cpus or 0)
        assert wrong(after) < wrong(servers) or (wrong(after) == wrong(servers) and score(after) < score(servers))
        if spare and wrong(after) == wrong(servers) and Cluster(servers, dimensions(servers)).bears_loss_of(spare):
            assert Cluster(after, dimensions(after)).bears_loss_of(spare)
        servers = after


@given(clusters(), st.integers(0, 30), st.randoms(use_true_random=False))
def test_a_plan_that_is_broken_off_and_made_anew_ends_in_the_same_place(servers: list[Server], done: int, order: random.Random) -> None:
    whole = balanced(servers)
    interrupted = moved(servers, whole.moves[:done])
    # Who reports first is nobody's choice.
    order.shuffle(interrupted)
    shuffled = [dataclasses.replace(one, vms=tuple(order.sample(one.vms, len(one.vms)))) for one in interrupted]
    rest = balanced(shuffled)
    assert [(one.vm, one.to) for one in rest.moves] == [(one.vm, one.to) for one in whole.moves[done:]]
    assert homes(moved(shuffled, rest.moves)) == homes(moved(servers, whole.moves))


@given(clusters())
def test_what_is_balanced_stays_as_it_is(servers: list[Server]) -> None:
    after = moved(servers, balanced(servers).moves)
    assert balanced(after).moves == ()


@given(clusters(rules=False))
def test_no_single_move_is_left_that_would_be_much_better(servers: list[Server]) -> None:
    aims = Aims(1000, tolerance=0.0)
    after = moved(servers, balanced(servers, aims).moves)
    cluster = Cluster(after, dimensions(after))
    for source, there in enumerate(cluster.vms):
        for one in there.values():
            for target in cluster.targets(one, source, range(len(after))):
                assert cluster.spread.after(one.name, source, target) > cluster.spread.score * (1 - aims.least_gain) - 1e-9
