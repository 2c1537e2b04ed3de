"""What only the manager knows of a server is kept on the server, too: a manager that was lost is rebuilt from there (see rebuild)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from domus_core.errors import DomusError, NotFound, Unsupported

from ..store import servers, trust
from ..store.database import Store

if TYPE_CHECKING:
    from .pool import Agents

LOOK_SECONDS = 10.0
TELL_SECONDS = 10.0
#: what is kept there, as it is read from the database
NOTED = (
    "SELECT s.id, coalesce(t.pool, ?) AS pool, s.version, s.maintenance, s.maintenance_reason FROM servers s LEFT JOIN server_trust t ON t.server_id = s.id"
    f" WHERE s.state IN ('{servers.RUNNING}', '{servers.MAINTENANCE}')"
)
logger = logging.getLogger(__name__)


def pool_of(hello: Mapping[str, Any]) -> str:
    """The pool that a server was in, as it tells who may ask."""
    pool = (hello.get("notes") or {}).get("pool")
    return pool if isinstance(pool, str) and pool else trust.DEFAULT_POOL


def maintenance_of(hello: Mapping[str, Any]) -> Optional[str]:
    """Why a server was in maintenance mode, empty when nobody said why; None when it was not."""
    notes = hello.get("notes") or {}
    return str(notes.get("maintenance_reason") or "") if notes.get("maintenance") else None


class Notes:
    """Has each server keep its notes, anew when they have changed; one thread looks."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store, self._agents = store, agents
        self._told: dict[str, tuple[Any, dict[str, Any]]] = {}

    def start(self, stopping: threading.Event) -> None:
        """Begin, until `stopping` is set."""
        threading.Thread(target=self._run, args=(stopping,), name="notes", daemon=True).start()

    def look(self) -> None:
        """Tell those that are there what they do not know. Raises what the database raises."""
        for server in self._store.rows(NOTED, (trust.DEFAULT_POOL,)):
            wanted = {"pool": server["pool"], "maintenance": bool(server["maintenance"]), "maintenance_reason": server["maintenance_reason"]}
            # An agent that was upgraded may understand what it did not before.
            told = (server["version"], wanted)
            if self._told.get(server["id"]) == told:
                continue
            try:
                self._agents.call(server["id"], "remember", {"notes": wanted}, TELL_SECONDS)
            except (NotFound, Unsupported):  # an older agent, or a server that has just gone
                pass
            except DomusError as error:
                logger.info("server %s was not told its notes: %s", server["id"], error)
                continue
            self._told[server["id"]] = told

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except DomusError as error:
                logger.error("notes: %s", error)
            except Exception:
                logger.exception("notes")
