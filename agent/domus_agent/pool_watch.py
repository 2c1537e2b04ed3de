"""How this server's pool is: looked at all the time, told to the manager with the server's facts, and by an event for each problem that comes up."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Callable, Optional

from domus_core.cluster.fence_tests import recall
from domus_core.cluster.pool_problems import ACTION, FENCE_DEVICE, ITS_OWN, LINK, QUORUM, Problem
from domus_core.cluster.pool_state import PoolState, read_pool_state, told_of
from domus_core.libvirt_driver.registry import write_atomically

from .looking import Looking

SECONDS = 10.0
REGAINED = "quorum_regained"
# Pacemaker forgets a failed action after a while and tries again: what comes back within this time is no news.
TRIED_AGAIN, FORGOTTEN_SECONDS = (f"{ACTION} ", f"{FENCE_DEVICE} "), 1800.0

Known = dict[str, bool]
_log = logging.getLogger(__name__)


def compare(known: Mapping[str, bool], before: frozenset[str], state: PoolState) -> tuple[Known, list[Problem]]:
    """What is known from now on (the keys of problems, and whether this server told of them), and the problems that it is to tell of now.

    What another coordinator has to tell is known once it was there (`before`) at the last look, too: had that one died meanwhile, we tell.
    """
    coordinator = state.status.coordinator if state.status is not None else None
    after: Known = {}
    if coordinator is None:  # nobody decides at the moment: what was known of the pool stands
        after = {key: told for key, told in known.items() if key.split(" ")[0] not in ITS_OWN}
    news = []
    for problem in state.problems:
        if problem.key in known:
            after[problem.key] = known[problem.key]
        elif problem.kind in ITS_OWN or coordinator == state.server:
            after[problem.key] = True
            news.append(problem)
        elif coordinator is not None and problem.key in before:
            after[problem.key] = False
    return after, news


def is_regained(known: Mapping[str, bool], after: Mapping[str, bool]) -> bool:
    """Is there quorum again, which this server had told to be lost?"""
    return any(told and key.startswith(f"{QUORUM} ") and key not in after for key, told in known.items())


class PoolWatch(Looking):
    """Looks at the pool in a thread of its own; `told` is how it is, as plain data, None: this server is in no pool.

    `tell` takes an event; `more` are problems that others have found on this server.
    """

    def __init__(
        self,
        directory: str,
        state_directory: str,
        tell: Callable[..., Any],
        read: Callable[[], Optional[PoolState]] = read_pool_state,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("pool", SECONDS)
        self._clock = clock
        self.more: Callable[[], tuple[Problem, ...]] = tuple
        #: whether this server is about to be off: what it sees of its pool then is its own leaving
        self.is_ending: Callable[[], bool] = lambda: False
        self.told: Optional[dict[str, Any]] = None
        self._path = os.path.join(directory, "pool-problems.json")
        self._state_directory, self._tell, self._read = state_directory, tell, read
        self._known = self._recall()
        self._seen = dict.fromkeys(self._known, clock())
        self._before: frozenset[str] = frozenset()

    def look(self) -> None:
        """Look once, and tell of what is new."""
        if self.is_ending():
            return
        state = self._read()
        if self.is_ending():  # it may have begun to leave meanwhile
            return
        if state is None:
            self.told, self._before = None, frozenset()
            self._keep({})
            return
        state = dataclasses.replace(state, problems=(*state.problems, *self.more()))
        self.told = told_of(state, recall(self._state_directory))
        after, news = compare(self._known, self._before, state)
        for problem in news:
            _log.error("pool %s: %s", state.pool, problem)
            about = {"about": problem.about, "server": problem.server, "action": problem.action}
            severity = "warning" if problem.kind == LINK else "error"
            self._tell(f"pool.{problem.kind}", severity=severity, data={"pool": state.pool, "problem": problem.text, "remedy": problem.remedy, **about})
        if is_regained(self._known, after):
            _log.info("pool %s has quorum again", state.pool)
            self._tell(f"pool.{REGAINED}", data={"pool": state.pool})
        self._before = frozenset(problem.key for problem in state.problems)
        self._keep({**self._not_forgotten(), **after})

    def _not_forgotten(self) -> Known:
        """What is over, and may be back soon."""
        now = self._clock()
        self._seen.update(dict.fromkeys(self._before, now))
        self._seen = {key: at for key, at in self._seen.items() if now - at < FORGOTTEN_SECONDS}
        return {key: told for key, told in self._known.items() if key.startswith(TRIED_AGAIN) and key in self._seen}

    def _recall(self) -> Known:
        """What was known before this agent was started, so that it is not told twice."""
        with suppress(OSError, ValueError), open(self._path, encoding="utf-8") as file:
            kept = json.load(file)
            return {str(key): bool(told) for key, told in kept.items()} if isinstance(kept, dict) else {}
        return {}

    def _keep(self, known: Known) -> None:
        if known == self._known:
            return
        self._known = known
        try:
            write_atomically(self._path, json.dumps(known).encode())
        except OSError as error:  # told twice after a restart, at worst
            _log.warning("what is known of the pool can not be kept: %s", error)
