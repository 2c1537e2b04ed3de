"""The VMs of this server and the records of its pool are kept alike: what is new here is written down, what another server has by now is let go.

Once after each boot, as soon as this server has quorum, those VMs without HA start that start with their server and that the record still
gives to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional

from domus_core.cluster.membership import Membership
from domus_core.cluster.pool_problems import Problem, unlocked_vm
from domus_core.cluster.record_files import READ_SECONDS, all_records
from domus_core.cluster.records import PoolRecord
from domus_core.driver import Target
from domus_core.errors import Busy, DomusError
from domus_core.libvirt_driver.bounded import bounded
from domus_core.libvirt_driver.connection import told
from domus_core.libvirt_driver.driver import LibvirtDriver
from domus_core.libvirt_driver.pooled import Pooled, forget_definition
from domus_core.model.ha import is_kept_up
from domus_core.model.snapshot import Found

from .connections import Connections
from .looking import Looking

SECONDS = 20.0
STARTED = "started"
NEW, OLD, LEFT, SAME = "new", "old", "left", "same"
_log = logging.getLogger(__name__)


def standing(found: Found, record: Optional[PoolRecord], server: str, places: Iterable[str]) -> str:
    """How what is defined here stands to the pool's record: NEW (to be written down), OLD (to be made as the record says), LEFT (another server's), SAME.

    `places` are the servers where Pacemaker has the VM. One that runs here is this server's, whatever is written.
    """
    runs, generation = found.state.state in ("running", "paused"), found.state.generation
    if record is None:
        return NEW
    if not runs and (any(place != server for place in places) or (record.server not in (None, server) and record.saved_on != server)):
        return LEFT
    if record.generation > generation:
        return OLD
    return NEW if record.generation < generation or (runs and record.server != server) else SAME


class PoolUpkeep(Looking):
    """Looks after the VMs of this server, where it is a member of a pool.

    `is_busy` tells who is at work on an object, `touched` hears of what has changed, `notes` are what the manager keeps here.
    """

    def __init__(self, connections: Connections, is_busy: Callable[[str, str], bool], notes: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__("VMs of the pool", SECONDS)
        self.touched: Callable[[list[Target]], None] = lambda targets: None
        self._connections = connections
        self._is_busy = is_busy
        self._notes = notes
        self._seen_at = 0.0
        self._closed: Optional[bool] = None
        self.problems: tuple[Problem, ...] = ()

    def look(self) -> None:
        """Look once at every VM of this server."""
        with self._connections.driver() as driver:
            pool = driver.pool
            if pool is None or not pool.membership.quorate():
                self.problems = ()
                return
            self._close(pool.membership)
            status = pool.membership.status()
            names = [name for name in driver.managed_vms() if not self._is_busy("vm", name)]
            for name in names:
                try:
                    with driver.locked([("vm", name)], [], patience=0.0):
                        self._look_at(driver, pool, name, status.servers_of(name))
                except Busy:
                    continue
                except DomusError as error:
                    _log.warning("vm %s: its record and what is here can not be made alike: %s", name, error)
            unlocked = pool.unprotected((name, driver.domain(name)) for name in names)
            self.problems = tuple(unlocked_vm(name, pool.membership.server) for name in unlocked)
            self._define_missing(driver, pool)
            self._start_own(driver, pool.membership, names)

    def _close(self, membership: Membership) -> None:
        """A server in maintenance takes no VM, whoever would bring it: the manager, or Pacemaker."""
        closed = bool(self._notes().get("maintenance"))
        if closed != self._closed and membership.close(closed):
            self._closed = closed

    def _define_missing(self, driver: LibvirtDriver, pool: Pooled) -> None:
        """Define the VMs that the records give to this server and that are not here: nobody would see them. Looked for when a record was written."""
        folder = pool.membership.settings.records
        changed = bounded(lambda: os.stat(folder).st_mtime, READ_SECONDS, "reading the pool file system")
        if changed == self._seen_at:
            return
        for record in all_records(folder)[0]:
            if record.server != pool.membership.server or self._is_busy("vm", record.name):
                continue
            with contextlib.suppress(Busy), driver.locked([("vm", record.name)], [], patience=0.0), told(f"defining {record.name}"):
                if driver.find_vm(record.uuid) is None and pool.membership.find(record.uuid) == record:
                    driver.connection.defineXML(record.definition).setAutostart(0)
                    self.touched([("vm", record.name)])
        self._seen_at = changed

    def _look_at(self, driver: LibvirtDriver, pool: Pooled, name: str, places: Iterable[str]) -> None:
        domain, found = driver.domain(name), driver.read_one("vm", name, addresses=False)
        if domain is None or found is None or not found.state.persistent:
            return
        record = pool.membership.find(found.state.uuid)
        stands = standing(found, record, pool.membership.server, places)
        if domain.autostart():
            domain.setAutostart(0)
        if stands == NEW:
            pool.note(domain, found)
        elif stands == LEFT:
            _log.info("vm %s is another server's by now: its definition here goes", name)
            forget_definition(domain)
            self.touched([("vm", name)])
        elif stands == OLD and record is not None:
            with told(f"defining {name}"):
                driver.connection.defineXML(record.definition)
            self.touched([("vm", name)])

    def _start_own(self, driver: LibvirtDriver, membership: Membership, names: Iterable[str]) -> None:
        mark = os.path.join(membership.settings.state, STARTED)
        if os.path.exists(mark):
            return
        for name in names:
            try:
                with driver.locked([("vm", name)], [], patience=0.0), told(f"starting {name}"):
                    domain, found = driver.domain(name), driver.read_one("vm", name, addresses=False)
                    if domain is not None and found is not None and starts_with_server(found, membership.find(found.state.uuid), membership.server):
                        domain.create()
                        _log.info("vm %s was started with its server", name)
            except DomusError as error:
                _log.warning("vm %s does not start with its server: %s", name, error)
        os.makedirs(membership.settings.state, mode=0o700, exist_ok=True)
        with open(mark, "w", encoding="ascii"):
            pass


def starts_with_server(found: Found, record: Optional[PoolRecord], server: str) -> bool:
    """Does a VM without HA start with this server? Not one that somebody has stopped, nor one whose record gives it to another."""
    asked: Any = found.recorded
    if asked is None or is_kept_up(asked) or not asked.autostart or found.state.state != "stopped":
        return False
    return record is not None and record.server == server and asked.state in (None, "running")
