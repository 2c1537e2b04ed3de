"""Move a VM: what is made ready at the destination, libvirt's peer-to-peer migration from the source, and the clean-up of both.

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
from ..errors import Cancelled, Conflict, DomusError, DriverError, InvalidSpec, Unreachable
from ..model.migration import MigrationSpec, MovingDisk, MovingVm, moving_vm
from ..model.repository import directory_of
from ..planning import migration as planning
from ..planning.migration import MigrationPlan, Verdict, plan_from_dict
from . import image_files
from .bounded import bounded
from .connection import connect, libvirt, separate, told, translate
from .migration_facts import INCOMING, seed_folders
from .registry import write_atomically
from .seed import remove_seed
from .tools import make_folder
from .virtual_disk import notes_of

if TYPE_CHECKING:
    from .driver import LibvirtDriver

OUTGOING = "outgoing"
LARGEST_FILE = 8 << 20
POLL, TELL_SECONDS, PEER_SECONDS, KEEPALIVE = 0.1, 1.0, 10.0, (5, 3)
SETTLE_SECONDS, SETTLE_POLL = 90.0, 0.5
MIB = 1 << 20

Progress = Callable[[str], None]


# --- what is seen of the VM on a server


def look(connection: Any, uuid: str, *, arriving: bool) -> str:
    """The VM on a server, in the words of planning.migration; `arriving` when it is the destination. Raises Unreachable."""
    try:
        domain = connection.lookupByUUIDString(uuid)
        if not domain.isActive():
            return planning.DEFINED
        state, reason = domain.state()
        busy = _is_busy(domain)
        persistent = bool(domain.isPersistent())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return planning.ABSENT
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # it ended between two questions
            return look(connection, uuid, arriving=arriving)
        raise translate(error, "looking at the VM") from None
    return _word(state, reason, busy, persistent, arriving)


def _is_busy(domain: Any) -> bool:
    """Is libvirt at it? What comes in has no statistics while the source's are the ones that count."""
    try:
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return True
        raise


def _word(state: int, reason: int, busy: bool, persistent: bool, arriving: bool) -> str:
    paused = state == libvirt.VIR_DOMAIN_PAUSED
    broken = libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED if paused else getattr(libvirt, "VIR_DOMAIN_RUNNING_POSTCOPY_FAILED", -1)
    if reason == broken and state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_RUNNING):
        return planning.SPLIT
    if paused and arriving and not persistent:
        return planning.ARRIVING
    if busy:
        return planning.MOVING
    return planning.HALTED if paused else planning.RUNS


def look_there(uri: str, uuid: str, *, arriving: bool) -> str:
    """The same on another server, through its libvirt; `silent` when that does not answer."""

    def ask() -> str:
        connection = connect(uri)
        try:
            with contextlib.suppress(libvirt.libvirtError):
                connection.setKeepAlive(*KEEPALIVE)
            return look(connection, uuid, arriving=arriving)
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    try:
        return str(bounded(ask, PEER_SECONDS, "asking the other server"))
    except DomusError:
        return planning.SILENT


# --- the destination


def receive(
    driver: LibvirtDriver, vm: MovingVm, plan: MigrationPlan, contents: Mapping[str, str], *, operation: str, source_uri: str, offer: Mapping[str, Any]
) -> None:
    """Make ready what the VM needs here: empty images for the disks that are copied, with their notes, and the files that come along.

    `contents` are the files by path, base64. Raises Conflict, NoCapacity, InvalidSpec; then nothing is left behind.
    """
    record: dict[str, Any] = {"operation": operation, "vm": dataclasses.asdict(vm), "plan": plan.as_dict(), "source": source_uri, "destination": dict(offer)}
    record["made"] = []
    driver.registry.write(INCOMING, vm.uuid, record)
    try:
        for path, content in contents.items():
            _bring(driver, record, path, content)
        for disk in vm.disks:
            if disk.target in plan.copied:
                _make_disk(driver, record, vm, disk)
    except BaseException:
        discard(driver, vm.uuid)
        raise


def _bring(driver: LibvirtDriver, record: dict[str, Any], path: str, content: str) -> None:
    folder = os.path.dirname(path)
    if os.path.normpath(path) != path or folder not in seed_folders(driver):
        raise InvalidSpec("is no place for a file that comes along", field="path", value=path, remedy="Use the same directories on both servers")
    data = base64.b64decode(content)
    if len(data) > LARGEST_FILE:
        raise InvalidSpec(f"is larger than {LARGEST_FILE} bytes", field="path", value=path)
    _note(driver, record, path)
    make_folder(folder, 0o711)
    write_atomically(path, data, 0o600)


def _make_disk(driver: LibvirtDriver, record: dict[str, Any], vm: MovingVm, disk: MovingDisk) -> None:
    places = driver.known_places()
    path = places.path(disk.place)
    if path != disk.path or os.path.lexists(path):
        raise Conflict("there is a file of this name already", field=f"disks[{disk.name}]", value=path, remedy="Remove it, or rename it")
    _note(driver, record, path)
    if disk.note is not None:
        notes_of(str(directory_of(places.repositories[disk.repository]))).write("virtual_disk", os.path.splitext(os.path.basename(path))[0], disk.note)
    make_folder(os.path.dirname(path), 0o711)
    image_files.create_empty(path, disk.format, disk.size, False)


def _note(driver: LibvirtDriver, record: dict[str, Any], path: str) -> None:
    """Write down what is about to be made: only that may be discarded."""
    record["made"].append(path)
    driver.registry.write(INCOMING, record["vm"]["uuid"], record)


def finish(driver: LibvirtDriver, uuid: str) -> dict[str, Any]:
    """The VM has arrived: give it what libvirt does not move; return what is known of the move ({downtime, total} in ms)."""
    record = driver.registry.read(INCOMING, uuid)
    told_of: dict[str, Any] = {}
    with told("completing the arrival"):
        domain = driver.connection.lookupByUUIDString(uuid)
        if record is not None and record["vm"]["autostart"]:
            domain.setAutostart(1)
        if domain.isActive():
            with contextlib.suppress(libvirt.libvirtError):
                done = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
                told_of = {"downtime": done.get("downtime"), "total": done.get("time_elapsed")}
    driver.registry.remove(INCOMING, uuid)
    return told_of


def resume(driver: LibvirtDriver, uuid: str) -> None:
    """Let a VM that has arrived go on."""
    with told("letting it go on"):
        driver.connection.lookupByUUIDString(uuid).resume()


def drop(driver: LibvirtDriver, uuid: str) -> None:
    """End a VM that did not come, since the source has it, and take its definition away."""
    with told("dropping what came in"):
        _drop(driver, uuid)


def discard(driver: LibvirtDriver, uuid: str) -> list[str]:
    """The VM does not come: delete what was made ready for it, and return the paths. Raises Conflict while a domain of this UUID is here."""
    record = driver.registry.read(INCOMING, uuid)
    if record is None:
        return []
    if look(driver.connection, uuid, arriving=True) != planning.ABSENT:
        raise Conflict("is here: what was made for it stays", object=f"vm {record['vm']['name']}")
    vm, removed = moving_vm(record["vm"]), []
    disks = {disk.path: disk for disk in vm.disks}
    for path in record["made"]:
        if path in disks:
            image_files.remove(path)
            _forget_note(driver, disks[path])
        elif os.path.exists(path):
            os.unlink(path)
        removed.append(path)
    driver.registry.remove(INCOMING, uuid)
    return removed


def _forget_note(driver: LibvirtDriver, disk: MovingDisk) -> None:
    repository = driver.known_places().repositories.get(disk.repository)
    if repository is not None and disk.note is not None:
        notes_of(str(directory_of(repository))).remove("virtual_disk", os.path.splitext(os.path.basename(disk.path))[0])


# --- the source


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
                    connection.setKeepAlive(*KEEPALIVE)
                domain = connection.lookupByUUIDString(self.vm.uuid)
                flags = 0
                for name in self.plan.flags:
                    flags |= getattr(libvirt, f"VIR_MIGRATE_{name}")
                domain.migrateToURI3(self.peer["uri"], self._parameters(), flags)
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
        aborted, downtime_set = False, self.options.downtime is None
        while not self._ended.wait(POLL):
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
        asking = verdict.at_source == planning.ASK and time.monotonic() > deadline - SETTLE_SECONDS + PEER_SECONDS
        if verdict.at_source not in (planning.WAIT, planning.ASK) or asking or time.monotonic() > deadline:
            break
        progress(f"waiting: {verdict.reason}")
        time.sleep(SETTLE_POLL)
    return Outcome(verdict, error)


def go_on(driver: LibvirtDriver, record: dict[str, Any], progress: Progress = lambda line: None, cancelled: Question = never) -> Outcome:
    """Take up a migration whose agent died: follow libvirt, which goes on with it, then settle it. `cancelled` ends it."""
    vm = moving_vm(record["vm"])
    last = time.monotonic()
    while _is_moving(driver, vm.uuid):
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
        return look(driver.connection, uuid, arriving=False) == planning.MOVING
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
    own = look(driver.connection, vm.uuid, arriving=False)
    if own == planning.HALTED and vm.state == "paused":
        own = planning.RUNS  # somebody paused it before: it stands because that is wanted
    # that libvirt's call ended well is proof enough, and saves asking
    proven = own == planning.ABSENT and record.get("succeeded")
    if own == planning.RUNS and vm.state == "running" and record["halted"] and not record.get("held"):
        _hold(driver, vm, record)
        own = planning.HALTED
    there = planning.RUNS if proven else told_there or look_there(uri, vm.uuid, arriving=True)
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
            _drop(driver, vm.uuid)
        elif step in (planning.KEEP, planning.RESUME) and verdict.owner == planning.SOURCE:
            domain = driver.connection.lookupByUUIDString(vm.uuid)
            if (step == planning.RESUME or record.get("held")) and vm.state == "running" and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()
            if vm.autostart:
                domain.setAutostart(1)
    if verdict.owner == planning.DESTINATION:
        _clean_source(driver, vm, plan_from_dict(record["plan"]))
    driver.registry.remove(OUTGOING, vm.uuid)


def _drop(driver: LibvirtDriver, uuid: str) -> None:
    domain = driver.connection.lookupByUUIDString(uuid)
    if domain.isActive():
        domain.destroy()
    if domain.isPersistent():
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def _clean_source(driver: LibvirtDriver, vm: MovingVm, plan: MigrationPlan) -> None:
    """The VM has left: the disks that were copied go, with their notes; so do the files that were brought along."""
    for disk in vm.disks:
        if disk.target in plan.copied and disk.note is not None:
            image_files.remove(disk.path)
            _forget_note(driver, disk)
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
