"""Kind server: a machine that runs VMs, what it can do, and which virtualization it is to use."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from .field_types import Choice, ListOf, Name, Ratio, Size, Text
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
    tags: Optional[tuple[str, ...]] = attribute(
        ListOf(Name()), "Labels: VMs ask for servers that have them, networks and repositories are realized on those.", example=["ssd", "rack1"]
    )
    memory_reserve: Optional[int] = attribute(
        Size(), "Memory that is kept for the server itself when VMs are placed.", default="502 MiB and 2.05 % of its memory", example="4GiB"
    )
    memory_factor: Optional[float] = attribute(
        Ratio(0.1, 16), "How often the rest of its memory may be promised to VMs when they are placed.", default=1.0, example=1.2
    )
    cpu_ratio: Optional[float] = attribute(Ratio(0.1, 64), "How many virtual CPUs may be placed on it for each of its threads.", default=4.0, example=2.0)
    cpu_group: Optional[str] = attribute(
        Name(),
        "Its CPU compatibility group: VMs are moved only among the servers of a group.",
        default="a group of all servers whose CPU libvirt calls the same",
        example="rack1-cpus",
    )


@dataclasses.dataclass(frozen=True)
class ServerState:
    """What was measured of a server: its facts and capabilities, as `libvirt_driver.server` reads them."""

    virtualization: str = "qemu"
    domain_types: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    facts: Any = None


SERVER_KIND = Kind("server", "servers", ServerSpec, ServerState, SITE, "A machine that runs VMs.")
