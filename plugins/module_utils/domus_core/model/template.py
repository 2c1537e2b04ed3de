"""Kind template: an image in a repository that disks of VMs are made from."""

from __future__ import annotations

import dataclasses
from typing import Optional

from .field_types import FileReference, Name, Text
from .fields import CREATION, attribute
from .kind import SITE, Kind, placement, presence

CHECKSUM = Text(71, pattern=r"sha256:[0-9a-f]{64}", noun="a checksum")


@dataclasses.dataclass(frozen=True)
class TemplateSpec:
    """What is wanted of a template; None means not managed."""

    name: str = attribute(Name(), "Name, unique in the site.", required=True, example="debian12")
    image: Optional[str] = attribute(
        FileReference(), "Its image: a file in the Templates folder of a repository.", effect=CREATION, example="main/debian-12.qcow2"
    )
    checksum: Optional[str] = attribute(CHECKSUM, "SHA-256 the image must have when the template is made.", effect=CREATION, example="sha256:" + "0" * 64)
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="Debian 12, cloud-init")
    servers: Optional[tuple[str, ...]] = placement()
    state: Optional[str] = presence("Whether Domus is to know it; `absent` forgets it and keeps the image.")


@dataclasses.dataclass(frozen=True)
class TemplateState:
    """What was measured of a template; sizes in bytes. `repository_uuid` is that of a shared repository, which other servers see as well."""

    path: str = ""
    format: str = ""
    size: int = 0
    available: bool = True
    repository_uuid: Optional[str] = None


TEMPLATE_KIND = Kind("template", "templates", TemplateSpec, TemplateState, SITE, "An image that disks of VMs are made from.")
