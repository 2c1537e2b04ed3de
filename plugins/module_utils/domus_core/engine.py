"""Apply a document to a server: lock, read, plan, and take the steps. All doors lead here."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Optional

from .cancelling import Question, cancellable, never, require_not_cancelled
from .driver import Driver, Target
from .errors import Cancelled, Conflict, DomusError, DriverError, Moved, Unreachable
from .model.document import Site
from .model.fields import plain
from .model.kind import is_absent
from .model.kinds import KINDS
from .model.snapshot import Found, Snapshot
from .model.virtual_disk import own_disk_name
from .planning.comparison import compare
from .planning.live import waiting_after, waiting_now
from .planning.reconcile import Plan, plan
from .planning.steps import CREATE, DELETE, KILL, STOP, Change, Step

WORKERS = 4
PATIENCE = 60.0
POLL = 0.5

Progress = Callable[[str], None]


@dataclasses.dataclass
class ObjectResult:
    """What happened, or would happen, to one object; `note` is what whoever asked should know of it besides."""

    kind: str
    key: str
    steps: tuple[Step, ...] = ()
    restart_required: tuple[str, ...] = ()
    error: Optional[DomusError] = None
    found: Optional[Found] = None
    note: str = ""

    @property
    def changed(self) -> bool:
        """Is, or would be, anything different afterwards?"""
        return bool(self.steps)

    @property
    def changes(self) -> list[Change]:
        """All changes of all steps."""
        return [change for step in self.steps for change in step.changes]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON-able data, secrets masked."""
        data: dict[str, Any] = {"kind": self.kind, "name": self.key, "changed": self.changed, "actions": [step.action for step in self.steps]}
        data["changes"] = [change.as_dict() for change in self.changes]
        data["restart_required"] = list(self.restart_required)
        if self.note:
            data["note"] = self.note
        if self.error is not None:
            data["error"] = self.error.as_dict()
        if self.found is not None:
            measured = dataclasses.asdict(self.found.state)
            data["state"] = {name: list(value) if isinstance(value, tuple) else value for name, value in measured.items()}
        return data


@dataclasses.dataclass
class Report:
    """What an apply did, or would do in check mode: one result for each object of the document, and for what it brought along.

    `fingerprint` stands for what was found and the steps that were planned for it.
    """

    site: str
    check: bool
    results: list[ObjectResult]
    fingerprint: str = ""

    @property
    def changed(self) -> bool:
        """Is, or would be, anything different afterwards?"""
        return any(result.changed for result in self.results)

    @property
    def errors(self) -> list[DomusError]:
        """The errors of all objects."""
        return [result.error for result in self.results if result.error is not None]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data, secrets masked."""
        return {"site": self.site, "changed": self.changed, "check": self.check, "objects": [result.as_dict() for result in self.results]}


def apply(
    site: Site,
    driver: Driver,
    *,
    check: bool = False,
    wait_for_address: float = 0.0,
    patience: float = PATIENCE,
    progress: Progress = lambda line: None,
    expected: Optional[str] = None,
    existing: Optional[Mapping[str, str]] = None,
    cancelled: Question = never,
) -> Report:
    """Make the server match the document, or only say what that would do (`check`).

    `wait_for_address` is how many seconds wanted-running VMs get to have an IP address (0: do not wait); `patience` how long
    to wait for another apply that holds the same objects; `expected` the fingerprint of the plan that is to be carried out, and
    no other: Conflict when the server has changed since; `existing` the VMs that exist somewhere, by name with their UUIDs: one of
    those that is not on this server has Moved as its error, and is never made here. Refusals raise before anything is touched; a failure while working
    is in the report, and independent objects go on. Once `cancelled` says so no other step is begun: what is left undone has
    Cancelled as its error.
    """
    with cancellable(cancelled), driver.locked(_changing(site), _using(site), patience=patience):
        snapshot = driver.read(site)
        here, moved = _without_moved(site, snapshot, existing or {})
        planned = plan(here, snapshot)
        results = _results(here, snapshot, planned)
        fingerprint = _fingerprint(results)
        if expected not in (None, fingerprint):
            raise Conflict("the server has changed since the plan was made", object="plan", remedy="Make the plan again, look at it, then apply that one")
        if not check:
            _execute(results, snapshot, driver, site.name, progress, cancelled)
    _finish(results, snapshot, driver, check)
    if wait_for_address and not check:
        _wait_for_addresses(here, results, driver, wait_for_address, cancelled)
    return Report(site.name, check, [*results.values(), *moved], fingerprint)


def _without_moved(site: Site, snapshot: Snapshot, existing: Mapping[str, str]) -> tuple[Site, list[ObjectResult]]:
    """The site without the VMs that exist elsewhere by now, and a result for each of those."""
    wanted = site.wanted("vm")
    gone = {name: existing[name] for name in wanted if name in existing and snapshot.find("vm", name) is None}
    if not gone:
        return site, []
    left = {**site.objects, "vm": {name: spec for name, spec in wanted.items() if name not in gone}}
    return Site(site.name, left), [ObjectResult("vm", name, error=_moved(name, uuid)) for name, uuid in gone.items()]


def _moved(name: str, uuid: Optional[str] = None) -> Moved:
    return Moved("is not on this server any more", object=f"vm {name}", value=uuid, remedy="Look where it is now, and apply again")


def _changing(site: Site) -> list[Target]:
    return [(kind.name, key) for kind in KINDS for key in site.wanted(kind.name)]


def _using(site: Site) -> list[Target]:
    used = dict.fromkeys(need for kind in KINDS for spec in site.wanted(kind.name).values() if not is_absent(spec) for need in needs(kind.name, spec))
    return [target for target in used if target[1] not in site.wanted(target[0])]


def needs(kind: str, spec: Any) -> Iterable[Target]:
    """The objects that this one can not be made without."""
    if kind in ("template", "iso") and spec.image:
        yield "repository", spec.image.split("/", 1)[0]
    if kind == "virtual_disk":
        yield "repository", spec.repository
    if kind == "server_pool" and spec.file_system:
        yield "repository", spec.file_system
    if kind == "vm":
        for nic in spec.nics or ():
            if nic.network:
                yield "network", nic.network
        for drive in spec.cdroms or ():
            if drive.iso:
                yield "iso", drive.iso
    for disk in (spec,) if kind == "virtual_disk" else (spec.disks or ()) if kind == "vm" else ():
        if disk.template:
            yield "template", disk.template
        if kind == "vm" and disk.virtual_disk:
            yield "virtual_disk", disk.virtual_disk
        if kind == "vm" and disk.repository:
            yield "repository", disk.repository
            yield "virtual_disk", f"{disk.repository}/{own_disk_name(spec.name, disk.name)}"


def _results(site: Site, snapshot: Snapshot, planned: Plan) -> dict[Target, ObjectResult]:
    results: dict[Target, ObjectResult] = {}
    for step in planned.steps:
        result = results.setdefault((step.kind, step.key), ObjectResult(step.kind, step.key))
        result.steps = (*result.steps, step)
    for kind, key in _changing(site):
        results.setdefault((kind, key), ObjectResult(kind, key))
    for (kind, key), result in results.items():
        result.found = snapshot.find(kind, key)
    return results


def _fingerprint(results: dict[Target, ObjectResult]) -> str:
    told = hashlib.sha256()
    for (kind, key), result in results.items():
        steps = [(one.action, [(change.field, plain(change.before), plain(change.after), change.effect) for change in one.changes]) for one in result.steps]
        told.update(repr((kind, key, result.found.fingerprint if result.found else None, steps)).encode())
    return told.hexdigest()[:32]


def _execute(results: dict[Target, ObjectResult], snapshot: Snapshot, driver: Driver, site: str, progress: Progress, cancelled: Question) -> None:
    """Take the steps phase by phase (a phase is one kind, leaving or staying), objects of a phase side by side."""
    phases: dict[tuple[bool, bool, str], list[ObjectResult]] = {}
    for result in results.values():
        if result.steps:
            phases.setdefault((result.steps[-1].action == DELETE, result.steps[-1].goes_first, result.kind), []).append(result)
    failed: dict[Target, DomusError] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for members in phases.values():
            list(pool.map(lambda result: _carry_out(result, snapshot, driver, site, failed, progress, cancelled), members))
            failed.update({(result.kind, result.key): result.error for result in members if result.error is not None})


def _carry_out(
    result: ObjectResult,
    snapshot: Snapshot,
    driver: Driver,
    site: str,
    failed: dict[Target, DomusError],
    progress: Progress,
    cancelled: Question,
) -> None:
    def check() -> None:
        _refuse_orphan(result, failed)
        before = snapshot.find(result.kind, result.key)
        now = driver.fingerprint(result.kind, result.key)
        if result.kind == "vm" and before is not None and not now:
            raise _moved(result.key, before.state.uuid)
        if now != (before.fingerprint if before else ""):
            if before is None and _is_made_already(result, driver):
                result.steps = ()
                return
            raise Conflict("has changed since it was read", remedy="Apply again")

    take_steps(result, driver, site, progress, cancelled, check)


def _is_made_already(result: ObjectResult, driver: Driver) -> bool:
    """Has another server just made the same in a shared repository? A document goes to all servers at once."""
    step = result.steps[-1]
    if (result.kind, step.action, len(result.steps)) != ("virtual_disk", CREATE, 1):
        return False
    found = driver.read_one(result.kind, result.key)
    return found is not None and found.state.made_by_domus and found.state.owner == step.uuid and not compare(step.spec, found.spec)


def take_steps(result: ObjectResult, driver: Driver, site: str, progress: Progress, cancelled: Question, check: Callable[[], None] = lambda: None) -> None:
    """Take the steps of one object, whose lock is held, unless `check` raises; what went wrong is its error, what was done its steps."""
    done: list[Step] = []
    try:
        with cancellable(cancelled):
            require_not_cancelled()
            check()
            for step in result.steps:
                require_not_cancelled()
                progress(f"{step.action} {step.name}")
                driver.carry_out(step, site)
                done.append(step)
    except DomusError as error:
        result.error = error.located(f"{result.kind} {result.key}")
    except Exception as error:  # one object's surprise must not stop the others
        result.error = DriverError(f"unexpected {type(error).__name__}: {error}", object=f"{result.kind} {result.key}", remedy="Please report this")
    if result.error is not None:
        result.steps = tuple(done)


def _refuse_orphan(result: ObjectResult, failed: dict[Target, DomusError]) -> None:
    if result.steps[-1].action in (DELETE, KILL, STOP):
        return
    for kind, key in needs(result.kind, result.steps[-1].spec):
        if (kind, key) in failed:
            raise Conflict(f"needs {kind} {key}, which failed", remedy="Mend that first, then apply again")


def _finish(results: dict[Target, ObjectResult], snapshot: Snapshot, driver: Driver, check: bool) -> None:
    """Say what waits for a restart: predicted in check mode, measured after an apply."""
    for result in results.values():
        before = result.found
        if result.steps and not check:
            measure(result, driver)
        elif before is not None:
            result.restart_required = waiting_after(before, result.steps)


def measure(result: ObjectResult, driver: Driver, *, addresses: bool = True) -> None:
    """Read the object as it is now; what was done to it is told even when that fails."""
    try:
        result.found = driver.read_one(result.kind, result.key, addresses=addresses)
    except DomusError as error:
        result.found = None
        result.error = result.error or error.located(f"{result.kind} {result.key}")
    result.restart_required = waiting_now(result.found) if result.found else ()


def _wait_for_addresses(site: Site, results: dict[Target, ObjectResult], driver: Driver, seconds: float, cancelled: Question) -> None:
    running = [name for name, spec in site.wanted("vm").items() if spec.state == "running" and results[("vm", name)].error is None]
    waited = [name for name in running if (found := results[("vm", name)].found) is not None and found.spec.nics]
    deadline = time.monotonic() + seconds
    while waited:
        for name in list(waited):
            addresses = driver.addresses(name)
            result = results[("vm", name)]
            if addresses and result.found:
                result.found = dataclasses.replace(result.found, state=dataclasses.replace(result.found.state, addresses=addresses))
                waited.remove(name)
        if time.monotonic() > deadline or cancelled():
            break
        if waited:
            time.sleep(POLL)
    for name in waited:
        results[("vm", name)].error = _no_address(f"vm {name}", seconds, cancelled())


def _no_address(vm: str, seconds: float, cancelled: bool) -> DomusError:
    if cancelled:
        return Cancelled("waiting for its IP address was cancelled", object=vm, remedy="It runs; look at it later")
    return Unreachable(f"has no IP address after {seconds:g} s", object=vm, remedy="Look at its console; does its guest use DHCP?")
