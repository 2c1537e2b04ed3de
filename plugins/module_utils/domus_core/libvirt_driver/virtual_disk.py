"""Virtual disks: image files in a repository, each with a note beside it that says that Domus made it, and for whom."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Optional

from ..errors import Conflict, DomusError
from ..model.fields import make, plain, restore
from ..model.repository import TEMPLATES, VIRTUAL_DISKS, RepositorySpec, is_shared
from ..model.snapshot import Found
from ..model.virtual_disk import EXTENSIONS, VirtualDiskSpec, VirtualDiskState, file_name
from ..planning.steps import CREATE, DELETE, Step
from ..storage_connect.marker import NOTES
from ..storage_connect.reach import NotAnswering
from . import image_files
from .bounded import bounded, require_wanted
from .connection import separate
from .image_header import ImageHeader, inspect
from .locks import held
from .places import Places
from .registry import Registry
from .vm_live import grow_in_use

GROW_LIMIT = 60.0
# Another server may copy a large image under the same name.
PATIENCE = 30.0
FORMATS = {extension: format for format, extension in EXTENSIONS.items()}


def notes_of(repository_path: str) -> Registry:
    """The notes of a repository: they travel with it when it is shared."""
    return Registry(os.path.join(repository_path, NOTES))


def read_virtual_disks(places: Places) -> dict[str, Found]:
    """All virtual disks in all repositories that can be reached, by `repository/name`."""
    found = {}
    for spec in places.repositories.values():
        with suppress(NotAnswering):
            found.update(_in_repository(places, spec))
    return found


def names_of_disks(places: Places, spec: RepositorySpec) -> list[tuple[str, str]]:
    """Name and format of each image file in a repository. Raises NotAnswering."""
    folder = os.path.join(spec.path or "", VIRTUAL_DISKS)
    try:
        entries = [] if spec.adopted else sorted(places.reach(folder, functools.partial(os.listdir, folder)))
    except OSError:
        return []
    parts = [os.path.splitext(entry) for entry in entries if not entry.startswith(".")]
    return [(stem, FORMATS[extension]) for stem, extension in parts if extension in FORMATS]


def _in_repository(places: Places, spec: RepositorySpec) -> dict[str, Found]:
    found = {}
    for name, format in names_of_disks(places, spec):
        one = _read(places, spec, name, format)
        if one is not None:
            found[f"{spec.name}/{name}"] = one
    return found


def read_virtual_disk(places: Places, key: str) -> Optional[Found]:
    """One virtual disk, or None. Raises NotAnswering."""
    repository, name = key.split("/", 1)
    spec = places.repositories.get(repository)
    if spec is None:
        return None
    for format in EXTENSIONS:
        path = _path(spec, name, format)
        if places.reach(path, functools.partial(os.path.exists, path)):
            return _read(places, spec, name, format)
    return None


def _path(spec: RepositorySpec, name: str, format: str) -> str:
    return os.path.join(spec.path or "", VIRTUAL_DISKS, file_name(name, format))


def _read(places: Places, spec: RepositorySpec, name: str, format: str) -> Optional[Found]:
    path, notes = _path(spec, name, format), notes_of(spec.path or "")
    found: Optional[Found] = places.reach(path, lambda: _examine(spec.name, name, format, path, notes, places.uuids.get(spec.name)))
    return found


def _examine(repository: str, name: str, format: str, path: str, notes: Registry, uuid: Optional[str]) -> Optional[Found]:
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
    state = VirtualDiskState(path, allocated, backing, note["owner"] if note else None, note is not None, uuid)
    return Found(make(VirtualDiskSpec, values), state, fingerprint=f"{path} {values['size']} {note}")


def carry_out(connection: Any, registry: Registry, places: Places, step: Step) -> None:
    """Make, grow or delete a virtual disk. The note comes before the file and goes after it, so a crash leaves no unknown file."""
    repository = places.repositories.get(step.spec.repository)
    path = os.path.join(places.path(step.spec.repository), VIRTUAL_DISKS, file_name(step.spec.name, step.spec.format or "qcow2"))
    if repository is None or not is_shared(repository):
        _carry_out(connection, registry, places, step, path)
        return

    def alone() -> None:
        with _held(repository, step.key):
            _carry_out(connection, registry, places, step, path)

    places.work(path, alone)


@contextmanager
def _held(repository: RepositorySpec, key: str) -> Iterator[None]:
    """Hold a disk in a lock file of the shared repository itself: the locks of this server are none for the others. Raises Busy."""
    with held(os.path.join(repository.path or "", NOTES, "objects.lock"), [("virtual_disk", key)], [], patience=PATIENCE):
        require_wanted()
        yield


def _carry_out(connection: Any, registry: Registry, places: Places, step: Step, path: str) -> None:
    spec: VirtualDiskSpec = step.spec
    notes = notes_of(places.path(spec.repository))
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
        if places.uuids.get(step.spec.repository) and notes.read("virtual_disk", step.spec.name) == {"owner": step.uuid, "spec": plain(step.spec)}:
            return  # another server has just made it by the same document
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
