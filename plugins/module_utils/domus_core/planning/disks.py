"""Where disks come from: virtual disks by themselves, and those that VMs bring along."""

from __future__ import annotations

from typing import Any, Optional

from ..errors import Conflict, InvalidSpec
from ..model.fields import given, make, merge
from ..model.kind import is_absent
from ..model.quantities import format_size
from ..model.repository import VIRTUAL_DISKS
from ..model.snapshot import Found
from ..model.virtual_disk import VirtualDiskSpec, file_name, own_disk_name
from ..model.vm_devices import DiskSpec
from .comparison import compare, creation, deletion
from .site_view import SiteView, guard_unused
from .steps import CREATE, DELETE, UPDATE, Step, step

CREATION_FIELDS = ("size", "format", "sparse", "template", "image", "clone", "shareable")


def plan_virtual_disk(view: SiteView, wanted: VirtualDiskSpec, found: Optional[Found]) -> list[Step]:
    """The steps for a virtual disk of the document. Raises what the lookups raise, and Conflict for a shrinking disk."""
    key = f"{wanted.repository}/{wanted.name}"
    if is_absent(wanted):
        return _delete(view, wanted, found, key)
    refuse_read_only(view, wanted.repository)
    if found is None:
        return [make_virtual_disk(view, wanted, None, "it does not exist")]
    _refuse_shrinking(wanted.size, found.spec.size, "size")
    changes = compare(wanted, found.spec)
    if any(change.field == "shareable" for change in changes) and wanted.shareable and found.spec.format != "raw":
        raise Conflict("a shareable disk must be raw", field="shareable", value=True, remedy="Make a raw disk and copy the data")
    whole = merge(found.spec, wanted)
    return [step(UPDATE, "virtual_disk", whole, changes=tuple(changes), reason="it differs")] if changes else []


def refuse_read_only(view: SiteView, name: str) -> Any:
    """The specification of the repository that a disk is made in. Raises NotFound, Conflict."""
    repository = view.required("repository", name, "repository")
    if repository.nfs is not None and repository.nfs.read_only:
        raise Conflict("nothing is made in a read-only repository", field="repository", value=name, remedy="Use another repository")
    return repository


def _delete(view: SiteView, wanted: VirtualDiskSpec, found: Optional[Found], key: str) -> list[Step]:
    if found is None:
        return []
    if not found.state.made_by_domus:
        raise Conflict("was not made by Domus, so Domus does not delete it", field="state", value="absent", remedy="Delete the file by hand")
    if found.state.repository_uuid and found.state.owner and found.state.owner not in view.uuids:
        raise Conflict(
            f"was made for a VM that is not on this server: {found.state.owner}",
            field="state",
            value="absent",
            remedy="Delete it with its VM, also if that is gone: state: absent, delete_disks: true",
        )
    guard_unused(view, "virtual_disk", key)
    return [step(DELETE, "virtual_disk", found.spec, reason="it is to be absent", changes=deletion())]


def make_virtual_disk(view: SiteView, wanted: VirtualDiskSpec, owner: Optional[str], reason: str) -> Step:
    """The step that makes a virtual disk, with size and format settled; `owner` is the UUID of the VM it is for."""
    source = view.source_of(wanted)
    if source is None and wanted.size is None:
        raise InvalidSpec("is missing", field="size", remedy="An empty disk needs a size")
    least = source[1].size if source else 0
    if wanted.size is not None and wanted.size < least:
        raise Conflict(
            f"is less than the {format_size(least)} of the image it is made from",
            field="size",
            value=format_size(wanted.size),
            remedy="Ask for at least that, or leave the size out",
        )
    values = {**given(wanted), "size": wanted.size or least, "format": wanted.format or "qcow2"}
    values.pop("state", None)
    values.pop("servers", None)
    if source is not None:
        values.setdefault("clone", "thin" if wanted.template and values["format"] == "qcow2" else "sparse")
    spec = make(VirtualDiskSpec, values)
    return step(CREATE, "virtual_disk", spec, changes=creation(spec), reason=reason, uuid=owner)


def new_disk(view: SiteView, vm: str, uuid: str, disk: DiskSpec) -> tuple[DiskSpec, list[Step]]:
    """A disk that the VM does not have yet: its whole specification, and the steps that provide its virtual disk."""
    steps: list[Step] = []
    if disk.virtual_disk is not None:
        spec = view.required("virtual_disk", disk.virtual_disk, "virtual_disk")
        found = {"file": view.virtual_disk_place(disk.virtual_disk, "virtual_disk"), "format": spec.format or "qcow2", "size": spec.size}
        if spec.shareable:
            found["shareable"] = True
        _refuse_shrinking(disk.size, spec.size, "size")
        steps = _grown(view, disk.virtual_disk, spec, disk.size)
    elif disk.file is not None:
        facts = view.file(disk.file, "file")
        found = {"file": disk.file, "format": facts.format, "size": facts.size}
        _refuse_shrinking(disk.size, facts.size, "size")
    else:
        own, steps = _own_disk(view, vm, uuid, disk)
        found = {"file": _place_of(view, own), "format": own.format, "size": own.size, "repository": own.repository}
    if disk.format is not None and disk.format != found["format"]:
        raise Conflict(f"the image is {found['format']}", field="format", value=disk.format, remedy="Leave the format out, or convert the image")
    whole = merge(make(DiskSpec, {"name": disk.name, "bus": "virtio", **found}), make(DiskSpec, {k: v for k, v in given(disk).items() if k != "file"}))
    if vm in view.disk_users.get(whole.file or "", {}) and not _is_left_over(view.snapshot.find("vm", vm), whole):
        raise Conflict("the VM has this disk already", field="virtual_disk" if disk.virtual_disk else "file", value=whole.file, remedy="Use it once")
    check_use(view, vm, whole)
    return whole, steps


def _is_left_over(vm: Optional[Found], disk: DiskSpec) -> bool:
    """Is the disk only in what runs: from an apply that was broken off, or because the guest did not let it go?"""
    if vm is None or vm.running is None:
        return False
    return all(one.file != disk.file for one in vm.spec.disks or ()) and any(one.file == disk.file for one in vm.running.disks or ())


def _own_disk(view: SiteView, vm: str, uuid: str, disk: DiskSpec) -> tuple[VirtualDiskSpec, list[Step]]:
    source = view.source_of(disk)
    repository = disk.repository or (source[0].split("/", 1)[0] if source else None)
    if repository is None:
        raise InvalidSpec("is missing", field="repository", remedy="Say in which repository the disk is to be made, or name a template")
    if refuse_read_only(view, repository).adopted:
        raise Conflict("nothing is made in an adopted repository", field="repository", value=repository, remedy="Use another repository")
    name = own_disk_name(vm, disk.name)
    values = {field: getattr(disk, field) for field in CREATION_FIELDS if getattr(disk, field) is not None}
    wanted = make(VirtualDiskSpec, {"name": name, "repository": repository, **values})
    key = f"{repository}/{wanted.name}"
    if key in view.site.wanted("virtual_disk"):
        raise Conflict("the document has a virtual disk of the same name", field="name", value=key, remedy=f"Say virtual_disk: {key}, or use another name")
    found = view.snapshot.find("virtual_disk", key)
    if found is None:
        made = make_virtual_disk(view, wanted, uuid, f"vm {vm} needs it")
        return made.spec, [made]
    return found.spec, _reuse(view, wanted, found, (vm, disk.name, uuid))


def _reuse(view: SiteView, wanted: VirtualDiskSpec, found: Found, user: tuple[str, str, str]) -> list[Step]:
    """A disk that a deleted VM of this name left behind, or that an interrupted apply made, is used again."""
    vm, disk_name, uuid = user
    if found.state.owner != uuid:
        raise Conflict(
            f"the file of virtual disk {wanted.repository}/{wanted.name} exists and does not belong to vm {vm}",
            field="name",
            value=disk_name,
            remedy="Use another disk name, name it as virtual_disk, or remove the file",
        )
    _refuse_shrinking(wanted.size, found.spec.size, "size")
    return _grown(view, f"{wanted.repository}/{wanted.name}", found.spec, wanted.size)


def _grown(view: SiteView, key: str, spec: Any, size: Optional[int]) -> list[Step]:
    found = view.snapshot.find("virtual_disk", key)
    if found is None or size is None or size == found.spec.size:
        return []
    whole = merge(found.spec, make(VirtualDiskSpec, {"size": size}))
    changes = tuple(compare(make(VirtualDiskSpec, {"size": size}), found.spec))
    return [step(UPDATE, "virtual_disk", whole, changes=changes, reason="it grows")]


def _place_of(view: SiteView, spec: VirtualDiskSpec) -> str:
    return f"{spec.repository}/{VIRTUAL_DISKS}/{file_name(spec.name, spec.format or 'qcow2')}"


def check_kept(view: SiteView, vm: str, wanted: DiskSpec, found: DiskSpec) -> None:
    """A disk that the VM has: refuse another source, or less room. Raises Conflict."""
    _refuse_shrinking(wanted.size, found.size, "size")
    place = view.virtual_disk_place(wanted.virtual_disk, "virtual_disk") if wanted.virtual_disk else wanted.file
    if place is not None and found.file is not None and place != found.file:
        field = "virtual_disk" if wanted.virtual_disk else "file"
        raise Conflict(f"the VM has this disk on {found.file}", field=field, value=place, remedy="Give the new disk another name")
    if wanted.shareable is not None:
        check_use(view, vm, merge(found, wanted))


def check_use(view: SiteView, vm: str, disk: DiskSpec) -> None:
    """Refuse a disk that another VM uses or will use, unless both share it. Raises Conflict."""
    shares = bool(disk.shareable or disk.read_only)
    users = view.disk_users.setdefault(disk.file or "", {})
    for other, other_shares in users.items():
        if other != vm and not (shares and other_shares):
            field = "virtual_disk" if disk.virtual_disk else "file"
            raise Conflict(
                f"is in use by vm {other}", field=field, value=getattr(disk, field), remedy="Take it away there first, or make it shareable in both VMs"
            )
    users[vm] = shares


def _refuse_shrinking(wanted: Optional[int], found: Optional[int], field: str) -> None:
    if wanted is not None and found is not None and wanted < found:
        raise Conflict(
            f"a disk can not shrink: it has {format_size(found)}", field=field, value=format_size(wanted), remedy="Ask for at least its present size"
        )
