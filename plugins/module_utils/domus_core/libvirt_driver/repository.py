"""Repositories, and the templates and ISO images in them: directories and files, known by the registry."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Optional

from ..errors import Conflict, DomusError, NotFound
from ..model.document import Site
from ..model.fields import plain, restore
from ..model.iso import IsoSpec, IsoState
from ..model.kind import is_absent
from ..model.repository import FOLDERS, ISOS, TEMPLATES, RepositorySpec, RepositoryState, completed, is_shared
from ..model.snapshot import Found, ImageFile
from ..model.template import TemplateSpec, TemplateState
from ..planning.steps import CREATE, DELETE, Step
from ..storage_connect.marker import claimed
from ..storage_connect.reach import NotAnswering
from ..storage_connect.storage import Storage
from .image_files import check_safe
from .image_header import inspect
from .places import Places
from .registry import Registry
from .tools import explain, make_folder

EXTENSIONS = {".qcow2": "qcow2", ".img": "raw", ".raw": "raw", ".iso": "raw"}
CHUNK = 1 << 20


def read_repositories(registry: Registry, site: Optional[Site], storage: Storage) -> dict[str, Found]:
    """The repositories that the server knows, and the adopted directories of the document that exist."""
    known = _registered(registry)
    states = storage.measure_all({name: (restore(RepositorySpec, data), str(data.get("uuid") or "")) for name, data in known.items()})
    found = {name: _found(spec, state) for name, (spec, state) in states.items()}
    for name, spec in _adopted(known, site).items():
        if _is_directory(spec, storage):
            found[name] = _found(spec, storage.measure(spec, registered=False, uuid=""))
    return found


def _registered(registry: Registry) -> dict[str, dict[str, Any]]:
    read = ((name, registry.read("repository", name)) for name in registry.names("repository"))
    return {name: data for name, data in read if data is not None}


def _adopted(known: Mapping[str, Any], site: Optional[Site]) -> dict[str, RepositorySpec]:
    """The directories that the document adopts."""
    wanted = site.wanted("repository") if site else {}
    return {name: spec for name, spec in wanted.items() if name not in known and spec.adopted and spec.nfs is None and spec.path and not is_absent(spec)}


def _is_directory(spec: RepositorySpec, storage: Storage) -> bool:
    try:
        return bool(storage.reach(spec, lambda: os.path.isdir(spec.path or "")))
    except NotAnswering:
        return False


def _found(spec: RepositorySpec, state: RepositoryState) -> Found:
    return Found(spec, state, fingerprint=repr(plain(spec)))


def registered_places(registry: Registry, storage: Storage, site: Optional[Site] = None) -> Places:
    """Where things are, as far as the registry and the document tell; looks at no file in a repository."""
    known = _registered(registry)
    specs = {name: restore(RepositorySpec, data) for name, data in known.items()}
    for name, spec in (site.wanted("repository") if site else {}).items():
        if name not in specs and (spec.path or spec.nfs is not None) and not is_absent(spec):
            specs[name] = completed(spec)
    return Places(specs, storage, {name: str(data["uuid"]) for name, data in known.items() if data.get("uuid")})


def paths_of_isos(registry: Registry, places: Places) -> dict[str, str]:
    """The files of the known ISO images by name; looks at none of them."""
    paths = {}
    for name in registry.names("iso"):
        data = registry.read("iso", name)
        if data is not None and data.get("image"):
            with suppress(NotFound):
                paths[name] = places.in_folder(data["image"], ISOS)
    return paths


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
    state: Any = TemplateState() if template else IsoState()
    known: dict[str, Any] = {"repository_uuid": places.uuids.get((spec.image or "").split("/", 1)[0]), "available": False}
    try:
        path = places.in_folder(spec.image, TEMPLATES if template else ISOS)
        known["path"] = path
        header = places.reach(path, lambda: inspect(path))
        known |= {"available": True, "size": header.virtual_size, **({"format": header.format} if template else {})}
    except NotAnswering:
        pass
    except DomusError:
        known.pop("path", None)
    return Found(spec, dataclasses.replace(state, **known), fingerprint=repr(plain(spec)))


def read_files(places: Places, site: Optional[Site]) -> dict[str, ImageFile]:
    """The images that something can be made from: all in the folders, and those the document names."""
    names = set(_in_folders(places)) | set(_named(site))
    files = {}
    for place in sorted(names):
        try:
            path = places.path(place)
        except NotFound:
            continue
        try:
            if places.reach(path, functools.partial(os.path.lexists, path)):
                allowed = places.directories()
                files[place] = places.reach(path, functools.partial(_examine, path, allowed))
        except NotAnswering as error:
            files[place] = ImageFile(problem=error.message)
    return files


def _in_folders(places: Places) -> Iterable[str]:
    for name, spec in places.repositories.items():
        for folder in () if spec.adopted else (TEMPLATES, ISOS):
            path = f"{spec.path}/{folder}"
            try:
                entries = places.reach(path, functools.partial(os.listdir, path))
            except (OSError, NotAnswering):
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


def _examine(path: str, allowed: list[str]) -> ImageFile:
    try:
        _require_inside(path, allowed)
        header = inspect(path)
        expected = EXTENSIONS.get(os.path.splitext(path)[1], header.format)
        check_safe(path, expected_format=expected, allowed_directories=allowed)
        return ImageFile(header.format, header.virtual_size)
    except DomusError as error:
        return ImageFile(problem=error.message)
    except OSError as error:
        return ImageFile(problem=str(error.strerror))


def _require_inside(path: str, allowed: list[str]) -> None:
    """Raise Conflict when a folder on the path is a link that leads out of the repositories."""
    folder = os.path.realpath(os.path.dirname(path))
    if not any(os.path.commonpath((folder, root)) == root for root in allowed):
        raise Conflict("a folder on its path is a link that leads out of the repository", value=path)


def carry_out_repository(registry: Registry, storage: Storage, step: Step, site: str) -> None:
    """Attach a repository and make its folders, or only forget or rewrite what is known of it. Raises DomusError."""
    spec: RepositorySpec = step.spec
    known = registry.read("repository", step.key)
    try:
        if step.action == DELETE:
            storage.plugin(spec).detach(spec, force=bool(spec.force_unmount))
            registry.remove("repository", step.key)
        else:
            _attach(storage, step, restore(RepositorySpec, known) if known else None)
            registry.write("repository", step.key, {**_kept(spec), **_prepare(storage, step, site)})
    finally:
        storage.forget()


def _attach(storage: Storage, step: Step, before: Optional[RepositorySpec]) -> None:
    """Have the directory there; when it is to come from elsewhere and does not, it comes from where it did."""
    spec: RepositorySpec = step.spec
    moved = before is not None and any(change.field.startswith("nfs") for change in step.changes)
    if before is not None and moved:
        storage.plugin(before).detach(before, force=False)
    try:
        storage.plugin(spec).attach(spec)
    except DomusError:
        if before is not None and moved:
            with suppress(DomusError):
                storage.plugin(before).attach(before)
        raise
    finally:
        storage.forget()


def _prepare(storage: Storage, step: Step, site: str) -> dict[str, str]:
    """Make what a repository has in it; one that turns out to be somebody else's is let go of again."""
    spec: RepositorySpec = step.spec
    try:
        uuid = storage.work(spec, lambda: _furnish(spec, site))
    except DomusError:
        if step.action == CREATE:
            with suppress(DomusError):
                storage.plugin(spec).detach(spec, force=False)
        raise
    return {"uuid": uuid} if uuid else {}


def _furnish(spec: RepositorySpec, site: str) -> str:
    path, read_only = spec.path or "", bool(spec.nfs and spec.nfs.read_only)
    if spec.adopted:
        if not os.path.isdir(path):
            raise NotFound("there is no such directory to adopt", field="path", value=path)
        return ""
    if not is_shared(spec):
        uuid = ""
    else:
        if spec.nfs is None:
            _make_folder(path)
        uuid = claimed(path, site, spec.name, read_only=read_only)
    for folder in () if read_only else ("", *FOLDERS):
        _make_folder(os.path.join(path, folder))
    return uuid


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
    if step.action == CREATE and step.spec.checksum:
        path = places.in_folder(step.spec.image, TEMPLATES if step.kind == "template" else ISOS)
        places.work(path, lambda: _prove(path, step.spec.checksum))
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
    return {name: value for name, value in data.items() if name not in ("state", "servers", "force_unmount")}
