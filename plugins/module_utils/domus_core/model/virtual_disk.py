"""Kind virtual disk: an image file in a repository; VMs make their own from their `disks`, others may be shared."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Optional

from ..errors import InvalidSpec
from .field_types import Choice, FileReference, Flag, Name, Size, Text
from .fields import CREATION, attribute
from .kind import SITE, Kind, placement, presence

EXTENSIONS = {"qcow2": ".qcow2", "raw": ".img"}
SECTOR = 512
LONGEST_NAME = 63


@dataclasses.dataclass(frozen=True)
class VirtualDiskSpec:
    """What is wanted of a virtual disk; None means not managed."""

    name: str = attribute(Name(), "Name, unique in its repository; the file is this name with .qcow2 or .img.", required=True, example="data1")
    repository: str = attribute(Name(), "The repository that holds it.", required=True, example="main")
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="shared data")
    size: Optional[int] = attribute(Size(SECTOR, multiple=SECTOR), "Its size as the VM sees it; it can grow, never shrink.", example="100GiB")
    format: Optional[str] = attribute(Choice("qcow2", "raw"), "Image format.", effect=CREATION, default="qcow2", example="qcow2")
    sparse: Optional[bool] = attribute(Flag(), "Take room only as it is written; false takes all of it at once.", effect=CREATION, default=True, example=True)
    template: Optional[str] = attribute(Name(), "Make it from this template.", effect=CREATION, example="debian12")
    image: Optional[str] = attribute(
        FileReference(), "Make it from this image, in the Templates folder of a repository.", effect=CREATION, example="main/debian-12.qcow2"
    )
    clone: Optional[str] = attribute(
        Choice("thin", "sparse", "full"),
        "How it is made from a template or image: `thin` keeps only the differences, `sparse` copies what is written, `full` takes all room at once.",
        effect=CREATION,
        default="thin for a template, sparse for an image",
        example="thin",
    )
    shareable: Optional[bool] = attribute(Flag(), "Several VMs may use it at once (raw only: QEMU can not share qcow2).", default=False, example=False)
    servers: Optional[tuple[str, ...]] = placement()
    state: Optional[str] = presence("Whether it is to exist; `absent` deletes the file.")

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        return source_problems(self, ("template", "image"))


@dataclasses.dataclass(frozen=True)
class VirtualDiskState:
    """What was measured of a virtual disk; sizes in bytes. `repository_uuid` is that of a shared repository, which other servers see as well."""

    path: str = ""
    allocated: int = 0
    backing: Optional[str] = None
    owner: Optional[str] = None
    made_by_domus: bool = False
    repository_uuid: Optional[str] = None


def source_problems(spec: Any, sources: tuple[str, ...]) -> list[InvalidSpec]:
    """The contradictions between where a disk comes from and what it is to be."""
    problems = []
    used = [name for name in sources if getattr(spec, name) is not None]
    if len(used) > 1:
        problems.append(InvalidSpec(f"goes not together with {used[0]}", field=used[1], remedy="A disk comes from one place"))
    if spec.clone is not None and not set(used) & {"template", "image"}:
        problems.append(InvalidSpec("needs a template or an image", field="clone"))
    if spec.clone == "thin" and spec.format == "raw":
        problems.append(InvalidSpec("a thin clone is always qcow2", field="format", value="raw", remedy="Use clone sparse, or format qcow2"))
    if spec.shareable and (spec.format == "qcow2" or spec.clone == "thin"):
        problems.append(InvalidSpec("a shareable disk must be raw", field="shareable", remedy="Use format raw"))
    return problems


def own_disk_name(vm: str, disk: str) -> str:
    """The name of the virtual disk that is made for a disk of a VM; a long one is cut and kept apart by a hash."""
    name = f"{vm}-{disk}"
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def file_name(name: str, format: str) -> str:
    """The name of a virtual disk's file."""
    return name + EXTENSIONS[format]


VIRTUAL_DISK_KIND = Kind("virtual_disk", "virtual_disks", VirtualDiskSpec, VirtualDiskState, SITE, "An image file in a repository.")
