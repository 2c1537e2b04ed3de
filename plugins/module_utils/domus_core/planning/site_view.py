"""One place to look things up while planning: what will exist once the document has been applied."""

from __future__ import annotations

import functools
from typing import Any, Optional

from ..errors import Conflict, NotFound
from ..model.document import Site
from ..model.fields import merge
from ..model.identity import derived_uuid
from ..model.kind import is_absent
from ..model.repository import TEMPLATES, VIRTUAL_DISKS, RepositorySpec, is_shared
from ..model.snapshot import Found, ImageFile, Snapshot
from ..model.virtual_disk import file_name


class SiteView:
    """The wanted document laid over the snapshot, and what was promised to VMs so far. Nothing is read."""

    def __init__(self, site: Site, snapshot: Snapshot) -> None:
        self.site = site
        self.snapshot = snapshot

    def future(self, kind: str, key: str) -> Optional[Any]:
        """The specification an object will have, or None when it will not exist."""
        wanted = self.site.wanted(kind).get(key)
        found = self.snapshot.find(kind, key)
        if wanted is None:
            return found.spec if found and (kind != "virtual_disk" or key not in self.leaving_disks) else None
        if is_absent(wanted):
            return None
        return merge(found.spec, wanted) if found else wanted

    def required(self, kind: str, key: str, field: str) -> Any:
        """The specification an object will have. Raises NotFound, told which field asked for it."""
        spec = self.future(kind, key)
        if spec is None:
            known = sorted({*self.site.wanted(kind), *(key for key, dummy in self.snapshot.all(kind))})
            remedy = f"Known: {', '.join(known[:10])}" if known else f"Add it to the document, or make the {kind.replace('_', ' ')} first"
            raise NotFound(f"there is no {kind.replace('_', ' ')} of this name", field=field, value=key, remedy=remedy)
        return spec

    def place(self, reference: str, folder: str, field: str) -> str:
        """`repository/file` as `repository/folder/file`; in an adopted repository files lie where they lie."""
        name, dummy, rest = reference.partition("/")
        repository: RepositorySpec = self.required("repository", name, field)
        return reference if repository.adopted else f"{name}/{folder}/{rest}"

    def image(self, reference: Optional[str], field: str, folder: str = TEMPLATES) -> tuple[str, ImageFile]:
        """The place and the facts of an image that is to be used; None is that of an object which names none. Raises NotFound or Conflict."""
        if reference is None:
            raise NotFound("has no image", field=field, remedy="Say in the document which file it is: image: repository/file")
        place = self.place(reference, folder, field)
        return place, self.file(place, field)

    def file(self, place: str, field: str) -> ImageFile:
        """The facts of a file by its place. Raises NotFound or Conflict."""
        facts = self.snapshot.files.get(place)
        if facts is None:
            raise NotFound("there is no such file in the repository", field=field, value=place, remedy="Put it there, or correct the name")
        if facts.problem:
            raise Conflict(
                f"this image must not be used: {facts.problem}", field=field, value=place, remedy="Convert it to a self-contained image with qemu-img convert"
            )
        return facts

    def source_of(self, spec: Any) -> Optional[tuple[str, ImageFile]]:
        """The image that a disk or virtual disk is to be made from, or None for an empty one. Raises NotFound or Conflict."""
        if spec.template is not None:
            template = self.required("template", spec.template, "template")
            return self.image(template.image, "template")
        if spec.image is not None:
            return self.image(spec.image, "image")
        return None

    def virtual_disk_place(self, key: str, field: str) -> str:
        """The place of a virtual disk's file. Raises NotFound."""
        spec = self.required("virtual_disk", key, field)
        return self.place(f"{spec.repository}/{file_name(spec.name, spec.format or 'qcow2')}", VIRTUAL_DISKS, field)

    @functools.cached_property
    def lost(self) -> dict[str, Found]:
        """The repositories whose storage does not answer, without those that this document mounts again."""
        again = {name for name, spec in self.site.wanted("repository").items() if not is_absent(spec)}
        return {name: found for name, found in self.snapshot.all("repository") if found.state.problem and not (found.state.mounted is False and name in again)}

    @functools.cached_property
    def leaving(self) -> frozenset[str]:
        """The names of the VMs that the document deletes."""
        return frozenset(name for name, spec in self.site.wanted("vm").items() if is_absent(spec))

    @functools.cached_property
    def disk_users(self) -> dict[str, dict[str, bool]]:
        """Which VMs use a file now, or will, and whether as shareable; VMs that the document deletes do not count."""
        users: dict[str, dict[str, bool]] = {}
        for name, found in self.staying():
            for spec in (found.spec, found.running):
                for disk in (spec and spec.disks) or ():
                    if disk.file:
                        users.setdefault(disk.file, {})[name] = bool(disk.shareable or disk.read_only)
        return users

    @functools.cached_property
    def mac_users(self) -> dict[str, str]:
        """Which VM has a MAC address now, or gets it; VMs that the document deletes do not count."""
        return {nic.mac: name for name, found in self.staying() for nic in found.spec.nics or () if nic.mac}

    @functools.cached_property
    def uuids(self) -> dict[str, str]:
        """Which VM has a UUID now."""
        return {found.state.uuid: name for name, found in self.snapshot.all("vm")}

    @functools.cached_property
    def disks_of(self) -> dict[str, list[tuple[str, Found]]]:
        """The virtual disks that Domus made for a VM, by its UUID."""
        disks: dict[str, list[tuple[str, Found]]] = {}
        for key, found in self.snapshot.all("virtual_disk"):
            if found.state.made_by_domus and found.state.owner:
                disks.setdefault(found.state.owner, []).append((key, found))
        return disks

    @functools.cached_property
    def leaving_disks(self) -> frozenset[str]:
        """The virtual disks that go with a VM that the document deletes: made for it, and needed by nothing else."""
        leaving: set[str] = set()
        for name, spec in self.site.wanted("vm").items():
            if is_absent(spec) and spec.delete_disks:
                found = self.snapshot.find("vm", name)
                uuid = found.state.uuid if found else derived_uuid(self.site.name, "vm", name)
                leaving.update(key for key, dummy in self.disks_of.get(uuid, ()))
        leaving -= {*self.site.wanted("virtual_disk"), *self.wanted_disks}
        leaving -= {key for key in leaving if _place_of(self, key) in self.disk_users}
        backing = {disk.state.backing for key, disk in self.snapshot.all("virtual_disk") if key not in leaving}
        return frozenset(key for key in leaving if self.snapshot.objects["virtual_disk"][key].state.path not in backing)

    @functools.cached_property
    def wanted_disks(self) -> frozenset[str]:
        """The virtual disks that VMs of the document name."""
        staying = (spec for spec in self.site.wanted("vm").values() if not is_absent(spec))
        return frozenset(disk.virtual_disk for spec in staying for disk in spec.disks or () if disk.virtual_disk)

    @functools.cached_property
    def backed(self) -> dict[str, list[str]]:
        """The virtual disks that lie on an image, by its path, without those that the document deletes."""
        disks: dict[str, list[str]] = {}
        for key, found in self.snapshot.all("virtual_disk"):
            if found.state.backing and self.future("virtual_disk", key) is not None:
                disks.setdefault(found.state.backing, []).append(key)
        return disks

    def staying(self) -> list[tuple[str, Found]]:
        """The VMs that are there now and are not deleted by the document."""
        return [(name, found) for name, found in self.snapshot.all("vm") if name not in self.leaving]

    def users(self, kind: str, key: str) -> list[str]:
        """The objects that will need this one: why it must not be deleted."""
        return sorted(_USERS[kind](self, key)) if kind in _USERS else []

    def future_vms(self) -> list[tuple[str, Any]]:
        """The VMs that there will be."""
        names = dict.fromkeys([*self.site.wanted("vm"), *(name for name, dummy in self.snapshot.all("vm"))])
        return [(name, spec) for name in names if (spec := self.future("vm", name)) is not None]


def _network_users(view: SiteView, key: str) -> list[str]:
    return [f"vm {name}" for name, spec in view.future_vms() if any(nic.network == key for nic in spec.nics or ())]


def _template_users(view: SiteView, key: str) -> list[str]:
    template = view.snapshot.find("template", key)
    users = [f"vm {name}" for name, spec in view.site.wanted("vm").items() if not is_absent(spec) and any(disk.template == key for disk in spec.disks or ())]
    path = template.state.path if template else None
    return users + [f"virtual_disk {name}" for name in view.backed.get(path or "", ())]


def _iso_users(view: SiteView, key: str) -> list[str]:
    return [f"vm {name}" for name, spec in view.future_vms() if any(drive.iso == key for drive in spec.cdroms or ())]


def _place_of(view: SiteView, key: str) -> str:
    spec = view.snapshot.objects["virtual_disk"][key].spec
    return f"{spec.repository}/{VIRTUAL_DISKS}/{file_name(spec.name, spec.format or 'qcow2')}"


def _disk_users(view: SiteView, key: str) -> list[str]:
    found = view.snapshot.find("virtual_disk", key)
    path = found.state.path if found else None
    users = [f"vm {name}" for name in view.disk_users.get(_place_of(view, key), {})] if found else []
    return users + [f"virtual_disk {other}" for other in view.backed.get(path or "", ())]


def _repository_users(view: SiteView, key: str) -> list[str]:
    def inside(reference: Optional[str]) -> bool:
        return bool(reference) and str(reference).startswith(key + "/")

    users = [
        f"{kind} {name}" for kind in ("template", "iso") for name, dummy in view.snapshot.all(kind) if (spec := view.future(kind, name)) and inside(spec.image)
    ]
    found = view.snapshot.find("repository", key)
    if found is None or not is_shared(found.spec):  # the disks of a shared one stay: other servers use them
        users += [f"virtual_disk {name}" for name, dummy in view.snapshot.all("virtual_disk") if inside(name) and view.future("virtual_disk", name)]
    pools = [f"server_pool {name}" for name, dummy in view.snapshot.all("server_pool") if getattr(view.future("server_pool", name), "file_system", None) == key]
    return users + pools + [f"vm {name}" for name, spec in view.future_vms() if any(inside(disk.file) for disk in spec.disks or ())]


_USERS = {"network": _network_users, "template": _template_users, "iso": _iso_users, "virtual_disk": _disk_users, "repository": _repository_users}


def guard_unused(view: SiteView, kind: str, key: str) -> None:
    """Refuse to delete what something else needs. Raises Conflict."""
    users = view.users(kind, key)
    if users:
        raise Conflict(f"is still used by {', '.join(users[:5])}", field="state", value="absent", remedy="Delete or change its users first")
