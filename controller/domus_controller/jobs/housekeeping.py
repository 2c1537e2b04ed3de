"""What the manager does by itself: servers that fall silent are told, old jobs, plans and events are forgotten."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from domus_core.errors import DomusError

from ..agents.pool import Agents
from ..agents.watch import Watch
from ..config import ManagerConfig
from ..store import events, jobs, objects, plans, servers, statistics
from ..store.database import Store
from ..store.server_states import Limits

LOOK_SECONDS = 2.0
FORGET_SECONDS = 3600.0
DAY = 86400.0
logger = logging.getLogger(__name__)


class Housekeeping:
    """Two threads, so that whether a server is there is never decided later because another one is slow; they end when `stopping` is set."""

    def __init__(self, store: Store, agents: Agents, config: ManagerConfig, stopping: threading.Event) -> None:
        self._store = store
        self._watch = Watch(store, agents, Limits(config.disconnected_seconds, max(config.disconnected_seconds, config.offline_seconds)), config.url)
        self._config = config
        self._stopping = stopping
        self._forget_in = 0.0

    def start(self) -> None:
        """Begin."""
        for name, work in (("watch", self._watch.look), ("housekeeping", self._keep)):
            threading.Thread(target=self._run, args=(work,), name=name, daemon=True).start()

    def _run(self, work: Callable[[], None]) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                work()
            except DomusError as error:
                logger.error("housekeeping: %s", error)
            except Exception:
                logger.exception("housekeeping")

    def _keep(self) -> None:
        self._watch.attend()
        self._watch.attend_to_groups()
        self._forget_in -= LOOK_SECONDS
        if self._forget_in <= 0:
            self._forget_in = FORGET_SECONDS
            forget_old(self._store, self._config.keep_jobs_days)


def forget_old(store: Store, days: int) -> None:
    """Forget what ended before so many days, and certificates and samples whose time is over. Raises what the database raises."""
    before = store.now() - days * DAY
    jobs.forget(store, before)
    plans.forget(store, before)
    events.forget(store, before)
    objects.forget_deleted(store, before)
    servers.forget_revoked(store)
    statistics.forget(store)
