"""The score: what a move makes of it is foretold exactly, and its bound is one."""

from __future__ import annotations

from operator import mul

import pytest
from domus_core.planning.capacity import Server
from domus_core.planning.cluster_state import Cluster
from domus_core.planning.spread import Dimension, Spread
from hypothesis import given

from .clusters import clusters, dimensions, server, vm


def test_the_score_is_the_weighted_sum_of_the_deviations() -> None:
    loads, weights = {"x": 4.0, "y": 2.0}, (1.0, 0.5)
    made = [Dimension(str(weight), loads, {"a": 8.0, "b": 8.0}, weight) for weight in weights]
    spread = Spread(made, ["a", "b"], [["x"], ["y"]])
    assert spread.shares == [(0.5, 0.5), (0.25, 0.25)]
    assert spread.score == pytest.approx(0.125 * 1.5)


def test_a_dimension_that_a_server_does_not_tell_does_not_count() -> None:
    assert Spread([Dimension("network", {"x": 1.0}, {"a": 1.0})], ["a", "b"], [["x"], []]).score == 0.0


@given(clusters(rules=False))
def test_what_a_move_makes_of_the_score_is_foretold(servers: list[Server]) -> None:
    cluster = Cluster(servers, dimensions(servers))
    spread, numbers = cluster.spread, range(len(servers))
    estimate, count = spread.estimate(numbers), len(spread.weights)
    for source in numbers:
        for name in list(cluster.vms[source]):
            before, bound = spread.score, sum(map(mul, spread.loads[name], estimate.leaving(source)[:count]))
            for target in numbers:
                if target != source:
                    foretold = spread.after(name, source, target)
                    cluster.move(name, source, target)
                    assert spread.score == pytest.approx(foretold, abs=1e-7)
                    assert before - spread.score <= bound + 1e-7 or before == 0 or min(spread.deviations) == 0
                    cluster.move(name, target, source)
                    assert spread.score == before


def test_the_loss_of_the_fullest_is_weighed_against_what_is_free() -> None:
    servers = [server("a", vm("a1", 10)), server("b", vm("b1", 8)), server("c")]
    cluster = Cluster(servers, dimensions(servers))
    assert cluster.bears_loss_of(1) and not cluster.bears_loss_of(2)
    busy = [server("a", vm("a1", 1, 12)), server("b", vm("b1", 1, 8))]
    assert not Cluster(busy, dimensions(busy)).bears_loss_of(1)
