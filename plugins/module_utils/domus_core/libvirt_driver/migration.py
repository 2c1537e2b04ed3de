"""Move a VM away: libvirt's peer-to-peer migration to a server that made ready for it (migration_arrival.py), and what follows from its outcome.

Each side writes down what it has begun (registry kinds `outgoing` and `incoming`) before it begins, and forgets it when the
migration is settled: whoever finds such a record looks at both servers and settles it. What was copied is deleted at the source
only once the VM is seen to have left it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional
from urllib.parse import urlsplit

from ..cancelling import Question, never
from ..cluster.wishes import Migration
from ..errors import Cancelled, Conflict, DomusError, DriverError, Unreachable
from ..model.migration import MigrationSpec, MovingVm, moving_vm
from ..planning import migration as planning
from ..planning.migration import MigrationPlan, Verdict, plan_from_dict
from . import image_files
from . import migration_sight as sight
from .connection import connect, libvirt, separate, told
from .dead_peers import DeadPeers
from .migration_arrival import drop, forget_note
from .migration_facts import LARGEST_FILE
from .migration_flags import libvirt_flags
from .seed import remove_seed

if TYPE_CHECKING:
    from .driver import LibvirtDriver

OUTGOING = "outgoing"
POLL, TELL_SECONDS = 0.1, 1.0
SETTLE_SECONDS, SETTLE_POLL = 90.0, 0.5
MIB = 1 << 20

Progress = Callable[[str], None]


@dataclasses.dataclass
class Outcome:
    """How a migration ended: whose the VM is, and what was said on the way."""

    verdict: Verdict
    error: Optional[DomusError] = None
    kept: tuple[str, ...] = ()


def contents_of(vm: MovingVm, plan: MigrationPlan) -> dict[str, str]:
    """The files that go along, by path, base64. They hold secrets: never to be logged or stored. Raises Conflict when one is too large."""
    contents = {}
    for path in plan.brought:
        if os.path.getsize(path) > LARGEST_FILE:
            raise Conflict(f"is larger than {LARGEST_FILE} bytes and can not be brought along", object=f"vm {vm.name}", field="cloud_init", value=path)
        with open(path, "rb") as file:
            contents[path] = base64.b64encode(file.read()).decode()
    return contents


def migrate(
    driver: LibvirtDriver,
    vm: MovingVm,
    plan: MigrationPlan,
    options: MigrationSpec,
    peer: Mapping[str, str],
    *,
    operation: str,
    progress: Progress = lambda line: None,
    cancelled: Question = never,
) -> Outcome:
    """Have libvirt move the VM, whose lock is held, and settle what came of it.

    `peer` is the destination: `uri` of its libvirt as this server reaches it, `name` for people, and perhaps `data` (the URI of the
    memory's connection) and `tls_name` (the name in its certificate).
    """
    record = {"operation": operation, "vm": dataclasses.asdict(vm), "plan": plan.as_dict(), "peer": dict(peer), "halted": False}
    driver.registry.write(OUTGOING, vm.uuid, record)
    with told(f"moving domain {vm.name}"):
        domain = driver.connection.lookupByUUIDString(vm.uuid)
        if vm.autostart:  # a source that loses its power in the middle must not start an older copy by itself
            domain.setAutostart(0)

    def write_down(**news: bool) -> None:
        record.update(news)
        driver.registry.write(OUTGOING, vm.uuid, record)

    error = _Mover(driver, vm, plan, options, peer, lambda: write_down(halted=True)).run(progress, cancelled)
    write_down(succeeded=error is None)
    return _settled(driver, record, error, progress)


class _Mover:
    """One call to libvirt, watched from another connection."""

    def __init__(
        self, driver: LibvirtDriver, vm: MovingVm, plan: MigrationPlan, options: MigrationSpec, peer: Mapping[str, str], on_halt: Callable[[], None]
    ) -> None:
        self.driver = driver
        self.vm = vm
        self.plan = plan
        self.options = options
        self.peer = peer
        self.on_halt = on_halt
        self.halted = False
        self.post_copy = False
        self.dead_peers = _dead_peers(vm.uuid, peer)
        self._ended = threading.Event()
        self._error: Optional[DomusError] = None

    def run(self, progress: Progress, cancelled: Question) -> Optional[DomusError]:
        """Move it; return the error, or None."""
        threading.Thread(target=self._call, name=f"migrate-{self.vm.name}", daemon=True).start()
        with separate(self.driver.connection) as connection:
            self._watch(connection, progress, cancelled)
        return self._error

    def _call(self) -> None:
        try:
            with told(f"moving {self.vm.name} to {self.peer['name']}"), separate(self.driver.connection) as connection:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.setKeepAlive(*sight.KEEPALIVE)
                domain = connection.lookupByUUIDString(self.vm.uuid)
                pool = self.driver.pool
                if pool is not None and domain.isActive() and pool.keeps_up(domain):
                    pool.move(domain, Migration(self.peer["name"], self.peer["uri"], tuple(self.plan.flags), self._parameters()))
                    return
                domain.migrateToURI3(self.peer["uri"], self._parameters(), libvirt_flags(self.plan.flags))
        except DomusError as error:
            self._error = error
        except Exception as error:
            self._error = DriverError(f"unexpected {type(error).__name__}: {error}", remedy="Please report this")
        finally:
            self._ended.set()

    def _parameters(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if self.plan.way == planning.OFFLINE:
            return values
        if self.peer.get("data"):
            values[libvirt.VIR_MIGRATE_PARAM_URI] = self.peer["data"]
        if self.peer.get("tls_name") and "TLS" in self.plan.flags:
            values[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = self.peer["tls_name"]
        if self.options.bandwidth:
            values[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = self.options.bandwidth
        if self.plan.copied:
            values[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(self.plan.copied)
        if (self.options.multifd or 1) > 1:
            values[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = self.options.multifd
        return values

    def _watch(self, connection: Any, progress: Progress, cancelled: Question) -> None:
        """Until the call ends: tell how far it is, and end it when it is no longer wanted. The connection may break; the call tells that."""
        began = last = time.monotonic()
        aborted, downtime_set, problem = False, self.options.downtime is None, ""
        while not self._ended.wait(POLL):
            self.dead_peers.watch()
            if self.dead_peers.problem != problem:
                problem = self.dead_peers.problem
                progress(problem)
            now = time.monotonic()
            late = self.options.timeout is not None and now - began > self.options.timeout
            try:
                domain = connection.lookupByUUIDString(self.vm.uuid)
                if not self.halted and self.vm.state == "running" and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                    self.halted = True
                    self.on_halt()
                if not downtime_set:
                    domain.migrateSetMaxDowntime(self.options.downtime, 0)
                    downtime_set = True
                if (cancelled() or late) and not aborted and not self.post_copy:
                    domain.abortJob()
                    aborted = True
                    progress("aborting" if not late else f"aborting: it takes longer than {self.options.timeout} s")
                stats = domain.jobStats() if now - last >= TELL_SECONDS or self.options.post_copy else {}
            except libvirt.libvirtError:
                continue
            if self.options.post_copy and not self.post_copy and stats.get("memory_iteration", 0) >= 2:
                self._switch(domain, progress)
            if stats.get("data_total") and now - last >= TELL_SECONDS:
                last = now
                progress(_described(stats))

    def _switch(self, domain: Any, progress: Progress) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            domain.migrateStartPostCopy(0)
            self.post_copy = True
            progress("the first pass is done: it goes on at the destination and fetches the rest of its memory")


def _dead_peers(uuid: str, peer: Mapping[str, str]) -> DeadPeers:
    return DeadPeers(uuid, urlsplit(peer.get("data") or peer["uri"]).hostname or "")


def _described(stats: Mapping[str, Any]) -> str:
    """How far it is, for people."""
    total, left = stats["data_total"], stats.get("data_remaining", 0)
    rate = (stats.get("memory_bps", 0) + stats.get("disk_bps", 0)) // MIB
    line = f"{100 * (total - left) // total}% ({left // MIB} MiB left of {total // MIB} MiB"
    line += f", {rate} MiB/s" if rate else ""
    line += f", pass {stats['memory_iteration']}" if stats.get("memory_iteration", 0) > 1 else ""
    return line + (f", expected downtime {stats['downtime']} ms)" if stats.get("downtime") else ")")


def _settled(driver: LibvirtDriver, record: dict[str, Any], error: Optional[DomusError], progress: Progress) -> Outcome:
    """Settle it now, for as long as anybody is still at it; what can not be settled yet is left to `settle_outgoing` later."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            verdict = settle_outgoing(driver, record)
        except Unreachable:  # libvirt here is being restarted
            if time.monotonic() > deadline:
                raise
            time.sleep(SETTLE_POLL)
            reconnect(driver)
            continue
        asking = verdict.at_source == planning.ASK and time.monotonic() > deadline - SETTLE_SECONDS + sight.PEER_SECONDS
        if verdict.at_source not in (planning.WAIT, planning.ASK) or asking or time.monotonic() > deadline:
            break
        progress(f"waiting: {verdict.reason}")
        time.sleep(SETTLE_POLL)
    return Outcome(verdict, error)


def go_on(driver: LibvirtDriver, record: dict[str, Any], progress: Progress = lambda line: None, cancelled: Question = never) -> Outcome:
    """Take up a migration whose agent died: follow libvirt, which goes on with it, then settle it. `cancelled` ends it."""
    vm = moving_vm(record["vm"])
    last, dead_peers = time.monotonic(), _dead_peers(vm.uuid, record["peer"])
    dead_peers.watch()  # before libvirt is asked, which may wait for QEMU
    while _is_moving(driver, vm.uuid):
        dead_peers.watch()
        with contextlib.suppress(libvirt.libvirtError):
            domain = driver.connection.lookupByUUIDString(vm.uuid)
            if cancelled():
                domain.abortJob()
            stats = domain.jobStats()
            if stats.get("data_total") and time.monotonic() - last >= TELL_SECONDS:
                last = time.monotonic()
                progress(_described(stats))
        time.sleep(POLL)
    return _settled(driver, record, None, progress)


def _is_moving(driver: LibvirtDriver, uuid: str) -> bool:
    try:
        return sight.look(driver.connection, uuid, arriving=False) == planning.MOVING
    except Unreachable:
        reconnect(driver)
        return False


def reconnect(driver: LibvirtDriver) -> None:
    """Another connection in place of one that broke, if libvirt is back."""
    with contextlib.suppress(Unreachable):
        fresh, old = connect(driver.uri), driver.connection
        driver.connection = fresh
        with contextlib.suppress(libvirt.libvirtError):
            old.close()


def settle_outgoing(driver: LibvirtDriver, record: dict[str, Any], told_there: Optional[str] = None) -> Verdict:
    """Look at both servers and do the source's part of what follows; the record goes once that is done. Raises Unreachable, DriverError.

    `told_there` is what somebody else sees at the destination, for a source that can not reach it.
    """
    vm, uri = moving_vm(record["vm"]), str(record["peer"]["uri"])
    own = sight.look(driver.connection, vm.uuid, arriving=False)
    if own == planning.HALTED and vm.state == "paused":
        own = planning.RUNS  # somebody paused it before: it stands because that is wanted
    # that libvirt's call ended well is proof enough, and saves asking
    proven = own == planning.ABSENT and record.get("succeeded")
    if own == planning.RUNS and vm.state == "running" and record["halted"] and not record.get("held"):
        _hold(driver, vm, record)
        own = planning.HALTED
    there = planning.RUNS if proven else told_there or sight.look_there(uri, vm.uuid, arriving=True)
    verdict = planning.settle(_since_held(driver, record, own, there), there)
    _act(driver, vm, record, verdict)
    return verdict


def _hold(driver: LibvirtDriver, vm: MovingVm, record: dict[str, Any]) -> None:
    """It was handed over and goes on here: it may run there as well, so it stands until that is known. Once only: who resumes it then has decided."""
    with told(f"holding {vm.name}"):
        driver.connection.lookupByUUIDString(vm.uuid).suspend()
    record["held"] = True
    driver.registry.write(OUTGOING, vm.uuid, record)


def _since_held(driver: LibvirtDriver, record: dict[str, Any], own: str, there: str) -> str:
    """What stands only because we hold it counts as running, unless the destination runs it, or was silent meanwhile: then it may have run there."""
    if own != planning.HALTED or not record.get("held"):
        return own
    if there == planning.SILENT and not record.get("unseen"):
        record["unseen"] = True
        driver.registry.write(OUTGOING, record["vm"]["uuid"], record)
    return planning.HALTED if record.get("unseen") or there == planning.RUNS else planning.RUNS


def _act(driver: LibvirtDriver, vm: MovingVm, record: Mapping[str, Any], verdict: Verdict) -> None:
    step = verdict.at_source
    if step in (planning.WAIT, planning.ASK):
        return
    with told(f"settling the move of {vm.name}"):
        if step == planning.DROP:
            drop(driver, vm.uuid)
        elif step in (planning.KEEP, planning.RESUME) and verdict.owner == planning.SOURCE:
            domain = driver.connection.lookupByUUIDString(vm.uuid)
            if (step == planning.RESUME or record.get("held")) and vm.state == "running" and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()
            if vm.autostart:
                domain.setAutostart(1)
    if verdict.owner == planning.DESTINATION:
        _clean_source(driver, vm, plan_from_dict(record["plan"]))
    driver.registry.remove(OUTGOING, vm.uuid)


def _clean_source(driver: LibvirtDriver, vm: MovingVm, plan: MigrationPlan) -> None:
    """The VM has left: the disks that were copied go, with their notes; so do the files that were brought along."""
    for disk in vm.disks:
        if disk.target in plan.copied and disk.note is not None:
            image_files.remove(disk.path)
            forget_note(driver, disk)
    for file in vm.files:
        if file.path in plan.brought and file.use == "cloud_init":
            remove_seed(file.path)


def kept_at_source(vm: MovingVm, plan: MigrationPlan) -> list[str]:
    """The disks that were copied and stay at the source, since Domus did not make them."""
    return [disk.path for disk in vm.disks if disk.target in plan.copied and disk.note is None]


def open_records(driver: LibvirtDriver, kind: str) -> Iterator[dict[str, Any]]:
    """What is not settled yet: OUTGOING or INCOMING."""
    for uuid in driver.registry.names(kind):
        record = driver.registry.read(kind, uuid)
        if record is not None:
            yield record


def explain(outcome: Outcome, vm: str, source: str, destination: str) -> Optional[DomusError]:
    """The error that tells whose the VM is now; None when it has arrived."""
    verdict, error = outcome.verdict, outcome.error
    if verdict.owner == planning.DESTINATION:
        return None
    where = {planning.SOURCE: f"it is on {source} as before", planning.NOBODY: "neither server has it", planning.BOTH: f"{source}'s copy was ended"}
    told_of = where.get(verdict.owner, f"which server has it is not known yet: {verdict.reason}")
    remedy = f"It is settled once both answer: domus vm show {vm}" if verdict.owner == planning.UNKNOWN else "Mend that, then move it again"
    if error is None:
        return DriverError(f"was not moved: {told_of} ({verdict.reason})", object=f"vm {vm}", remedy=remedy)
    kind = type(error)
    message = f"was not moved: {told_of}. {error.message}"
    if kind is Cancelled or "aborted" in error.message.lower() or "canceled" in error.message.lower():
        return Cancelled(message, object=f"vm {vm}", remedy="")
    return kind(message, object=f"vm {vm}", remedy=error.remedy or remedy)


def uri_for(template: str, address: str) -> str:
    """The libvirt URI of a server at an address."""
    return template.replace("{address}", f"[{address}]" if ":" in address and not address.startswith("[") else address)


def is_encrypted(uri: str) -> bool:
    """Is the connection one of TLS?"""
    return urlsplit(uri).scheme.endswith("+tls")


def data_uri(address: str) -> str:
    """Where the memory goes: without it libvirt would tell the destination's host name, which the source may not know."""
    return f"tcp://[{address}]" if ":" in address else f"tcp://{address}"
