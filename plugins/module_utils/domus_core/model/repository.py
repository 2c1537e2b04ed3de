"""Kind repository: a directory on the server that holds virtual disks, ISO images and templates; its own, or one of an NFS server."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from ..errors import InvalidSpec
from .field_types import AbsolutePath, Choice, Flag, HostAddress, Integer, Name, Text, Version
from .fields import CREATION, IGNORE, Object, attribute, given, make
from .kind import SITE, Kind, is_absent, placement, presence

VIRTUAL_DISKS, ISOS, TEMPLATES = "VirtualDisks", "ISOs", "Templates"
FOLDERS = (VIRTUAL_DISKS, ISOS, TEMPLATES)
MOUNTED_BELOW = "/var/lib/domus/repositories"
NFS_VERSIONS = ("4.2", "4.1", "4.0", "3")


@dataclasses.dataclass(frozen=True)
class NfsSpec:
    """Where a repository on an NFS server is, and how it is mounted; None means not managed."""

    server: Optional[str] = attribute(HostAddress(), "The NFS server: a host name or an address.", required=True, example="nas1.example.org")
    export: Optional[str] = attribute(
        AbsolutePath(mountable=True), "The directory that it exports; to the servers' root as root (`no_root_squash`).", required=True, example="/export/vms"
    )
    version: Optional[str] = attribute(
        Version(*NFS_VERSIONS), "Version of the protocol. With 3 the locks of a server that died never fall: not for HA.", default="4.2", example="4.2"
    )
    soft: Optional[bool] = attribute(
        Flag(), "Give VMs I/O errors when the NFS server is away; false lets them wait, which loses no data.", default=False, example=False
    )
    timeo: Optional[int] = attribute(Integer(1, 6000), "Tenths of a second until a request is sent again.", default=600, example=600)
    retrans: Optional[int] = attribute(Integer(0, 100), "How often a request is sent again before the kernel reports it.", default=2, example=2)
    nconnect: Optional[int] = attribute(Integer(1, 16), "How many TCP connections are used.", default=1, example=4)
    lookup_cache: Optional[str] = attribute(
        Choice("positive", "none"),
        "`none`: each name is looked up anew, so that what another server has written is seen at once; for the file system of a server pool.",
        default="positive",
        example="none",
    )
    read_only: Optional[bool] = attribute(Flag(), "Nothing is made or changed in it: for ISO images and templates.", default=False, example=False)


@dataclasses.dataclass(frozen=True)
class RepositorySpec:
    """What is wanted of a repository; None means not managed."""

    name: str = attribute(Name(), "Name, unique in the site.", required=True, example="main")
    path: Optional[str] = attribute(
        AbsolutePath(),
        f"Its directory on the server: the only absolute path in a document. One on an NFS server is mounted there; left out, below {MOUNTED_BELOW}.",
        effect=CREATION,
        example="/var/lib/domus/main",
    )
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="local disks")
    nfs: Optional[NfsSpec] = attribute(Object(NfsSpec), "It is on an NFS server: the server mounts it, and so does each other server that it is presented to.")
    servers: Optional[tuple[str, ...]] = placement()
    adopted: Optional[bool] = attribute(
        Flag(), "The directory is not Domus's own: files in it are used where they lie, and nothing is made or deleted in it.", compare=IGNORE, example=False
    )
    shared: Optional[bool] = attribute(
        Flag(),
        "The directory is the same file system on every server that has it: a VM moves between them without its disks being copied.",
        default=False,
        example=False,
    )
    force_unmount: Optional[bool] = attribute(
        Flag(),
        "With `state: absent`, take it away although its NFS server does not answer: VMs that use it get I/O errors.",
        compare=IGNORE,
        example=False,
    )
    state: Optional[str] = presence("Whether Domus is to know it; `absent` forgets it (unmounts it) and keeps the files.")

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        problems = []
        if self.force_unmount and not is_absent(self):
            problems.append(InvalidSpec("goes only with state: absent", field="force_unmount", value=True))
        if self.nfs is not None and self.path is not None:
            try:
                AbsolutePath(mountable=True).parse(self.path)
            except InvalidSpec as error:
                problems.append(error)
                error.field = "path"
        return problems


@dataclasses.dataclass(frozen=True)
class RepositoryState:
    """What was measured of a repository; sizes in bytes, times in seconds.

    `registered`: the server knows it; else it is only a directory that a document names. `mounted` is None for a directory that Domus does
    not mount. `uuid` is what a shared repository is known by on every server that sees it; `lease` after how long the locks of a server that
    died fall, None when that is not told. `problem` says why it is not available, `not_for_ha` why VMs on it can not be restarted elsewhere.
    """

    capacity: int = 0
    free: int = 0
    available: bool = True
    registered: bool = True
    mounted: Optional[bool] = None
    shared: bool = False
    file_system: str = ""
    uuid: str = ""
    lease: Optional[int] = None
    problem: Optional[str] = None
    not_for_ha: Optional[str] = None


def is_shared(spec: Any) -> bool:
    """Is this repository the same files on every server that it is presented to?"""
    return spec.nfs is not None or bool(spec.shared)


def directory_of(spec: Any) -> Optional[str]:
    """The directory of a repository, also of one that does not say where it is to be mounted."""
    return spec.path or (f"{MOUNTED_BELOW}/{spec.name}" if spec.nfs is not None else None)


def completed(spec: Any) -> Any:
    """The specification of a new repository with what it leaves out, so that a plan shows all of it."""
    values = given(spec)
    if spec.nfs is not None:
        values["path"] = directory_of(spec)
        values["nfs"] = make(NfsSpec, {"version": NFS_VERSIONS[0], **given(spec.nfs)})
    return make(RepositorySpec, values)


REPOSITORY_KIND = Kind(
    "repository", "repositories", RepositorySpec, RepositoryState, SITE, "A directory, of the server or NFS, with virtual disks, ISO images and templates."
)
