"""What comes up in a pool is told once, by the coordinator of its part; how the pool is goes to the manager with the server's facts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest
from domus_agent.pool_watch import PoolWatch
from domus_core.cluster.fence_tests import FenceTest, keep
from domus_core.cluster.pool_problems import Problem
from domus_core.cluster.pool_state import PoolState, pool_state
from domus_core.cluster.pool_status import PoolStatus

DEVICE = Problem("fence_device_failed", "power", "fence device power does not work", "check it", "a", "monitor")
ACTION = Problem("action_failed", "web", "could not start VM web", "mend it", "b", "start")
LOST = Problem("quorum_lost", "quorum", "no quorum", "bring them back")


class Watched:
    """A watch on server `a` over a pool that a test says how it is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state: Optional[PoolState] = None
        self.now = 1000.0
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.watch = self.begin()

    def begin(self) -> PoolWatch:
        """The agent is started, perhaps again."""
        self.watch = PoolWatch(str(self.directory), str(self.directory), self._tell, lambda: self.state, lambda: self.now)
        return self.watch

    def _tell(self, kind: str, severity: str = "info", data: Optional[dict[str, Any]] = None) -> None:
        self.events.append((kind, severity, data or {}))

    def look(self, *problems: Problem, coordinator: Optional[str] = "a", silence: str = "") -> list[str]:
        """The kinds of events that a look at these problems tells."""
        before = len(self.events)
        status = None if silence else PoolStatus(LOST not in problems, coordinator, {"a": "online", "b": "online"}, {}, problems)
        self.state = pool_state("pool1", "a", status, None, (), silence)
        self.watch.look()
        return [kind for kind, dummy, dummy2 in self.events[before:]]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_server_that_is_about_to_be_off_tells_nothing_of_its_leaving(watched: Watched) -> None:
    assert watched.look() == []
    watched.watch.is_ending = lambda: True
    assert watched.look(silence="Pacemaker does not run") == []
    watched.watch.is_ending = lambda: False
    assert watched.look(silence="Pacemaker does not run") == ["pool.pool_not_told"]


def test_each_problem_is_told_once_and_again_when_it_comes_back_after_long(watched: Watched) -> None:
    assert watched.look() == []
    assert watched.look(DEVICE, ACTION) == ["pool.fence_device_failed", "pool.action_failed"]
    kind, severity, data = watched.events[0]
    assert severity == "error" and data["pool"] == "pool1" and data["problem"] == DEVICE.text and data["remedy"] == "check it"
    assert watched.look(DEVICE, dataclasses.replace(ACTION, text="another reason")) == []
    watched.begin()
    assert watched.look(DEVICE, ACTION) == [], "told before the agent was started again"
    for dummy in range(5):
        watched.now += 600
        assert watched.look(ACTION, DEVICE) == watched.look(ACTION) == [], "Pacemaker forgets it, and tries again"
    watched.now += 1900
    assert watched.look(ACTION) == []
    assert watched.look(DEVICE, ACTION) == ["pool.fence_device_failed"]
    assert watched.look(DEVICE, ACTION) == []


def test_only_the_coordinator_tells_and_another_takes_over_what_it_may_not_have_told(watched: Watched) -> None:
    assert watched.look(ACTION, coordinator="b") == [] and watched.look(ACTION, coordinator="b") == []
    assert watched.look(ACTION) == [], "b has told it"
    assert watched.look(ACTION, DEVICE, coordinator="b") == []
    assert watched.look(ACTION, DEVICE) == ["pool.fence_device_failed"], "b may have died before it looked"


def test_quorum_is_lost_and_regained(watched: Watched) -> None:
    assert watched.look(LOST) == ["pool.quorum_lost"] and watched.look(LOST) == []
    assert watched.look(coordinator="b") == ["pool.quorum_regained"] and watched.look() == []
    assert [watched.look(LOST, coordinator="b") for dummy in range(3)] == [[], [], []]
    assert watched.look() == [], "b tells that it is regained"


def test_a_server_that_can_not_tell_says_so_itself_and_forgets_nothing(watched: Watched) -> None:
    watched.look(DEVICE)
    assert watched.look(silence="not connected") == ["pool.pool_not_told"]
    assert watched.look(DEVICE, coordinator=None) == [] and watched.look(DEVICE) == []


def test_what_is_told_with_the_facts(watched: Watched) -> None:
    watched.watch.look()
    assert watched.watch.told is None
    watched.look(DEVICE)
    assert watched.watch.told is not None
    keep(str(watched.directory), [FenceTest("power", "b", 1.0, "on")])
    watched.look(DEVICE)
    assert watched.watch.told["fence_tests"] == [{"device": "power", "server": "b", "at": 1.0, "state": "on", "problem": None, "cut": False}]
    assert watched.watch.told["pool"] == "pool1" and watched.watch.told["problems"][0]["text"] == DEVICE.text
