"""What only the manager knows of a server is kept on the server, too: a manager that was lost is rebuilt from there (see rebuild)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from domus_core.errors import DomusError, NotFound

from ..store import servers, trust
from ..store.database import Store

if TYPE_CHECKING:
    from .pool import Agents

LOOK_SECONDS = 10.0
TELL_SECONDS = 10.0
#: the columns of a server's item that are kept there
NOTED = ("pool",)
logger = logging.getLogger(__name__)


def notes_of(server: Mapping[str, Any]) -> dict[str, Any]:
    """What a server is to keep."""
    return {name: server[name] for name in NOTED}


def pool_of(hello: Mapping[str, Any]) -> str:
    """The pool that a server was in, as it tells who may ask."""
    pool = (hello.get("notes") or {}).get("pool")
    return pool if isinstance(pool, str) and pool else trust.DEFAULT_POOL


class Notes:
    """Has each server keep its notes, anew when they have changed; one thread looks."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store, self._agents = store, agents
        self._told: dict[str, dict[str, Any]] = {}

    def start(self, stopping: threading.Event) -> None:
        """Begin, until `stopping` is set."""
        threading.Thread(target=self._run, args=(stopping,), name="notes", daemon=True).start()

    def look(self) -> None:
        """Tell those that are there what they do not know. Raises what the database raises."""
        for server in servers.all(self._store):
            wanted = notes_of(server)
            if server["state"] == servers.ONLINE and self._told.get(server["id"]) != wanted:
                try:
                    self._agents.call(server["id"], "remember", {"notes": wanted}, TELL_SECONDS)
                except NotFound:  # an older agent, or a server that has just gone
                    pass
                except DomusError as error:
                    logger.info("server %s was not told its notes: %s", server["id"], error)
                    continue
                self._told[server["id"]] = wanted

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except DomusError as error:
                logger.error("notes: %s", error)
            except Exception:
                logger.exception("notes")
