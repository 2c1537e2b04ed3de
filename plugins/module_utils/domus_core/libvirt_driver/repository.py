"""Repositories, and the templates and ISO images in them: directories and files, known by the registry."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from typing import Any, Optional

from ..errors import Conflict, DomusError, NotFound
from ..model.document import Site
from ..model.fields import plain, restore
from ..model.iso import IsoSpec, IsoState
from ..model.kind import is_absent
from ..model.repository import FOLDERS, ISOS, TEMPLATES, RepositorySpec, RepositoryState
from ..model.snapshot import Found, ImageFile
from ..model.template import TemplateSpec, TemplateState
from ..planning.steps import DELETE, Step
from .image_files import check_safe
from .image_header import inspect
from .places import Places
from .registry import Registry
from .tools import explain, make_folder

EXTENSIONS = {".qcow2": "qcow2", ".img": "raw", ".raw": "raw", ".iso": "raw"}
CHUNK = 1 << 20


def read_repositories(registry: Registry, site: Optional[Site]) -> dict[str, Found]:
    """The repositories that the server knows, and the adopted ones of the document whose directory exists."""
    found = {}
    for name in registry.names("repository"):
        data = registry.read("repository", name)
        if data is not None:
            found[name] = _repository(restore(RepositorySpec, data), registered=True)
    for name, spec in (site.wanted("repository") if site else {}).items():
        if name not in found and spec.adopted and spec.path and os.path.isdir(spec.path) and not is_absent(spec):
            found[name] = _repository(spec, registered=False)
    return found


def _repository(spec: RepositorySpec, *, registered: bool) -> Found:
    try:
        room = os.statvfs(spec.path or "")
        state = RepositoryState(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize, True, registered)
    except OSError:
        state = RepositoryState(available=False, registered=registered)
    return Found(spec, state, fingerprint=repr(plain(spec)))


def places_of(repositories: dict[str, Found], site: Optional[Site]) -> Places:
    """Where things are, counting repositories that the document is about to make."""
    specs = {name: found.spec for name, found in repositories.items()}
    for name, spec in (site.wanted("repository") if site else {}).items():
        if name not in specs and spec.path and not is_absent(spec):
            specs[name] = spec
    return Places(specs)


def read_images(kind: str, registry: Registry, places: Places) -> dict[str, Found]:
    """The templates or ISO images that the server knows."""
    found = {}
    for name in registry.names(kind):
        data = registry.read(kind, name)
        if data is not None:
            found[name] = _image(kind, data, places)
    return found


def _image(kind: str, data: dict[str, Any], places: Places) -> Found:
    template = kind == "template"
    spec: Any = restore(TemplateSpec if template else IsoSpec, data)
    try:
        path = places.in_folder(spec.image, TEMPLATES if template else ISOS)
        header = inspect(path)
        state: Any = TemplateState(path, header.format, header.virtual_size) if template else IsoState(path, header.virtual_size)
    except DomusError:
        state = TemplateState(available=False) if template else IsoState(available=False)
    return Found(spec, state, fingerprint=repr(plain(spec)))


def read_files(places: Places, site: Optional[Site]) -> dict[str, ImageFile]:
    """The images that something can be made from: all in the folders, and those the document names."""
    names = set(_in_folders(places)) | set(_named(site))
    files = {}
    for place in sorted(names):
        try:
            path = places.path(place)
        except NotFound:
            continue
        if os.path.lexists(path):
            files[place] = _examine(path, places)
    return files


def _in_folders(places: Places) -> Iterable[str]:
    for name, spec in places.repositories.items():
        for folder in () if spec.adopted else (TEMPLATES, ISOS):
            try:
                entries = os.listdir(f"{spec.path}/{folder}")
            except OSError:
                continue
            yield from (f"{name}/{folder}/{entry}" for entry in entries if not entry.startswith("."))


def _named(site: Optional[Site]) -> Iterable[str]:
    if site is None:
        return
    for kind in ("template", "iso", "virtual_disk"):
        yield from (spec.image for spec in site.wanted(kind).values() if spec.image)
    for vm in site.wanted("vm").values():
        for disk in vm.disks or ():
            yield from (reference for reference in (disk.image, disk.file) if reference)
        if vm.kernel:
            yield from (reference for reference in (vm.kernel.kernel, vm.kernel.initrd) if reference)


def _examine(path: str, places: Places) -> ImageFile:
    try:
        _require_inside(path, places)
        header = inspect(path)
        expected = EXTENSIONS.get(os.path.splitext(path)[1], header.format)
        check_safe(path, expected_format=expected, allowed_directories=places.directories())
        return ImageFile(header.format, header.virtual_size)
    except DomusError as error:
        return ImageFile(problem=error.message)
    except OSError as error:
        return ImageFile(problem=str(error.strerror))


def _require_inside(path: str, places: Places) -> None:
    """Raise Conflict when a folder on the path is a link that leads out of the repositories."""
    folder = os.path.realpath(os.path.dirname(path))
    if not any(os.path.commonpath((folder, root)) == root for root in map(os.path.realpath, places.directories())):
        raise Conflict("a folder on its path is a link that leads out of the repository", value=path)


def carry_out_repository(registry: Registry, step: Step) -> None:
    """Make a repository's directory and folders, or only forget or rewrite what is known of it. Raises DomusError."""
    if step.action == DELETE:
        registry.remove("repository", step.key)
        return
    spec: RepositorySpec = step.spec
    if spec.adopted:
        if not os.path.isdir(spec.path or ""):
            raise NotFound("there is no such directory to adopt", field="path", value=spec.path)
    else:
        for folder in ("", *FOLDERS):
            _make_folder(os.path.join(spec.path or "", folder))
    registry.write("repository", step.key, _kept(spec))


def _make_folder(path: str) -> None:
    # 0711: QEMU's user must reach its images, nobody needs to list them
    try:
        make_folder(path, 0o711)
    except OSError as error:
        raise explain(error, f"making {path}", path) from None
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise Conflict("is not a directory", field="path", value=path)


def carry_out_image(registry: Registry, places: Places, step: Step) -> None:
    """Make a template or ISO image known, after proving its checksum, or forget it. Raises DomusError."""
    if step.action == DELETE:
        registry.remove(step.kind, step.key)
        return
    if step.action == "create" and step.spec.checksum:
        _prove(places.in_folder(step.spec.image, TEMPLATES if step.kind == "template" else ISOS), step.spec.checksum)
    registry.write(step.kind, step.key, _kept(step.spec))


def _prove(path: str, checksum: str) -> None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise explain(error, f"reading {path}", path) from None
    if f"sha256:{digest.hexdigest()}" != checksum:
        raise Conflict("the file has another checksum", field="checksum", value=checksum, remedy=f"It has sha256:{digest.hexdigest()}; fetch it again")


def _kept(spec: Any) -> dict[str, Any]:
    data: dict[str, Any] = plain(spec)
    return {name: value for name, value in data.items() if name not in ("state", "servers")}
