"""Virtual disks: image files in a repository, each with a note beside it that says that Domus made it, and for whom."""

from __future__ import annotations

import os
from typing import Any, Optional

from ..errors import Conflict, DomusError
from ..model.fields import make, plain, restore
from ..model.repository import TEMPLATES, VIRTUAL_DISKS
from ..model.snapshot import Found
from ..model.virtual_disk import EXTENSIONS, VirtualDiskSpec, VirtualDiskState, file_name
from ..planning.steps import CREATE, DELETE, Step
from . import image_files
from .bounded import bounded
from .connection import separate
from .image_header import ImageHeader, inspect
from .places import Places
from .registry import Registry
from .vm_live import grow_in_use

NOTES = ".domus"
GROW_LIMIT = 60.0
FORMATS = {extension: format for format, extension in EXTENSIONS.items()}


def notes_of(repository_path: str) -> Registry:
    """The notes of a repository: they travel with it when it is shared."""
    return Registry(os.path.join(repository_path, NOTES))


def read_virtual_disks(places: Places) -> dict[str, Found]:
    """All virtual disks in all repositories, by `repository/name`."""
    found = {}
    for name, spec in places.repositories.items():
        if not spec.adopted:
            found.update(_in_repository(name, spec.path or ""))
    return found


def _in_repository(repository: str, path: str) -> dict[str, Found]:
    folder = os.path.join(path, VIRTUAL_DISKS)
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return {}
    notes = notes_of(path)
    found = {}
    for entry in entries:
        stem, extension = os.path.splitext(entry)
        if extension in FORMATS and not entry.startswith("."):
            one = _read(repository, stem, FORMATS[extension], os.path.join(folder, entry), notes)
            if one is not None:
                found[f"{repository}/{stem}"] = one
    return found


def read_virtual_disk(places: Places, key: str) -> Optional[Found]:
    """One virtual disk, or None."""
    repository, name = key.split("/", 1)
    root = places.repositories.get(repository)
    if root is None:
        return None
    for format in EXTENSIONS:
        path = os.path.join(root.path or "", VIRTUAL_DISKS, file_name(name, format))
        if os.path.exists(path):
            return _read(repository, name, format, path, notes_of(root.path or ""))
    return None


def _read(repository: str, name: str, format: str, path: str, notes: Registry) -> Optional[Found]:
    try:
        header: ImageHeader = inspect(path)
        allocated = os.stat(path).st_blocks * 512
    except (DomusError, OSError):
        return None
    note = notes.read("virtual_disk", name)
    spec = restore(VirtualDiskSpec, note["spec"]) if note else make(VirtualDiskSpec, {})
    values: dict[str, Any] = {**vars(spec), "name": name, "repository": repository, "format": format}
    values["size"] = header.virtual_size if format == "qcow2" else os.path.getsize(path)
    backing = os.path.normpath(os.path.join(os.path.dirname(path), header.backing)) if header.backing else None
    state = VirtualDiskState(path, allocated, backing, note["owner"] if note else None, note is not None)
    return Found(make(VirtualDiskSpec, values), state, fingerprint=f"{path} {values['size']} {note}")


def carry_out(connection: Any, registry: Registry, places: Places, step: Step) -> None:
    """Make, grow or delete a virtual disk. The note comes before the file and goes after it, so a crash leaves no unknown file."""
    spec: VirtualDiskSpec = step.spec
    notes = notes_of(places.path(spec.repository))
    path = os.path.join(places.path(spec.repository), VIRTUAL_DISKS, file_name(spec.name, spec.format or "qcow2"))
    if step.action == DELETE:
        image_files.remove(path)
        notes.remove("virtual_disk", spec.name)
    elif step.action == CREATE:
        _create(path, step, notes, registry, places)
    else:
        if any(change.field == "size" for change in step.changes):
            grow(connection, path, spec.format or "qcow2", spec.size or 0)
        note = notes.read("virtual_disk", spec.name) or {"owner": None}
        notes.write("virtual_disk", spec.name, {**note, "spec": plain(spec)})


def _create(path: str, step: Step, notes: Registry, registry: Registry, places: Places) -> None:
    if os.path.lexists(path):
        raise Conflict("a file of this name is there already", value=path, remedy="Choose another name, or remove it first")
    notes.write("virtual_disk", step.spec.name, {"owner": step.uuid, "spec": plain(step.spec)})
    try:
        _make(path, step.spec, registry, places)
    except DomusError:
        if not os.path.lexists(path):
            notes.remove("virtual_disk", step.spec.name)
        raise


def _make(path: str, spec: VirtualDiskSpec, registry: Registry, places: Places) -> None:
    format, size = spec.format or "qcow2", spec.size or 0
    image = spec.image
    if spec.template is not None:
        image = (registry.read("template", spec.template) or {}).get("image")
    if image is None:
        image_files.create_empty(path, format, size, spec.sparse is False)
        return
    source = places.in_folder(image, TEMPLATES)
    header = inspect(source)
    image_files.check_safe(source, expected_format=header.format, allowed_directories=places.directories())
    image_files.create_from(path, format, source, header.format, size, spec.clone or "sparse")


def grow(connection: Any, path: str, format: str, size: int) -> None:
    """Grow an image: through the running domain that uses it, else in place. Raises DomusError."""

    def grow_live() -> bool:
        with separate(connection) as own:
            return grow_in_use(own, path, size)

    if not bounded(grow_live, GROW_LIMIT, f"growing {path}"):
        image_files.grow(path, format, size)
