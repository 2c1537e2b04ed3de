"""Looks after the servers: tells when one falls silent and when it is back, and completes the copy of what it has."""

from __future__ import annotations

import logging

from domus_core.errors import DomusError

from ..store import callbacks, events, objects, servers
from ..store.database import Connection, Store
from .pool import Agents

SILENT_SECONDS = 30.0
INVENTORY_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Watch:
    """What was seen at the last look; one thread looks."""

    def __init__(self, store: Store, agents: Agents) -> None:
        self._store = store
        self._agents = agents
        self._states: dict[str, str] = {}

    def look(self) -> None:
        """Note what has changed since the last look. Raises what the database raises."""
        for server in servers.mark_silent(self._store, self._store.now() - SILENT_SECONDS):
            self._tell(server["id"], "server.offline", "warning")
            self._states[server["id"]] = servers.OFFLINE
        known = {server["id"]: server["state"] for server in servers.all(self._store)}
        for server_id, state in known.items():
            if state == servers.ONLINE and self._states.get(server_id, state) != state:
                self._tell(server_id, "server.online", "info")
        self._states = known
        for server_id in callbacks.incomplete(self._store):
            if known.get(server_id) == servers.ONLINE:
                self._complete(server_id)

    def _tell(self, server_id: str, kind: str, severity: str) -> None:
        event = {"at": self._store.now(), "kind": kind, "severity": severity, "server_id": server_id, "object": None, "data": {}, "operation": None}

        def change(connection: Connection) -> int:
            return events.add(connection, event)

        self._store.write(change)

    def _complete(self, server_id: str) -> None:
        """Take the server's inventory over, unless its reports have begun anew meanwhile."""
        position, since = callbacks.position(self._store, server_id), objects.latest_sequence(self._store)
        try:
            found = self._agents.call(server_id, "inventory", {}, timeout=INVENTORY_SECONDS)
        except DomusError as error:
            logger.info("inventory of server %s: %s", server_id, error)
            return
        objects.replace_all(self._store, server_id, found["objects"], since)
        callbacks.completed(self._store, server_id, position["epoch"])
