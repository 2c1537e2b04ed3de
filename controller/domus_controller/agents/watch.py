"""Looks after the servers: tells when one falls silent, finds out why, and completes the copy of what it has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from domus_core.errors import DomusError, Forbidden, NotFound, Unauthorized

from ..store import callbacks, objects, server_states, servers
from ..store.database import Store
from ..store.server_states import Limits
from . import cpu_groups
from .pool import Agents

# Whoever looks less often than that was stopped, or its clock was moved: what was not heard meanwhile proves nothing.
LATE_SECONDS = 10.0
INVENTORY_SECONDS = 60.0
# How soon VMs are seen to be behind the baseline of their group; an apply looks at it anyway.
GROUPS_SECONDS = 60.0
# How often a silent server is asked why, how long its answer may take, and how many are asked side by side.
ASK_SECONDS, ANSWER_SECONDS, ASK_AT_ONCE = 60.0, 5.0, 16
# How soon a server that could not give its inventory is asked for it again.
AGAIN_SECONDS = 5.0
logger = logging.getLogger(__name__)


class Watch:
    """What was seen at the last look. `look` and `attend` may be called from a thread each; `uptime` is a clock that nobody sets."""

    def __init__(self, store: Store, agents: Agents, limits: Limits, url: str, uptime: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._agents = agents
        self._limits = limits
        self._url = url
        self._uptime = uptime
        self._looked: tuple[float, float] | None = None
        self._listening_since = 0.0
        self._states: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._failed: dict[str, float] = {}
        self._grouped = float("-inf")

    def look(self) -> None:
        """Judge all servers by what was heard until now. Raises what the database raises; then nothing could be heard, either."""
        now, before, self._looked = (self._store.now(), self._uptime()), self._looked, None
        if before is None or any(not -1.0 < there - then < LATE_SECONDS for there, then in zip(now, before)):
            self._listening_since = now[0]
        self._states = server_states.judge(self._store, self._listening_since, self._limits)
        self._looked = now

    def attend(self) -> None:
        """Ask the silent servers what is wrong, and those whose copy is incomplete for their inventory. Raises what the database raises."""
        states, now = self._states, self._uptime()
        self._asked = {id: at for id, at in self._asked.items() if states.get(id, servers.RUNNING) not in servers.CONNECTED and now - at < ASK_SECONDS}
        silent = [id for id, state in states.items() if state in (servers.DISCONNECTED, servers.OFFLINE, servers.UNKNOWN) and id not in self._asked]
        self._failed = {id: at for id, at in self._failed.items() if now - at < AGAIN_SECONDS}
        incomplete = [id for id in callbacks.incomplete(self._store) if states.get(id) in servers.CONNECTED and id not in self._failed]
        self._asked.update(dict.fromkeys(silent, now))
        if silent or incomplete:
            with ThreadPoolExecutor(ASK_AT_ONCE, "attending") as pool:
                list(pool.map(lambda work: work[0](work[1]), [*((self._diagnose, id) for id in silent), *((self._complete, id) for id in incomplete)]))

    def attend_to_groups(self) -> None:
        """Look whether the CPU groups are what they were. Raises what the database raises."""
        if self._uptime() - self._grouped < GROUPS_SECONDS:
            return
        self._grouped = self._uptime()
        cpu_groups.look_after(self._store, self._agents)

    def _diagnose(self, server_id: str) -> None:
        try:
            self._agents.call(server_id, "hello", {}, timeout=ANSWER_SECONDS)
        except NotFound:
            return
        except DomusError as error:
            server_states.diagnose(self._store, server_id, str(error), is_distrust(error))
        else:
            problem = f"its agent answers, but does not report: can it reach {self._url}, and is its clock right? journalctl -u domus-agent"
            server_states.answers(self._store, server_id, problem)

    def _complete(self, server_id: str) -> None:
        """Take the server's inventory over, unless its reports have begun anew meanwhile."""
        position, since = callbacks.position(self._store, server_id), objects.latest_sequence(self._store)
        try:
            found = self._agents.call(server_id, "inventory", {}, timeout=INVENTORY_SECONDS)
        except DomusError as error:
            logger.info("inventory of server %s: %s", server_id, error)
            self._failed[server_id] = self._uptime()
            return
        objects.replace_all(self._store, server_id, found["objects"], since)
        callbacks.completed(self._store, server_id, position["epoch"])


def is_distrust(error: DomusError) -> bool:
    """Does one side not accept the other's certificate? That is not the same as being away."""
    return isinstance(error, (Forbidden, Unauthorized)) or error.field == "certificate"
