"""Kind server: a machine that runs VMs, what it can do, and which virtualization it is to use."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from .field_types import Choice, Name, Text
from .fields import attribute
from .kind import SITE, Kind


@dataclasses.dataclass(frozen=True)
class ServerSpec:
    """What is wanted of a server; None means not managed."""

    name: str = attribute(Name(), "Name of the server, as the inventory has it.", required=True, example="srv1")
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="rack 1, slot 7")
    virtualization: Optional[str] = attribute(
        Choice("auto", "kvm", "qemu"),
        "The virtualization type of its new VMs; `auto` lets a tiny probe guest find out, once a boot, whether KVM really runs guests here.",
        default="auto",
        example="auto",
    )


@dataclasses.dataclass(frozen=True)
class ServerState:
    """What was measured of a server: its facts and capabilities, as `libvirt_driver.server` reads them."""

    virtualization: str = "qemu"
    domain_types: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    facts: Any = None


SERVER_KIND = Kind("server", "servers", ServerSpec, ServerState, SITE, "A machine that runs VMs.")
