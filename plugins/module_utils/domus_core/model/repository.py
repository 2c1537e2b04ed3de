"""Kind repository: a directory on the server that holds virtual disks, ISO images and templates."""

from __future__ import annotations

import dataclasses
from typing import Optional

from .field_types import AbsolutePath, Flag, Name, Text
from .fields import CREATION, IGNORE, attribute
from .kind import SITE, Kind, placement, presence

VIRTUAL_DISKS, ISOS, TEMPLATES = "VirtualDisks", "ISOs", "Templates"
FOLDERS = (VIRTUAL_DISKS, ISOS, TEMPLATES)


@dataclasses.dataclass(frozen=True)
class RepositorySpec:
    """What is wanted of a repository; None means not managed."""

    name: str = attribute(Name(), "Name, unique in the site.", required=True, example="main")
    path: Optional[str] = attribute(
        AbsolutePath(), "Its directory on the server: the only absolute path in a document.", effect=CREATION, example="/var/lib/domus/main"
    )
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="local disks")
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
    state: Optional[str] = presence("Whether Domus is to know it; `absent` forgets it and keeps the files.")


@dataclasses.dataclass(frozen=True)
class RepositoryState:
    """What was measured of a repository; sizes in bytes."""

    capacity: int = 0
    free: int = 0
    available: bool = True
    registered: bool = False


REPOSITORY_KIND = Kind(
    "repository", "repositories", RepositorySpec, RepositoryState, SITE, "A directory on the server with virtual disks, ISO images and templates."
)
