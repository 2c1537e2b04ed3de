"""Repositories of an NFS server, mounted by the kernel."""

from __future__ import annotations

import errno
import os
import shutil
from typing import Optional

from ..errors import Conflict, DomusError, DriverError, NotFound, Unreachable, Unsupported
from ..libvirt_driver.tools import SEARCH_PATH, explain, make_folder
from ..model.repository import NfsSpec, RepositorySpec
from .mounts import Host, Mount, mounted_on
from .plugin import StoragePlugin

PORT = 2049
FILE_SYSTEMS = ("nfs", "nfs4")
# Images are data. What another server has made is to be seen soon: no absence is remembered, and a directory for 5 s only.
SAFE = "nosuid,nodev,noexec,lookupcache={cache},acdirmin=1,acdirmax=5,retry=0"
LOOKUPS = {None: "pos", "positive": "pos", "none": "none"}
NO_LEASE = "NFSv3 keeps the locks of a server that died for ever: use version 4"


class NfsMount:
    """Storage that is mounted from an NFS server."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def source(self, spec: RepositorySpec) -> str:
        """`server:export`, as mount(8) takes it."""
        return source_of(spec.nfs)

    def attach(self, spec: RepositorySpec) -> None:
        """Mount it, now and at each boot. Raises Unreachable (nobody answers), Conflict (something else is there), DomusError."""
        path, mount = spec.path or "", Mount(spec.path or "", source_of(spec.nfs), "nfs")
        there = mounted_on(path, self.host.mounts())
        if there is not None and not _is_of(there, spec.nfs):
            raise Conflict(f"{there.source} is mounted there", field="path", value=path, remedy="Use another path, or unmount that")
        if there is None:
            self._prepare(path, spec.nfs)
        try:
            self.host.mount(mount, mount_options(spec.nfs), f"Domus repository {spec.name}")
        except DomusError as error:
            raise _explained(error, spec.nfs) from None

    def _prepare(self, path: str, nfs: Optional[NfsSpec]) -> None:
        if shutil.which("mount.nfs", path=SEARCH_PATH) is None:
            raise Unsupported("NFS can not be mounted on this server", field="nfs", remedy="Install it: apt-get install nfs-common")
        self.host.knock((nfs and nfs.server) or "", PORT)
        try:
            make_folder(path, 0o711)
            if os.listdir(path):
                raise Conflict("is not empty, so nothing is mounted there", field="path", value=path, remedy="Use another path, or move what is in it")
        except OSError as error:
            raise explain(error, f"making {path}", path) from None

    def attach_later(self, spec: RepositorySpec) -> None:
        """Have the system try again; what becomes of it shows in the mounts."""
        if not self.host.remount(spec.path or ""):
            self.attach(spec)

    def detach(self, spec: RepositorySpec, *, force: bool) -> None:
        """Unmount it, now and for later boots. Raises DomusError."""
        if not self.host.unmount(spec.path or "", force=force):
            return
        try:
            os.rmdir(spec.path or "")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise explain(error, f"removing {spec.path}", spec.path) from None

    def is_attached(self, spec: RepositorySpec, mounts: list[Mount]) -> Optional[bool]:
        """Is its export mounted where it is to be?"""
        there = mounted_on(spec.path or "", mounts)
        return there is not None and _is_of(there, spec.nfs)

    def not_for_ha(self, spec: RepositorySpec) -> Optional[str]:
        """Version 3 has no lease."""
        return NO_LEASE if spec.nfs and spec.nfs.version == "3" else None


def _is_of(mount: Mount, nfs: Optional[NfsSpec]) -> bool:
    """Is this a mount of the export? Of a server that has several names the kernel shows the one that was used first."""
    return mount.file_system in FILE_SYSTEMS and mount.source.endswith(f":{nfs.export if nfs else ''}")


def source_of(nfs: Optional[NfsSpec]) -> str:
    """`server:export`; an IPv6 address stands in brackets."""
    if nfs is None:
        return ""
    server = nfs.server or ""
    return f"{f'[{server}]' if ':' in server else server}:{nfs.export}"


def mount_options(nfs: Optional[NfsSpec]) -> str:
    """The options of mount(8) (nfs(5))."""
    values = vars(nfs) if nfs is not None else {}
    options = [f"vers={values.get('version') or '4.2'}", "soft" if values.get("soft") else "hard", SAFE.format(cache=LOOKUPS[values.get("lookup_cache")])]
    options += [f"{name}={values[name]}" for name in ("timeo", "retrans", "nconnect") if values.get(name) is not None]
    options.append("ro" if values.get("read_only") else "rw")
    return ",".join(options)


# What mount.nfs says (mount(8) of nfs-utils 2.6), and what it means here.
_SAYINGS: tuple[tuple[str, type[DomusError], str], ...] = (
    ("access denied", DriverError, "Export it to this server: /etc/exports, exportfs -ra"),
    ("No such file or directory", NotFound, "Is the directory exported? showmount -e; with NFSv4 names begin at the server's root"),
    ("Protocol not supported", Unsupported, "The NFS server does not offer this version: set nfs.version"),
    ("requested NFS version", Unsupported, "The NFS server does not offer this version: set nfs.version"),
    ("Connection refused", Unreachable, "Is the NFS server up?"),
    ("timed out", Unreachable, "Is the NFS server up, and a firewall in between?"),
    ("No route to host", Unreachable, "Is the NFS server up?"),
    ("rpc.statd", Unsupported, "NFSv3 needs rpc.statd on this server: systemctl start rpc-statd; or use version 4"),
    ("busy", Conflict, "Something uses files in it: stop its VMs; lsof, fuser -m"),
)


def _explained(error: DomusError, nfs: Optional[NfsSpec]) -> DomusError:
    for saying, kind, remedy in _SAYINGS:
        if saying in error.message:
            return kind(error.message, field="nfs", value=source_of(nfs), remedy=remedy)
    return error


_: type[StoragePlugin] = NfsMount
