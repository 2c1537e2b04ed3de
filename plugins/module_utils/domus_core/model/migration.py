"""How a VM is moved to another server, and what the two servers tell each other about it before anything happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import DomusError, InvalidSpec, Refused
from .field_types import Flag, Integer
from .fields import attribute, parse_spec

LONGEST = 86400


@dataclasses.dataclass(frozen=True)
class MigrationSpec:
    """How a VM is moved; None means left to the default."""

    copy_storage: Optional[bool] = attribute(
        Flag(), "Copy the disks that lie on storage of the source's own; they are deleted there once the VM has arrived.", default=False, example=True
    )
    bandwidth: Optional[int] = attribute(Integer(1, 1 << 20), "MiB/s at most; left out: all that the network gives.", example=500)
    downtime: Optional[int] = attribute(Integer(1, 2_000_000), "Milliseconds that the VM may stand still for the last step.", default=300, example=100)
    multifd: Optional[int] = attribute(Integer(1, 255), "Connections that carry the memory side by side.", default=1, example=4)
    post_copy: Optional[bool] = attribute(
        Flag(),
        "Let the VM go on at the destination after the first pass, and fetch the rest of its memory from there: it ends for certain, but a"
        " network that fails meanwhile leaves the VM standing until it is back.",
        default=False,
        example=True,
    )
    timeout: Optional[int] = attribute(Integer(1, LONGEST), "Seconds after which it is given up; the VM stays where it is.", example=3600)

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        problems = []
        if self.post_copy and (self.multifd or 1) > 1:
            problems.append(InvalidSpec("goes not together with post_copy", field="multifd", value=self.multifd, remedy="Leave one of them out"))
        if self.post_copy and self.copy_storage:
            problems.append(InvalidSpec("goes not together with copy_storage", field="post_copy", value=True, remedy="Leave one of them out"))
        return problems


def parse_migration(value: Any) -> MigrationSpec:
    """The options in plain data. Raises Refused."""
    problems: list[DomusError] = []
    spec = parse_spec(MigrationSpec, {} if value is None else value, problems, "migration")
    if spec is None or problems:
        raise Refused(problems)
    return spec


@dataclasses.dataclass(frozen=True)
class MovingDisk:
    """A disk of the VM, by the source; sizes in bytes. `note` is what says that Domus made it, `identity` what tells the file from others."""

    name: str
    target: str
    path: str
    place: str
    format: str
    repository: str = ""
    size: int = 0
    allocated: int = 0
    identity: str = ""
    read_only: bool = False
    shareable: bool = False
    waiting: bool = False
    note: Optional[dict[str, Any]] = None


@dataclasses.dataclass(frozen=True)
class MovingFile:
    """A file that the VM needs and does not write: an ISO image or kernel that must be there, or (`bring`) one that goes along."""

    use: str
    path: str
    size: int = 0
    repository: str = ""
    bring: bool = False


@dataclasses.dataclass(frozen=True)
class MovingVm:
    """What the source says of the VM. `cpu` and `host_cpu` are libvirt's XML of what the guest sees and of the source's processor.

    `probes` names for each repository of its files a file that lies in it just now: whoever sees it has the same file system.
    """

    name: str
    uuid: str
    state: str
    generation: int = 0
    managed: bool = True
    persistent: bool = True
    autostart: bool = False
    memory: int = 0
    cpus: int = 1
    virtualization: str = "kvm"
    architecture: str = "x86_64"
    machine: str = ""
    emulator: str = ""
    cpu: str = ""
    host_cpu: str = ""
    cpu_mode: str = ""
    libvirt_version: str = ""
    hypervisor_version: str = ""
    uefi: bool = False
    disks: tuple[MovingDisk, ...] = ()
    files: tuple[MovingFile, ...] = ()
    networks: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    local_devices: tuple[str, ...] = ()
    snapshots: int = 0
    vnc_listen: str = ""
    job: str = ""
    repositories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shared: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RepositoryThere:
    """A repository of the destination: `same` says that it is the same file system as the source's (None: nobody can tell)."""

    path: str
    free: int = 0
    available: bool = True
    shared: bool = False
    same: Optional[bool] = None
    known_shared: bool = False
    adopted: bool = False


@dataclasses.dataclass(frozen=True)
class Destination:
    """What the destination says of itself as far as this VM is concerned. `cpu` is how its processor suits the guest; sizes in bytes."""

    server: str
    name: str = ""
    address: str = ""
    virtualization: str = "kvm"
    domain_types: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    memory_free: int = 0
    cpus: int = 0
    cpu: str = "unknown"
    same_host_cpu: bool = False
    libvirt_version: str = ""
    hypervisor_version: str = ""
    vm: Optional[str] = None
    reserved: Optional[str] = None
    repositories: Mapping[str, RepositoryThere] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Optional[str]] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    bridges: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    tls: bool = True
    post_copy: bool = True


def moving_vm(data: Mapping[str, Any]) -> MovingVm:
    """The VM in plain data (`dataclasses.asdict`, through JSON). Raises InvalidSpec."""
    found: MovingVm = _restored(MovingVm, data, {"disks": MovingDisk, "files": MovingFile})
    return found


def destination(data: Mapping[str, Any]) -> Destination:
    """The destination in plain data. Raises InvalidSpec."""
    found: Destination = _restored(Destination, data, {"repositories": RepositoryThere})
    return found


def _restored(kind: Any, data: Any, inner: Mapping[str, Any]) -> Any:
    """Names that this version does not know are left out: the other side may be newer."""
    try:
        return kind(**{name: _value(inner.get(name), value) for name, value in data.items() if name in kind.__dataclass_fields__})
    except (TypeError, AttributeError) as error:
        raise InvalidSpec(f"is damaged: {error}", object="migration", remedy="Are both agents of this version?") from None


def _value(inner: Any, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_restored(inner, one, {}) if inner else one for one in value)
    if inner is not None and isinstance(value, dict):
        return {name: _restored(inner, one, {}) for name, one in value.items()}
    return value
