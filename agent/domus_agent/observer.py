"""What happens on the server, turned into records for the manager: events at once, then the objects as they are now."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, Callable, Optional

from domus_core.description import describe, identity
from domus_core.errors import DomusError, Unreachable
from domus_core.libvirt_driver.connection import separate, told
from domus_core.libvirt_driver.driver import LibvirtDriver
from domus_core.libvirt_driver.host_facts import read_host
from domus_core.libvirt_driver.virtual_disk import read_virtual_disks
from domus_core.storage_connect.reach import NotAnswering

from .addresses import AddressBook
from .config import AgentConfig
from .damping import Damper
from .domain_states import Domain, differences, list_domains
from .forced_changes import take_forced_changes
from .late_starts import start_late
from .libvirt_events import BACK, LOST, RESIZED, LibvirtEvents, Seen
from .memory import give_back
from .repository_watch import RepositoryWatch
from .store import AgentStore

SWEEP_SECONDS, SUSPECT_SECONDS, WHOLE_SECONDS, FORCED_SECONDS, REST_SECONDS, TIDY_SECONDS = 30.0, 1.0, 600.0, 5.0, 2.0, 10.0
# A balloon moves step by step, and each step is told.
RESIZED_SECONDS = 5.0
EVENTS_AT_ONCE, OBJECTS_AT_ONCE, MUCH = 500, 20, 200
REGISTERED = ("server", "repository", "server_pool", "template", "iso")
# What changes all the time, or is too long to be told with each server.
UNTOLD_FACTS = frozenset({"memory_free", "machines", "cpu_models"})

Target = tuple[str, str]
_log = logging.getLogger(__name__)


class Observer:
    """Sees everything on the server, and puts what is new into the outbox; `facts` says what the server is, None until libvirt has told.

    `busy` says whether an operation works on an object now; such objects are left alone until it has ended.
    """

    def __init__(self, config: AgentConfig, store: AgentStore, server_id: str, busy: Callable[[str, str], bool]) -> None:
        self._config = config
        self._store = store
        self._server_id = server_id
        self._busy = busy
        self._seen: queue.SimpleQueue[Optional[Seen]] = queue.SimpleQueue()
        self._events = LibvirtEvents(config.uri, self._seen.put)
        self._repositories = RepositoryWatch(config.state_directory, self._seen.put, self._look_at, self._start_late)
        self._damper = Damper()
        self._addresses = AddressBook(self._look_up, self._address_changed)
        self._domains: Optional[dict[str, Domain]] = None
        self._suspects: dict[str, tuple[Seen, ...]] = {}
        self._ids: dict[Target, str] = {}
        self._due: dict[Target, float] = {}
        self._later: dict[Target, None] = {}
        self._rest_until = 0.0
        self._looked_at = 0
        self._postponed: set[Target] = set()
        self._periods = {
            self._sweep: SWEEP_SECONDS,
            self._look_at_all: WHOLE_SECONDS,
            self._read_facts: WHOLE_SECONDS,
            self._take_forced_changes: FORCED_SECONDS,
            self._tidy_up: TIDY_SECONDS,
        }
        self._next = dict.fromkeys(self._periods, 0.0)
        self.facts: Optional[dict[str, Any]] = None
        self._lost = False
        self._end = False
        self._condition = threading.Condition()
        self._threads = [
            threading.Thread(target=self._forever, args=(step,), name=name, daemon=True) for name, step in (("recorder", self._record), ("reader", self._read))
        ]

    def start(self) -> None:
        """Begin with what the database knows; all objects are compared once libvirt answers. Raises Unsupported without python3-libvirt."""
        self._recall()
        self._events.start()
        self._addresses.start()
        self._repositories.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """See nothing any more."""
        with self._condition:
            self._end = True
            self._condition.notify_all()
        self._seen.put(None)
        self._addresses.stop()
        self._repositories.stop()
        self._events.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(SWEEP_SECONDS)

    @property
    def libvirt(self) -> str:
        """`up` or `down`."""
        return "up" if self._events.connection is not None else "down"

    def resync(self) -> None:
        """Look at every object again; what differs from what the manager was told goes into the outbox."""
        with self._condition:
            self._next.update({self._sweep: 0.0, self._look_at_all: 0.0, self._read_facts: 0.0})
            self._condition.notify_all()

    def touched(self, targets: Iterable[Target]) -> None:
        """An operation has worked on these objects, and told how they are now: look at them again, at many of them when there is time."""
        targets = list(targets)
        self._postponed.update(targets)
        self._look_again(targets)

    def resized(self, uuids: Collection[str]) -> None:
        """These VMs may have got other vCPUs or memory, of which libvirt tells in no event: look at them again."""
        self._look_again([("vm", name) for name, domain in list((self._domains or {}).items()) if domain.uuid in uuids])

    def _look_again(self, targets: list[Target]) -> None:
        """At once; at many of them when there is time."""
        if len(targets) <= OBJECTS_AT_ONCE:
            self._look_at(targets)
            return
        with self._condition:
            self._later.update(dict.fromkeys(targets))
            self._rest_until = time.monotonic() + REST_SECONDS
            self._condition.notify_all()

    # --- events

    def _record(self) -> None:
        """Put what was seen into the outbox: everything that waits, in one transaction."""
        batch: list[Optional[Seen]] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._seen.get(timeout=self._damper.wait()))
            while len(batch) < EVENTS_AT_ONCE:
                batch.append(self._seen.get_nowait())
        self._tell(self._damper.let_pass(seen for seen in batch if seen is not None))

    def _tell(self, batch: list[Seen]) -> None:
        with self._store.transaction():
            for seen in batch:
                if seen.kind == RESIZED or (seen.kind == BACK and not self._lost):
                    continue
                self._lost = seen.kind == LOST or (self._lost and seen.kind != BACK)
                self._store.add_event(seen.kind, self._object(seen), seen.severity, seen.data)
        happened = [seen for seen in batch if seen.kind != RESIZED]
        for seen in happened:
            self._take_in(seen)
        self._look_at((seen.object_kind, seen.name) for seen in happened if seen.object_kind)
        self._look_at([(seen.object_kind, seen.name) for seen in batch if seen.kind == RESIZED], RESIZED_SECONDS)

    def _take_in(self, seen: Seen) -> None:
        if seen.kind == BACK:
            self.resync()
        if seen.object_kind != "vm":
            return
        if self._domains is not None and seen.state == "gone":
            self._domains.pop(seen.name, None)
        elif self._domains is not None:
            known = self._domains.get(seen.name)
            self._domains[seen.name] = Domain(seen.uuid, seen.state or (known.state if known else "stopped"))
        if seen.kind == "vm.started":
            self._addresses.started(seen.name)
        elif seen.state in ("stopped", "gone"):
            self._addresses.forget(seen.name)
        elif seen.data.get("state") == "connected":
            self._addresses.ask(seen.name)

    def _object(self, seen: Seen) -> Optional[dict[str, str]]:
        if not seen.object_kind:
            return None
        id = seen.uuid if seen.uuid and seen.object_kind in ("vm", "repository") else identity(seen.object_kind, seen.name, None, self._server_id)
        return {"kind": seen.object_kind, "key": seen.name, "id": id}

    # --- what is to be looked at

    def _look_at(self, targets: Iterable[Target], delay: float = 0.0) -> None:
        due = time.monotonic() + delay
        with self._condition:
            for target in targets:
                self._due.setdefault(target, due)
            self._condition.notify_all()

    def _read(self) -> None:
        """Do what is due: a look at all domains, objects that something happened to, then the other objects."""
        now = time.monotonic()
        for step in [step for step, at in self._next.items() if at <= now]:
            self._next[step] = now + self._periods[step]
            step()
        targets = self._take()
        if targets and self._events.connection is not None:
            began = time.monotonic()
            self._describe(targets)
            self._looked_at += len(targets)
            ended = time.monotonic()
            # What is not urgent takes half of the time at most: operations and the manager wait for the same processor.
            self._rest_until = max(self._rest_until, ended + ended - began)

    def _take(self) -> list[Target]:
        with self._condition:
            now = time.monotonic()
            later = self._later if self._rest_until <= now else {}
            targets = list(islice((target for target, at in self._due.items() if at <= now), OBJECTS_AT_ONCE)) or list(islice(later, OBJECTS_AT_ONCE))
            if not targets and not self._end:
                rest = (self._rest_until,) if self._later else ()
                self._condition.wait(max(0.0, min((*self._due.values(), *self._next.values(), *rest)) - now))
                return []
            for target in targets:
                self._due.pop(target, None)
                self._later.pop(target, None)
            return targets

    def _look_at_all(self) -> None:
        """Have every object looked at, those that are known and those that are there, after what is urgent."""
        with self._driver() as driver:
            if driver is None:
                return
            found = {"vm": list(self._domains or ()), "virtual_disk": list(read_virtual_disks(driver.known_places()))}
            found.update({kind: driver.registry.names(kind) for kind in REGISTERED})
            with told("listing the networks"):
                found["network"] = [network.name() for network in driver.connection.listAllNetworks(0)]
        targets = [(kind, key) for kind, keys in found.items() for key in keys]
        with self._condition:
            self._later.update(dict.fromkeys([*targets, *self._ids]))
        for name, domain in list((self._domains or {}).items()):
            if domain.state == "running":
                self._addresses.ask(name)

    def _sweep(self) -> None:
        """Compare all domains with what is known; what differs twice, with a second between, was told by no event."""
        with self._driver() as driver:
            if driver is None:
                return
            listed = list_domains(driver.connection)
        if self._domains is None:  # nothing is known yet, so nothing has happened either
            self._domains = listed
            return
        differing = differences(self._domains, listed)
        missed = {name: events for name, events in differing.items() if self._suspects.get(name) == events}
        self._suspects = {name: events for name, events in differing.items() if name not in missed}
        self._tell([event for events in missed.values() for event in events])
        if self._suspects:
            self._look_at(("vm", name) for name in self._suspects)
            self._next[self._sweep] = time.monotonic() + SUSPECT_SECONDS

    def _read_facts(self) -> None:
        with self._driver() as driver:
            if driver is not None:
                self.facts = driver.facts()

    def _take_forced_changes(self) -> None:
        def report(changes: list[dict[str, Any]]) -> bool:
            with self._store.transaction():
                for change in changes:
                    self._store.add_event("server.forced_local_change", severity="warning", data=change)
            return self._store.problem is None

        take_forced_changes(self._config.state_directory, report)

    def _tidy_up(self) -> None:
        """After much work, once it is done."""
        if self._looked_at >= MUCH and not self._later:
            self._looked_at = 0
            give_back()

    # --- the objects themselves

    def _describe(self, targets: list[Target]) -> None:
        """Read the objects and put what differs into the outbox, except those that an operation works on."""
        working = {target for target in targets if self._busy(*target)}
        self._postponed |= working  # until `touched`
        free = [target for target in targets if target not in working and not self._hand_over(target)]
        if not free:
            return
        with self._driver() as driver:
            if driver is None:
                return
            try:
                read = [(target, self._description(driver, target)) for target in free]
            except Unreachable:
                self._look_at(free, SUSPECT_SECONDS)
                raise
        if any(target[0] == "server" for target, dummy in read):
            self._next[self._read_facts] = 0.0  # what it is to use decides what its guests can have
        changed_meanwhile = {target for target, dummy in read if self._busy(*target)}
        self._postponed |= changed_meanwhile
        with self._store.transaction():
            for (kind, key), description in read:
                if (kind, key) not in changed_meanwhile and description is not _UNREADABLE:
                    self._put(kind, key, description)

    def _hand_over(self, target: Target) -> bool:
        """Have a running VM's addresses asked for first, after an operation: that may have found some already."""
        if target not in self._postponed:
            return False
        self._postponed.discard(target)
        kind, name = target
        domain = (self._domains or {}).get(name) if kind == "vm" else None
        if domain is None or domain.state != "running":
            return False
        self._addresses.ask(name, tell=True)
        return True

    def _description(self, driver: LibvirtDriver, target: Target) -> Optional[dict[str, Any]]:
        kind, key = target
        try:
            found = driver.read_one(kind, key)
            return None if found is None else describe(kind, key, found, self._server_id)
        except NotAnswering:  # what was told of it last stands until it can be read again
            return _UNREADABLE
        except Unreachable:
            raise
        except DomusError as error:
            _log.warning("%s %s can not be read: %s", kind, key, error)
        except Exception as error:  # one odd object must not hide the others
            _log.error("%s %s can not be described: unexpected %s: %s", kind, key, type(error).__name__, error)
        return _UNREADABLE

    def _put(self, kind: str, key: str, description: Optional[dict[str, Any]]) -> None:
        if description is None:
            self._store.put_object(kind, key, self._ids.pop((kind, key), "") or identity(kind, key, None, self._server_id), None)
        else:
            self._ids[(kind, key)] = description["id"]
            self._store.put_object(kind, key, description["id"], description)

    def _recall(self) -> None:
        """What the manager was told before this agent was started: differences to that have happened meanwhile."""
        descriptions = self._store.objects()
        self._repositories.recall(descriptions)
        for description in descriptions:
            kind, key = description["kind"], description["key"]
            self._ids[(kind, key)] = description["id"]
            self._domains = {} if self._domains is None else self._domains
            if kind == "vm":
                state = description["state"] if description["state"] in ("running", "paused") else "stopped"
                self._domains[key] = Domain(description["id"], state)
                self._addresses.remember(key, tuple(description["measured"].get("addresses") or ()))

    # --- addresses

    def _look_up(self, vm: str) -> Optional[tuple[str, ...]]:
        try:
            with self._driver() as driver:
                return None if driver is None else driver.ask_addresses(vm)
        except DomusError:
            return None

    def _address_changed(self, vm: str) -> None:
        self._look_at([("vm", vm)])

    # --- threads and connections

    @contextlib.contextmanager
    def _driver(self) -> Iterator[Optional[_Reader]]:
        """A driver with a connection of its own, or None while libvirt is away."""
        connection = self._events.connection
        if connection is None:
            yield None
            return
        with told("asking libvirt"), separate(connection) as own:
            yield _Reader(own, self._config, self._addresses)

    def _start_late(self, directory: str) -> None:
        """A repository was mounted after libvirt had started its VMs."""
        try:
            with self._driver() as driver:
                for name in start_late(driver, directory) if driver is not None else ():
                    _log.info("vm %s is started: its repository came late", name)
        except DomusError as error:
            _log.warning("VMs whose repository came late are not started: %s", error)

    def _forever(self, step: Callable[[], None]) -> None:
        while not self._end:
            try:
                step()
            except Unreachable:  # the connection broke: everything is looked at again once libvirt is back
                time.sleep(SUSPECT_SECONDS)
            except Exception as error:  # the agent goes on seeing, whatever it saw
                _log.error("observing: unexpected %s: %s", type(error).__name__, error)
                time.sleep(SUSPECT_SECONDS)


class _Reader(LibvirtDriver):
    """A driver that knows the addresses from the book: reading a VM must not wait for its guest."""

    def __init__(self, connection: Any, config: AgentConfig, book: AddressBook) -> None:
        super().__init__(connection, config.uri, config.state_directory)
        self._book = book

    def addresses(self, vm: str) -> tuple[str, ...]:
        """The addresses as last heard."""
        return self._book.known(vm)

    def facts(self) -> dict[str, Any]:
        """What the server is and can do, without UNTOLD_FACTS."""
        facts = {**read_host(), **(self._server(None).facts or {})}
        return {name: value for name, value in facts.items() if name not in UNTOLD_FACTS}

    def ask_addresses(self, vm: str) -> tuple[str, ...]:
        """The addresses now; may take seconds when a guest does not answer."""
        return super().addresses(vm)


_UNREADABLE: dict[str, Any] = {}
