"""VMs that come and go: what is made ready for one that comes, the operation that sends one away, and the settling of both.

What is under way stands in files (`outgoing`, `incoming`), so an agent that is killed goes on where it was: libvirt itself moves
the VM meanwhile. While a VM is coming its name is locked here, and nobody is told of it before it has arrived.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Optional

from domus_core import engine
from domus_core.driver import Target
from domus_core.errors import Busy, Conflict
from domus_core.libvirt_driver import migration as move
from domus_core.libvirt_driver import migration_arrival as arrival
from domus_core.libvirt_driver import migration_sight as sight
from domus_core.libvirt_driver.bounded import bounded
from domus_core.libvirt_driver.driver import LibvirtDriver
from domus_core.libvirt_driver.migration_facts import INCOMING, as_data, destination_facts, require_domain, source_facts
from domus_core.model.fields import LIVE
from domus_core.model.migration import MovingVm, destination, moving_vm, parse_migration
from domus_core.planning import migration as planning
from domus_core.planning.migration import MigrationPlan, plan_from_dict, plan_migration
from domus_core.planning.steps import Change

from .config import AgentConfig
from .connections import Connections
from .operations import Operation, Operations, Work
from .store import AgentStore

POLL_SECONDS, IDLE_SECONDS, AGAIN_SECONDS = 0.05, 5.0, 10.0
# So long may what was made ready wait for a VM of which nothing is seen here, and a VM that came stand still.
GRACE_SECONDS, STANDING_SECONDS = 120.0, 10.0
MOST_WAIT = 20.0
FACTS_SECONDS = 30.0
QEMU_CONF = "/etc/libvirt/qemu.conf"

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Coming:
    """A VM that is expected here, with the lock on its name."""

    name: str
    lock: contextlib.ExitStack
    targets: tuple[Target, ...]
    absent_since: Optional[float] = None
    halted_since: Optional[float] = None


class Migrations:
    """All migrations of this server. `touched` hears of objects that came or went."""

    def __init__(self, config: AgentConfig, store: AgentStore, connections: Connections, operations: Operations, server_id: Callable[[], str]) -> None:
        self.touched: Callable[[list[Target]], None] = lambda targets: None
        self._config = config
        self._store = store
        self._connections = connections
        self._operations = operations
        self._server_id = server_id
        self._coming: dict[str, _Coming] = {}
        self._ended: dict[str, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._end = False
        self._threads = [threading.Thread(target=one, name=name, daemon=True) for name, one in (("arrivals", self._watch), ("departures", self._settle_all))]
        operations.add_kind("migrate", self._migrate)

    def start(self) -> None:
        """Take up what was under way."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more; what is under way goes on, and the next start takes it up."""
        with self._news:
            self._end = True
            self._news.notify_all()

    def is_coming(self, kind: str, key: str) -> bool:
        """Is this object one that is about to arrive here?"""
        with self._news:
            return any((kind, key) in one.targets for one in self._coming.values())

    def coming(self) -> list[str]:
        """The names of the VMs that are about to arrive here."""
        with self._news:
            return sorted({key for one in self._coming.values() for kind, key in one.targets if kind == "vm"})

    # --- what the manager asks

    def facts(self, vm: str, contents: bool) -> dict[str, Any]:
        """What the VM here is made of; with `contents` also the files that would go along: they hold secrets."""
        with self._connections.driver() as driver:
            found: MovingVm = bounded(lambda: source_facts(driver, vm), FACTS_SECONDS, "reading the VM and its files")
            brought = tuple(file.path for file in found.files if file.bring) if contents else ()
            return {"vm": as_data(found), "contents": move.contents_of(found, MigrationPlan("", brought=brought))}

    def offer(self, vm: Mapping[str, Any]) -> dict[str, Any]:
        """What this server is for that VM."""
        with self._connections.driver() as driver:
            return self._offer(driver, moving_vm(vm))

    def receive(self, operation: str, vm: Mapping[str, Any], options: Mapping[str, Any], source: str, contents: Mapping[str, str]) -> dict[str, Any]:
        """Make ready for the VM, whose libvirt is at the address `source`; again for the same operation is fine. Raises Refused, Busy."""
        moving = moving_vm(vm)
        with self._connections.driver() as driver:
            before = driver.registry.read(INCOMING, moving.uuid)
            if before is not None and before["operation"] == operation:
                return {"destination": before["destination"], "plan": before["plan"]}
            with contextlib.ExitStack() as lock:
                lock.enter_context(driver.locked([("vm", moving.name)], [], patience=1.0))
                told = self._offer(driver, moving)
                plan = plan_migration(moving, destination(told), parse_migration(options))
                uri = move.uri_for(self._config.migration_uri, source)
                arrival.receive(
                    driver, moving, plan, {path: contents[path] for path in plan.brought if path in contents}, operation=operation, source_uri=uri, offer=told
                )
                self._expect(moving, plan, lock.pop_all())
        return {"destination": told, "plan": plan.as_dict()}

    def settle(self, uuid: str, discard: bool, wait: float, there: Optional[str]) -> dict[str, Any]:
        """What is to be seen of the VM here, after at most `wait` seconds of waiting for it to be settled.

        `discard`: it does not come. `there`: what the manager sees of it at the destination, which this server may not reach.
        """
        deadline = time.monotonic() + min(wait, MOST_WAIT)
        while True:
            with self._connections.driver() as driver:
                if discard and sight.look(driver.connection, uuid, arriving=True) == planning.ABSENT:
                    self._discard(driver, uuid)
                outgoing = driver.registry.read(move.OUTGOING, uuid) if there else None
                if outgoing is not None:
                    self._settle_one(driver, outgoing, there)
                told = self._told(driver, uuid)
            if not told["open"] or time.monotonic() >= deadline:
                return told
            with self._news:
                self._news.wait(0.2)

    def _told(self, driver: LibvirtDriver, uuid: str) -> dict[str, Any]:
        incoming = driver.registry.read(INCOMING, uuid)
        outgoing = driver.registry.read(move.OUTGOING, uuid)
        seen = sight.look(driver.connection, uuid, arriving=outgoing is None)
        with self._news:
            ended = dict(self._ended.get(uuid) or {})
        return {"seen": seen, "open": incoming is not None or outgoing is not None, "mark": self._store.mark(), **ended}

    def _offer(self, driver: LibvirtDriver, vm: MovingVm) -> dict[str, Any]:
        address = self._config.migration_address or _libvirts_migration_host()
        tls = move.is_encrypted(self._config.migration_uri)
        return as_data(
            bounded(lambda: destination_facts(driver, vm, server=self._server_id(), address=address, tls=tls), FACTS_SECONDS, "reading what is here")
        )

    # --- a VM comes

    def _expect(self, vm: MovingVm, plan: MigrationPlan, lock: contextlib.ExitStack) -> None:
        disks = [_disk_key(disk.place) for disk in vm.disks if disk.target in plan.copied]
        targets = (("vm", vm.name), *(("virtual_disk", key) for key in disks))
        with self._news:
            self._ended.pop(vm.uuid, None)
            self._coming[vm.uuid] = _Coming(vm.name, lock, targets)
            self._news.notify_all()

    def _watch(self) -> None:
        """Look at what comes, often while something does."""
        self._recall()
        while not self._end:
            with self._news:
                if not self._coming:
                    self._news.wait(IDLE_SECONDS)
                coming = list(self._coming.items())
            try:
                if coming:
                    with self._connections.driver() as driver:
                        for uuid, one in coming:
                            self._look_at(driver, uuid, one)
            except Exception as error:  # libvirt may be away; what comes is looked at again
                _log.warning("looking at what comes: %s", error)
                time.sleep(1.0)
            time.sleep(POLL_SECONDS)

    def _recall(self) -> None:
        """What an earlier agent expected."""
        while not self._end:
            try:
                with self._connections.driver() as driver:
                    for record in move.open_records(driver, INCOMING):
                        vm, lock = moving_vm(record["vm"]), contextlib.ExitStack()
                        lock.enter_context(driver.locked([("vm", vm.name)], [], patience=5.0))
                        self._expect(vm, plan_from_dict(record["plan"]), lock)
                return
            except Exception as error:
                _log.warning("taking up what was coming: %s", error)
                time.sleep(1.0)

    def _look_at(self, driver: LibvirtDriver, uuid: str, one: _Coming) -> None:
        seen, now = sight.look(driver.connection, uuid, arriving=True), time.monotonic()
        one.absent_since = (one.absent_since or now) if seen == planning.ABSENT else None
        one.halted_since = (one.halted_since or now) if seen == planning.HALTED else None
        if seen == planning.ABSENT and now - (one.absent_since or now) > GRACE_SECONDS:
            self._discard(driver, uuid)
        elif seen in (planning.RUNS, planning.DEFINED):
            self._arrived(driver, uuid, one, seen)
        elif seen == planning.HALTED:
            self._standing(driver, uuid, one, now)

    def _standing(self, driver: LibvirtDriver, uuid: str, one: _Coming, now: float) -> None:
        """It came and stands: as it did before, or since libvirt did not get so far as to let it go on."""
        record = driver.registry.read(INCOMING, uuid) or {}
        if record["vm"]["state"] == "paused":
            self._arrived(driver, uuid, one, planning.HALTED)
        elif now - (one.halted_since or now) > STANDING_SECONDS:
            verdict = planning.settle(sight.look_there(record["source"], uuid, arriving=False), planning.HALTED)
            one.halted_since = now
            if verdict.at_destination == planning.FINISH:
                arrival.resume(driver, uuid)
            elif verdict.at_destination == planning.DROP:
                arrival.drop(driver, uuid)

    def _arrived(self, driver: LibvirtDriver, uuid: str, one: _Coming, seen: str) -> None:
        record = driver.registry.read(INCOMING, uuid) or {}
        told = arrival.finish(driver, uuid)
        data = {"reason": "migrated", "source": record.get("source"), **told}
        self._store.add_event("vm.migrated", {"kind": "vm", "key": one.name, "id": uuid}, "info", data, record.get("operation"))
        self._let_go(uuid, {"arrived": True, "final": seen, **told})

    def _discard(self, driver: LibvirtDriver, uuid: str) -> None:
        arrival.discard(driver, uuid)
        self._let_go(uuid, {"arrived": False})

    def _let_go(self, uuid: str, told: dict[str, Any]) -> None:
        with self._news:
            one = self._coming.pop(uuid, None)
            self._ended[uuid] = told
            self._news.notify_all()
        if one is not None:
            one.lock.close()
            self.touched(list(one.targets))

    # --- a VM goes

    def _migrate(self, content: Mapping[str, Any]) -> tuple[Work, list[Target]]:
        parse_migration(content["options"])
        name = self._store.key_of("vm", content["vm"]) or content["vm"]
        return lambda operation: self._carry_out(operation, content), [("vm", name)]

    def _carry_out(self, operation: Operation, content: Mapping[str, Any]) -> dict[str, Any]:
        options = parse_migration(content["options"])
        with self._connections.driver() as driver:
            name = require_domain(driver.connection, content["vm"]).name()
            with driver.locked([("vm", name)], [], patience=content["patience"]):
                vm = source_facts(driver, name)
                before = driver.registry.read(move.OUTGOING, vm.uuid)
                progress, cancelled = self._operations.progress(operation), self._operations.cancelled(operation)
                if before is not None:
                    outcome = move.go_on(driver, before, progress, cancelled)
                    vm, plan, peer = moving_vm(before["vm"]), plan_from_dict(before["plan"]), before["peer"]
                else:
                    plan, peer = self._planned(vm, content)
                    outcome = move.migrate(driver, vm, plan, options, peer, operation=operation.id, progress=progress, cancelled=cancelled)
        return self._reported(operation, content, vm, plan, peer, outcome)

    def _planned(self, vm: MovingVm, content: Mapping[str, Any]) -> tuple[MigrationPlan, dict[str, str]]:
        """The plan, which must be that which the destination has made ready for."""
        there = destination(content["destination"])
        ready = plan_from_dict(content["plan"])
        plan = plan_migration(dataclasses.replace(vm, probes=content["probes"]), there, parse_migration(content["options"]))
        if (plan.way, plan.copied, plan.brought) != (ready.way, ready.copied, ready.brought):
            raise Conflict("has changed since the destination made ready for it", object=f"vm {vm.name}", remedy="Move it again")
        peer = {"uri": move.uri_for(self._config.migration_uri, content["address"]), "name": there.name, "server": there.server}
        return plan, {**peer, "data": move.data_uri(there.address or content["address"]), "tls_name": content["tls_name"] or ""}

    def _reported(
        self, operation: Operation, content: Mapping[str, Any], vm: MovingVm, plan: MigrationPlan, peer: Mapping[str, str], outcome: move.Outcome
    ) -> dict[str, Any]:
        error = move.explain(outcome, vm.name, content["source_name"] or "the source", str(peer["name"]))
        gone = [("vm", vm.name), *(("virtual_disk", _disk_key(disk.place)) for disk in vm.disks if disk.target in plan.copied and disk.note is not None)]
        operation.results = [engine.ObjectResult(kind, key) for kind, key in gone]
        told: dict[str, Any] = {"kind": "vm", "name": vm.name, "changed": error is None, "actions": ["migrate"] if error is None else [], "changes": []}
        if error is None:
            operation.described = [(kind, key, None) for kind, key in gone]
            told["changes"] = [Change("server", content["source_name"], peer["name"], LIVE).as_dict()]
        else:
            operation.results[0].error = error
            told["error"] = error.as_dict()
        verdict = dataclasses.asdict(outcome.verdict)
        kept = move.kept_at_source(vm, plan) if error is None else []
        return {"objects": [told], "changed": error is None, "verdict": verdict, "kept": kept, "warnings": list(plan.warnings), "uuid": vm.uuid}

    def _settle_all(self) -> None:
        """Settle what an earlier agent began to send away, or what could not be settled yet."""
        while not self._end:
            try:
                with self._connections.driver() as driver:
                    for record in move.open_records(driver, move.OUTGOING):
                        self._settle_one(driver, record)
            except Exception as error:
                _log.warning("settling what has left: %s", error)
            with self._news:
                if not self._end:
                    self._news.wait_for(lambda: self._end, AGAIN_SECONDS)

    def _settle_one(self, driver: LibvirtDriver, record: dict[str, Any], there: Optional[str] = None) -> None:
        vm = moving_vm(record["vm"])
        with contextlib.suppress(Busy), driver.locked([("vm", vm.name)], [], patience=0.0):
            now = driver.registry.read(move.OUTGOING, vm.uuid)
            if now is None:
                return
            verdict = move.settle_outgoing(driver, now, there) if there else move.go_on(driver, now).verdict
            if driver.registry.read(move.OUTGOING, vm.uuid) is not None:
                return
            _log.info("vm %s: %s", vm.name, verdict.reason)
            severity = "info" if verdict.owner in (planning.SOURCE, planning.DESTINATION) else "error"
            data = {"has_it": verdict.owner, "reason": verdict.reason, "destination": record["peer"]["name"]}
            self._store.add_event("vm.migration_settled", {"kind": "vm", "key": vm.name, "id": vm.uuid}, severity, data, record["operation"])
            self.touched([("vm", vm.name), *(("virtual_disk", _disk_key(disk.place)) for disk in vm.disks)])


def _libvirts_migration_host(path: str = QEMU_CONF) -> str:
    """The address that libvirt would name for the memory of VMs that come (the role server sets it), or nothing."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        for line in file:
            name, dummy, value = line.partition("=")
            if name.strip() == "migration_host":
                return value.split("#")[0].strip().strip('"')
    return ""


def _disk_key(place: str) -> str:
    """`repository/name` of a virtual disk at `repository/folder/name.extension`."""
    repository, dummy, file = place.partition("/")
    return f"{repository}/{file.rsplit('/', 1)[-1].rsplit('.', 1)[0]}"
