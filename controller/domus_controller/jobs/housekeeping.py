"""What the manager does by itself, in one thread: servers that fall silent are told, old jobs, plans and events are forgotten."""

from __future__ import annotations

import logging
import threading

from domus_core.errors import DomusError

from ..agents.pool import Agents
from ..agents.watch import Watch
from ..config import ManagerConfig
from ..store import events, jobs, objects, plans, servers, statistics
from ..store.database import Store

LOOK_SECONDS = 2.0
FORGET_SECONDS = 3600.0
DAY = 86400.0
logger = logging.getLogger(__name__)


class Housekeeping:
    """The thread; it ends when `stopping` is set."""

    def __init__(self, store: Store, agents: Agents, config: ManagerConfig, stopping: threading.Event) -> None:
        self._store = store
        self._watch = Watch(store, agents)
        self._config = config
        self._stopping = stopping

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="housekeeping", daemon=True).start()

    def _run(self) -> None:
        forgetting = 0.0
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._watch.look()
                forgetting -= LOOK_SECONDS
                if forgetting <= 0:
                    forgetting = FORGET_SECONDS
                    forget_old(self._store, self._config.keep_jobs_days)
            except DomusError as error:
                logger.error("housekeeping: %s", error)
            except Exception:
                logger.exception("housekeeping")


def forget_old(store: Store, days: int) -> None:
    """Forget what ended before so many days, and certificates and samples whose time is over. Raises what the database raises."""
    before = store.now() - days * DAY
    jobs.forget(store, before)
    plans.forget(store, before)
    events.forget(store, before)
    objects.forget_deleted(store, before)
    servers.forget_revoked(store)
    statistics.forget(store)
