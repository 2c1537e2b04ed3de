"""The agent as a whole: its parts put together, started, and ended by SIGTERM. VMs do not notice either."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Optional

from domus_core.errors import DriverError
from domus_core.version import VERSION

from .callbacks import Callbacks, LatestStatistics
from .config import AgentConfig
from .connections import Connections
from .console import Consoles
from .libvirt_tls import LibvirtTls
from .memory import use_one_heap
from .methods import Methods
from .migrations import Migrations
from .observer import Observer
from .operations import Operations
from .ownership import Ownership
from .pool_upkeep import PoolUpkeep
from .pool_watch import PoolWatch
from .rpc import Door
from .service import advice
from .statistics import Statistics
from .store import AgentStore

STOP_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Agent:
    """All parts of one agent, in the order in which they need each other."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.store = AgentStore(config.directory)
        self.ownership = Ownership(config.directory, config.state_directory, self.store)
        self.connections = Connections(config.uri, config.state_directory)
        self.operations = Operations(self.store, self.connections, lambda: self.ownership.server_id)
        self.migrations = Migrations(config, self.store, self.connections, self.operations, lambda: self.ownership.server_id)
        self.observer = Observer(config, self.store, self.ownership.server_id, self._is_busy)
        statistics = Statistics(config.uri, config.state_directory)
        statistics.resized = self.observer.resized
        self.statistics = LatestStatistics(statistics.collect, config.statistics)
        self.libvirt_tls = LibvirtTls(config, self.store)
        self.pool = PoolWatch(config.directory, config.state_directory, self.store.add_event)
        self.pool_upkeep = PoolUpkeep(self.connections, self._is_busy, lambda: self.ownership.notes)
        self.pool.more = lambda: self.pool_upkeep.problems
        self.methods = Methods(self.ownership, self.store, self.operations, self.connections, VERSION, self.libvirt_tls)
        self.consoles = Consoles(config.uri)
        self.callbacks = Callbacks(self.ownership, self.store, VERSION, config, lambda: self.observer.libvirt, self._facts, self.statistics.take, self._revoke)
        self.callbacks.tls, self.callbacks.take_crl = self.libvirt_tls.told, self.libvirt_tls.take_crl
        self.store.wake = self.callbacks.wake
        self.store.recovered = self.observer.resync
        self.operations.touched = self.migrations.touched = self.pool_upkeep.touched = self.observer.touched
        self.methods.migrations = self.migrations
        self.methods.power.is_allowed = self.config.power_off
        self.pool.is_ending = lambda: self.methods.power.is_ending
        self.methods.resync, self.methods.facts = self.observer.resync, self._facts

    async def serve(self) -> None:
        """Work until SIGTERM or SIGINT. Raises DriverError when the port is taken, Unsupported without python3-libvirt."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda dummy, context: _log.warning("%s: %s", context["message"], context.get("exception")))
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        door = Door(self.ownership, self.methods, self.consoles.handle, self.config.address, self.config.port)
        try:
            await door.open()
        except OSError as error:
            raise DriverError(
                f"can not listen: {error.strerror}", object=f"{self.config.address}:{self.config.port}", remedy="Does an agent run already?"
            ) from None
        self.ownership.changed = lambda: self._ownership_changed(door, loop)
        self._start(door)
        await ended.wait()
        _log.info("ending; %d operations are under way", self.operations.unfinished())
        await self.consoles.close()
        await door.close()
        await loop.run_in_executor(None, self._stop)

    def _start(self, door: Door) -> None:
        self.observer.start()
        self.statistics.start()
        self.libvirt_tls.start()
        self.pool.start()
        self.pool_upkeep.start()
        self.migrations.start()
        self.store.add_event("agent.started", data={"version": VERSION})
        self.callbacks.start()
        owner = f"belongs to {self.ownership.url}" if self.ownership.owned else "has no manager yet"
        _log.info("agent %s on server %s listens on %s:%d; it %s", VERSION, self.ownership.server_id, door.address, door.port, owner)
        if self.store.problem:
            _log.error("%s", self.store.problem)

    def _facts(self) -> Optional[dict[str, Any]]:
        """What the server is, and how its pool is; None until libvirt has told."""
        facts, pool = self.observer.facts, self.pool.told
        return facts if facts is None or pool is None else {**facts, "server_pool": pool}

    def _is_busy(self, kind: str, key: str) -> bool:
        """Is the object left alone by the observer for now?"""
        return self.operations.busy(kind, key) or self.migrations.is_coming(kind, key)

    def _stop(self) -> None:
        self.migrations.stop()
        self.operations.stop(STOP_SECONDS)
        self.statistics.stop()
        self.libvirt_tls.stop()
        self.pool.stop()
        self.pool_upkeep.stop()
        self.store.add_event("agent.stopped")
        self.callbacks.stop()
        self.observer.stop()
        self.connections.close()
        self.store.close()

    def _ownership_changed(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        _log.info("the server %s", f"belongs to the manager at {self.ownership.url} now" if self.ownership.owned else "was released")
        asyncio.run_coroutine_threadsafe(door.renew(), loop)
        self.callbacks.begin_anew()

    def _revoke(self, serial: str, until: float) -> None:
        self.operations.cancel_all_of(self.ownership.revoke(serial, until))


class OneLine(logging.Formatter):
    """A record is one line, as the journal wants it; of an exception only its kind and words."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return f"{record.levelname.lower()}: {' '.join(text.split())}"


def run(config: AgentConfig) -> int:
    """Be the agent until SIGTERM; return the exit code. Raises DomusError when it can not begin."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    use_one_heap()
    with _only_one(config.directory):
        asyncio.run(Agent(config).serve())
        logging.shutdown()
        os._exit(0)  # a thread that an operation was interrupted in would hold the process


@contextlib.contextmanager
def _only_one(directory: str) -> Iterator[Any]:
    """Two agents on one database would both send its outbox. Raises DriverError."""
    import fcntl

    os.makedirs(directory, mode=0o700, exist_ok=True)
    with open(os.path.join(directory, "agent.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DriverError("an agent runs already on this directory", object=directory, remedy=advice("status", "End that one first")) from None
        yield file
