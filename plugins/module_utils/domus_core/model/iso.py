"""Kind ISO: an image of an optical disc in a repository."""

from __future__ import annotations

import dataclasses
from typing import Optional

from .field_types import FileReference, Name, Text
from .fields import CREATION, attribute
from .kind import SITE, Kind, placement, presence
from .template import CHECKSUM


@dataclasses.dataclass(frozen=True)
class IsoSpec:
    """What is wanted of an ISO image; None means not managed."""

    name: str = attribute(Name(), "Name, unique in the site.", required=True, example="debian12-netinst")
    image: Optional[str] = attribute(FileReference(), "Its file in the ISOs folder of a repository.", effect=CREATION, example="main/debian-12-netinst.iso")
    checksum: Optional[str] = attribute(CHECKSUM, "SHA-256 the file must have when the ISO is made known.", effect=CREATION, example="sha256:" + "0" * 64)
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="installer")
    servers: Optional[tuple[str, ...]] = placement()
    state: Optional[str] = presence("Whether Domus is to know it; `absent` forgets it and keeps the file.")


@dataclasses.dataclass(frozen=True)
class IsoState:
    """What was measured of an ISO image; size in bytes. `repository_uuid` is that of a shared repository, which other servers see as well."""

    path: str = ""
    size: int = 0
    available: bool = True
    repository_uuid: Optional[str] = None


ISO_KIND = Kind("iso", "isos", IsoSpec, IsoState, SITE, "An image of an optical disc.")
