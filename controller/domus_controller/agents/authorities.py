"""Authorities are followed by others before they end: those of servers and of people, without anybody's help.

A year before its end the one that is to follow is made. First nginx lets in whom it signs, and all servers believe it; only then it signs.
Certificates of the one before are good until it ends, and are renewed by the other in their turn. Nothing is remembered but in the files of
`security/succession.py`, so a manager that is restarted goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, Optional

from domus_core.errors import DomusError, Unreachable

from ..config import ManagerConfig
from ..security import succession
from ..security.authority import DAY, RENEWED, SERVERS, Authority
from ..store import servers
from ..store.database import Store
from ..web_certificate import renew_callers

if TYPE_CHECKING:
    from .pool import Agents

BEGIN_SECONDS = 365 * DAY
LOOK_SECONDS = 3600.0
TELL_SECONDS, TELL_AT_ONCE, AGAIN_SECONDS = 10.0, 32, 1.0
EXPORT = "Export the keys again, an older file lacks this authority: domus-manager authority export FILE"
logger = logging.getLogger(__name__)

# Kind, severity, data
Tell = Callable[[str, str, dict[str, Any]], None]


class Authorities:
    """Looks after the authorities' ends; `tell` stores an event."""

    def __init__(self, store: Store, authority: Authority, agents: Agents, config: ManagerConfig, tell: Tell) -> None:
        self._store, self._authority, self._agents, self._config, self._tell = store, authority, agents, config, tell
        self._looked: Optional[float] = None
        self._told: dict[str, float] = {}
        self._pause = threading.Event()

    def look(self) -> None:
        """Begin what is due, and go on with what has begun, once an hour. Raises DriverError."""
        now = self._store.now()
        if self._looked is not None and 0 <= now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for name in RENEWED:
            if self._authority.coming(name) is None and self._authority.expires_at(name) - now < BEGIN_SECONDS:
                self._authority.prepare(name)
                logger.info("authority %s will be followed by another", name)
                self._tell("authority.renewal_begun", "info", {"authority": name, "remedy": EXPORT})
            if self._authority.coming(name) is not None:
                self._go_on(name, now)
            succession.forget_ended(self._authority.directory, name, now)

    def _go_on(self, name: str, now: float) -> None:
        """Have the authority that is to follow believed everywhere; when it is, it signs."""
        remedy = renew_callers(self._authority, self._config)
        waiting = self._not_believing() if name == SERVERS and not remedy else {}
        if remedy or waiting:
            if now - self._told.get(name, -DAY) >= DAY:
                self._told[name] = now
                days = int((self._authority.expires_at(name) - now) / DAY)
                self._tell("authority.renewal_waits", "warning", {"authority": name, "days": days, "remedy": remedy or None, "servers": waiting})
            return
        self._authority.promote(name)
        self._agents.authority_changed()
        logger.info("authority %s was followed by another", name)
        self._tell("authority.renewed", "info", {"authority": name, "remedy": EXPORT})

    def _not_believing(self) -> dict[str, str]:
        """Tell all servers that do not know it yet; return why some do not believe it, by name. One whose certificate is revoked need not."""
        known = {str(one["id"]): str(one["name"]) for one in servers.all(self._store) if not one["revoked"]}
        believing = succession.who_believes(self._authority.directory, SERVERS) & known.keys()
        problems = self._ask(sorted(known.keys() - believing))
        told = {server for server, problem in problems.items() if problem is None}
        if told:
            succession.note_who_believes(self._authority.directory, SERVERS, believing | told)
        return {known[server]: problem for server, problem in problems.items() if problem is not None}

    def _ask(self, server_ids: Iterable[str]) -> dict[str, Optional[str]]:
        """Have servers believe all authorities that we believe; None for those that do, else why not."""
        authority = self._authority.servers_ca_pem

        def ask(server_id: str) -> Optional[str]:
            for again in (True, False):
                try:
                    self._agents.call(server_id, "believe", {"authority": authority}, timeout=TELL_SECONDS)
                    return None
                except Unreachable as error:  # it lets go of its connections then, so that its answer may be lost
                    problem = str(error)
                    if again:
                        self._pause.wait(AGAIN_SECONDS)
                except DomusError as error:  # an agent that is older than this
                    return str(error)
            return problem

        wanted = list(server_ids)
        if not wanted:
            return {}
        with ThreadPoolExecutor(min(TELL_AT_ONCE, len(wanted)), "authorities") as pool:
            return dict(zip(wanted, pool.map(ask, wanted)))
