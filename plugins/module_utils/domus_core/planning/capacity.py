"""What placement knows of VMs and servers: what a VM needs, and what a server has, may take, and holds already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from ..model.fields import given
from ..model.quantities import UNITS
from .defaults import DEFAULT_MEMORY

Need = tuple[str, str]

# What Oracle VM kept for its control domain: users know the formula, and it fits a server with libvirt and an agent as well.
RESERVE_BASE, RESERVE_SHARE = 502 * UNITS["MiB"], 0.0205
MEMORY_FACTOR, CPU_RATIO = 1.0, 4.0


@dataclasses.dataclass(frozen=True)
class Demand:
    """A VM as placement sees it; memory in bytes, `needs` the objects (kind, key) that must be on its server, `avoid` servers (id, reason)
    that were found out not to do for it.

    A VM counts with its memory and vCPUs whether it runs or not: it may be started at any time.
    """

    name: str
    cpus: int = 1
    memory: int = DEFAULT_MEMORY
    server_tags: frozenset[str] = frozenset()
    anti_affinity: frozenset[str] = frozenset()
    cpu_group: Optional[str] = None
    needs: frozenset[Need] = frozenset()
    avoid: frozenset[tuple[str, str]] = frozenset()
    pool: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Server:
    """A server as placement sees it: `closed` says why it takes no VM now (None: it does), `vms` are those on it, or promised to it.

    `memory` is what may be promised in bytes, `cpus` the virtual CPUs; None of either: it has not told yet. `offers` are the objects
    (kind, key) that are there, or get there with the same document. `spare_servers` is for the loss of how many servers of its `pool` new VMs
    leave room.
    """

    id: str
    name: str
    closed: Optional[str] = None
    memory: Optional[int] = None
    cpus: Optional[int] = None
    tags: frozenset[str] = frozenset()
    cpu_group: Optional[str] = None
    offers: frozenset[Need] = frozenset()
    vms: tuple[Demand, ...] = ()
    pool: Optional[str] = None
    spare_servers: int = 0


def demand_of(spec: Any, needs: frozenset[Need] = frozenset()) -> Demand:
    """What a VM of this specification needs; what it leaves out counts as the default of a new VM."""
    layout = spec.cpu_topology
    product = (layout.sockets or 1) * (layout.cores or 1) * (layout.threads or 1) if layout else None
    return Demand(
        name=spec.name,
        cpus=spec.cpus or spec.cpus_max or product or 1,
        memory=spec.memory or spec.memory_max or DEFAULT_MEMORY,
        server_tags=frozenset(spec.server_tags or ()),
        anti_affinity=frozenset(spec.anti_affinity or ()),
        cpu_group=spec.cpu_group,
        pool=spec.pool,
        needs=needs,
    )


def needs_of(spec: Any) -> Iterator[Need]:
    """The objects of the site that a VM needs on its server: networks, repositories, templates, ISOs and virtual disks."""
    for nic in spec.nics or ():
        if nic.network:
            yield "network", nic.network
    for drive in spec.cdroms or ():
        if drive.iso:
            yield "iso", drive.iso
    for disk in spec.disks or ():
        for kind in ("repository", "template", "virtual_disk"):
            if getattr(disk, kind):
                yield kind, getattr(disk, kind)
        if disk.image:
            yield "repository", disk.image.split("/", 1)[0]
    for file in (spec.kernel.kernel, spec.kernel.initrd) if spec.kernel else ():
        if file:
            yield "repository", file.split("/", 1)[0]


def needs_to_move(spec: Any) -> Iterator[Need]:
    """What a VM that exists needs where it moves: what its disks were made from does not matter any more, where they lie does."""
    for kind, key in needs_of(spec):
        if kind in ("network", "iso"):
            yield kind, key
    for disk in spec.disks or ():
        for place in (disk.file, disk.virtual_disk):
            if place:
                yield "repository", place.split("/", 1)[0]


def memory_to_promise(memory: int, spec: Any) -> int:
    """How many bytes of a server's memory may be promised to VMs, as its specification (None: there is none) has it."""
    wanted: Mapping[str, Any] = given(spec) if spec is not None else {}
    reserve = wanted.get("memory_reserve", RESERVE_BASE + int(memory * RESERVE_SHARE))
    return int(max(0, memory - reserve) * wanted.get("memory_factor", MEMORY_FACTOR))


def cpus_to_promise(threads: int, spec: Any) -> int:
    """How many virtual CPUs may be placed on a server with so many threads."""
    wanted: Mapping[str, Any] = given(spec) if spec is not None else {}
    return int(threads * wanted.get("cpu_ratio", CPU_RATIO))
