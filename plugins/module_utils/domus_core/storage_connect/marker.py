"""What a shared repository is known by: a small file in it, found by every server that it is presented to."""

from __future__ import annotations

import errno
import json
import os
import uuid
from contextlib import suppress
from typing import Any, Optional

from ..errors import Conflict, DriverError
from ..libvirt_driver.tools import explain, make_folder
from ..model.repository import FOLDERS
from ..model.server_pool import POOL_FOLDERS

NOTES = ".domus"
MARKER = f"{NOTES}/repository.json"
# What file servers show in each directory that they export.
NOT_CONTENT = frozenset({"lost+found", ".snapshot", ".zfs", ".etc"})
SQUASHED = "Export it with no_root_squash: Domus and libvirt give image files to QEMU's user"


def claimed(root: str, site: str, name: str, *, read_only: bool) -> str:
    """The UUID of the repository in this directory, which gets one if it is empty; several servers may ask at once, all get the same.

    Raises Conflict when it is another repository, or has files that Domus did not make, or can not be written.
    """
    found = read_marker(root)
    if found is None:
        if read_only:
            raise Conflict("is no repository yet, and can not become one read-only", field="nfs.read_only", remedy="Present it writable once, or adopted: true")
        _refuse_foreign(root)
        try:
            _write(root, {"uuid": str(uuid.uuid4()), "site": site, "name": name})
        except OSError as error:
            raise _explained(error, root) from None
        found = read_marker(root) or {}
    if (found.get("site"), found.get("name")) != (site, name):
        raise Conflict(
            f"is repository {found.get('name')} of site {found.get('site')} already",
            field="path",
            value=root,
            remedy=f"Use that name. Only if nobody uses it under that name any more: delete {MARKER} in it",
        )
    return str(uuid.UUID(str(found.get("uuid"))))


def read_marker(root: str) -> Optional[dict[str, Any]]:
    """The content of the marker, or None. Raises DriverError when it is damaged or can not be read."""
    path = os.path.join(root, MARKER)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        uuid.UUID(str(data["uuid"]))
        return dict(data)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, f"reading {path}", path) from None
    except (ValueError, TypeError, KeyError):
        raise DriverError("the file that says which repository this is is damaged", value=path, remedy="Restore it from a backup, or delete it") from None


def _refuse_foreign(root: str) -> None:
    """Whatever has notes of Domus was made by it, if only half."""
    try:
        entries = set(os.listdir(root)) - NOT_CONTENT
    except OSError as error:
        raise explain(error, f"reading {root}", root) from None
    foreign = entries - {*FOLDERS, *POOL_FOLDERS}
    if NOTES not in entries and foreign:
        some = ", ".join(sorted(foreign)[:3])
        raise Conflict(
            f"has files that are not Domus's: {some}",
            field="path",
            value=root,
            remedy="Export an empty directory; or write adopted: true to use the files where they lie",
        )


def _write(root: str, content: dict[str, str]) -> None:
    """Write the marker whole or not at all, and only if there is none: link(2) is exclusive on NFS as well."""
    folder, path = os.path.join(root, NOTES), os.path.join(root, MARKER)
    make_folder(folder, 0o755)
    temporary = os.path.join(folder, f".repository.{uuid.uuid4().hex}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "files belong to somebody else there")
            json.dump(content, file)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _explained(error: OSError, root: str) -> Any:
    if error.errno in (errno.EPERM, errno.EACCES):
        return Conflict("the NFS server does not let root of this server write as root", field="nfs.export", value=root, remedy=SQUASHED)
    if error.errno == errno.EROFS:
        return Conflict("is exported read-only", field="nfs.export", value=root, remedy="Export it writable, or write nfs.read_only: true")
    return explain(error, f"marking {root} as a repository", root)
