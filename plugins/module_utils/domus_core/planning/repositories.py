"""Repositories: attached, moved and let go of; and what can not be planned while the storage of one does not answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, Optional

from ..errors import Conflict, DomusError, Unreachable
from ..model.fields import LIVE, given, make, merge
from ..model.kind import is_absent
from ..model.repository import RepositorySpec, completed, directory_of
from ..model.snapshot import Found
from .comparison import compare, creation, deletion
from .site_view import SiteView, guard_unused
from .steps import CREATE, DELETE, KILL, STOP, UPDATE, Change, Step, step

Planner = Callable[[SiteView, Any, Optional[Found]], list[Step]]


def plan_repository(view: SiteView, wanted: RepositorySpec, found: Optional[Found]) -> list[Step]:
    """The steps for a repository of the document. Raises Conflict."""
    if is_absent(wanted):
        return _delete(view, wanted, found)
    if found is None or not found.state.registered:
        spec = completed(make(RepositorySpec, {name: value for name, value in given(wanted).items() if name != "state"}))
        _check_new(view, spec)
        reason = "it does not exist" if found is None else "the server does not know it yet"
        return [step(CREATE, "repository", spec, changes=creation(spec), reason=reason)]
    if wanted.nfs is not None and found.spec.nfs is None:
        raise Conflict("a directory can not become a repository of an NFS server", field="nfs", remedy="Make another repository")
    changes = compare(wanted, found.spec)
    whole = merge(found.spec, wanted)
    if any(change.field.startswith("nfs") for change in changes):
        _refuse_in_use(view, wanted.name)
        _refuse_twice(view, whole)
    if found.state.mounted is False:
        changes.append(Change("mounted", False, True, LIVE))
    return [step(UPDATE, "repository", whole, changes=tuple(changes), reason="it differs")] if changes else []


def _delete(view: SiteView, wanted: RepositorySpec, found: Optional[Found]) -> list[Step]:
    if found is None:
        return []
    if not wanted.force_unmount:
        guard_unused(view, "repository", wanted.name)
        if found.state.mounted and not found.state.available:
            raise _lost(wanted.name, found)
    elif found.state.available:
        raise Conflict("its storage answers", field="force_unmount", value=True, remedy="Leave it out; stop its VMs first")
    spec = make(RepositorySpec, {**given(found.spec), **({"force_unmount": True} if wanted.force_unmount else {})})
    return [step(DELETE, "repository", spec, reason="it is to be absent", changes=deletion())]


def _check_new(view: SiteView, spec: RepositorySpec) -> None:
    if spec.path is None:
        raise Conflict("is missing", field="path", remedy="A new repository needs its directory, or an NFS server")
    _refuse_twice(view, spec)


def _refuse_twice(view: SiteView, spec: RepositorySpec) -> None:
    """Two names for the same files: each would take the other's for somebody else's."""
    names = dict.fromkeys([*(name for name, dummy in view.snapshot.all("repository")), *view.site.wanted("repository")])
    for name in names:
        other = view.future("repository", name) if name != spec.name else None
        if other is None:
            continue
        if directory_of(other) == spec.path:
            raise Conflict(f"repository {name} has the same directory", field="path", value=spec.path, remedy="Use another directory, or that repository")
        if spec.nfs and other.nfs and (other.nfs.server, other.nfs.export) == (spec.nfs.server, spec.nfs.export):
            raise Conflict(f"repository {name} is the same export", field="nfs.export", value=spec.nfs.export, remedy="Use another export, or that repository")


def _refuse_in_use(view: SiteView, name: str) -> None:
    """A mount can not be exchanged under a VM that runs."""
    running = sorted(vm for vm, found in view.snapshot.all("vm") if found.running is not None and name in _used_by(view, found.running))
    if running:
        raise Conflict(
            f"vm {', '.join(running[:5])} runs on it",
            field="nfs",
            remedy="Stop it, or move it to another server: to change how it is mounted, it is mounted anew",
        )


def with_storage(planner: Planner, view: SiteView, kind: str, wanted: Any, found: Optional[Found]) -> list[Step]:
    """Plan one object. When its storage does not answer, what is known of it is too old to change anything: Unreachable, told which repository."""
    lost = _lost_below(view, kind, wanted, found) if view.lost else None
    try:
        steps = planner(view, wanted, found)
    except DomusError:
        if lost is not None:
            raise lost from None
        raise
    if lost is not None and any(one.action not in (STOP, KILL, DELETE) or one.kind == "virtual_disk" for one in steps):
        raise lost
    return steps


def _lost_below(view: SiteView, kind: str, wanted: Any, found: Optional[Found]) -> Optional[DomusError]:
    names = {*_needed(view, kind, wanted), *(_used_by(view, found.spec) if kind == "vm" and found is not None else ())}
    return next((_lost(name, view.lost[name]) for name in sorted(names) if name in view.lost), None)


def _lost(name: str, found: Found) -> Unreachable:
    return Unreachable(
        f"repository {name} is not available: {found.state.problem}",
        field="repository",
        value=name,
        remedy="Apply again when it answers; the rest of the document can be applied without it",
    )


def _needed(view: SiteView, kind: str, wanted: Any) -> Iterable[str]:
    """The repositories that an object of the document lies in or is made from."""
    if kind in ("template", "iso"):
        yield from _names([wanted.image])
    elif kind == "virtual_disk":
        yield wanted.repository
        yield from _sources(view, wanted)
    elif kind == "vm":
        yield from _used_by(view, wanted)


def _used_by(view: SiteView, vm: Any) -> set[str]:
    """The repositories that a VM uses, or is to use."""
    used: set[str] = set()
    for disk in vm.disks or ():
        used.update(name for name in (disk.repository,) if name)
        used.update(_names([disk.file, disk.virtual_disk]))
        if disk.file is None:
            used.update(_sources(view, disk))
    for drive in vm.cdroms or ():
        iso = view.future("iso", drive.iso) if drive.iso else None
        used.update(_names([iso.image if iso else None]))
    if vm.kernel is not None:
        used.update(_names([vm.kernel.kernel, vm.kernel.initrd]))
    return used


def _sources(view: SiteView, disk: Any) -> Iterable[str]:
    template = view.future("template", disk.template) if disk.template else None
    return _names([disk.image, template.image if template else None])


def _names(references: Iterable[Optional[str]]) -> Iterable[str]:
    return [reference.split("/", 1)[0] for reference in references if reference and not reference.startswith("/")]
