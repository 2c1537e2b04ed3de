"""What source and destination of a migration say of themselves; nothing is changed, but for a probe in each repository of the VM."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

from ..errors import DomusError, NotFound
from ..model.migration import Destination, MovingDisk, MovingFile, MovingVm, RepositoryThere
from ..model.repository import VIRTUAL_DISKS, directory_of, is_shared
from ..model.vm import machine_family
from ..storage_connect.marker import NOTES
from .connection import code_of, libvirt, told
from .image_header import inspect
from .places import Places
from .registry import write_atomically
from .server import read_server
from .tools import make_folder
from .virtual_disk import FORMATS, notes_of
from .vm_power import run_state
from .vm_reader import size_of, source_of, target_of
from .vm_record import VmRecord, read_record
from .xml_fields import get, parse, serialize

if TYPE_CHECKING:
    from .driver import LibvirtDriver

PROBE = ".probe-"
PROBE_SECONDS = 600.0
# What libvirt takes for a shared file system by itself (src/util/virfile.c, by statfs(2)'s magic numbers).
_SHARED_TYPES = frozenset({"nfs", "nfs4", "gfs2", "ocfs2", "afs", "smb3", "cifs", "ceph", "gpfs", "fuse.glusterfs", "fuse.quobyte"})
_HOST_DEVICES = {"hostdev": "hostdev", "filesystem": "filesystem", "shmem": "shmem"}
INCOMING = "incoming"
LARGEST_FILE = 8 << 20  # of what comes along


def source_facts(driver: LibvirtDriver, name_or_uuid: str) -> MovingVm:
    """What the VM is made of. Raises NotFound."""
    domain = require_domain(driver.connection, name_or_uuid)
    places = driver.known_places()
    with told(f"reading domain {name_or_uuid}"):
        flags = libvirt.VIR_DOMAIN_XML_SECURE
        defined = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | flags))
        live = parse(domain.XMLDesc(flags)) if domain.isActive() else defined
        state, persistent, autostart = run_state(domain), bool(domain.isPersistent()), bool(domain.autostart())
        snapshots = domain.snapshotNum(0) + _checkpoints(domain)
        job = _job(domain)
        connection = driver.connection
        libvirt_version, hypervisor_version = _version(connection.getLibVersion()), _version(connection.getVersion())
        host_cpu = parse(connection.getCapabilities()).find("host/cpu")
    record = read_record(defined)
    places.require_answering(path for root in (live, defined) for disk in root.iterfind("devices/disk") if (path := source_of(disk)) is not None)
    disks = tuple(_disks(live, defined, record or VmRecord(), places))
    files = tuple(_files(live, defined, record, state, places))
    used = ({one.repository for one in disks} | {one.repository for one in files}) - {""}
    needs = _network_needs(live, defined)
    repositories = {name: str(directory_of(places.repositories[name])) for name in used}
    return MovingVm(
        name=domain.name(),
        uuid=domain.UUIDString(),
        state=state,
        generation=record.generation if record else 0,
        managed=record is not None,
        persistent=persistent,
        autostart=autostart,
        memory=_kibibytes(live, "memory"),
        cpus=int(live.findtext("vcpu") or 1),
        virtualization=live.get("type"),
        architecture=get(live, "./os/type/@arch") or "",
        machine=get(live, "./os/type/@machine") or "",
        emulator=live.findtext("devices/emulator") or "",
        cpu=_cpu(live),
        host_cpu=serialize(host_cpu) if host_cpu is not None else "",
        cpu_mode=get(live, "./cpu/@mode") or "",
        libvirt_version=libvirt_version,
        hypervisor_version=hypervisor_version,
        uefi=live.find("os/nvram") is not None,
        disks=disks,
        files=files,
        networks=needs["networks"],
        bridges=needs["bridges"],
        filters=needs["filters"],
        local_devices=tuple(_local_devices(live, defined)),
        snapshots=snapshots,
        vnc_listen=get(live, "./devices/graphics/@listen") or "",
        job=job,
        repositories=repositories,
        probes=dict(_probes(used, places)),
        shared=tuple(name for name in used if is_shared(places.repositories[name])),
    )


def destination_facts(driver: LibvirtDriver, vm: MovingVm, *, server: str = "", name: str = "", address: str = "", tls: bool = True) -> Destination:
    """What this server is for that VM."""
    connection, places = driver.connection, driver.known_places()
    places.require_answering([*(disk.path for disk in vm.disks), *(file.path for file in vm.files)])
    with told("reading what the destination is"):
        host = read_server(connection, virtualization_setting="auto", state_directory=driver.state_directory)
        networks = {network.name(): bool(network.isActive()) for network in connection.listAllNetworks(0)}
        filters = tuple(one.name() for one in connection.listAllNWFilters(0)) if connection.getType() != "TEST" else ()
    return Destination(
        server=server,
        name=name or host["hostname"],
        address=address,
        virtualization=host["virtualization"],
        domain_types=tuple(host["domain_types"]),
        machines=tuple(one for one in host["machines"] if machine_family(one) == machine_family(vm.machine)),
        memory_free=memory_available() or host["memory_free"] or 0,
        cpus=host["cpus"] or 0,
        cpu=compare_cpu(connection, vm),
        same_host_cpu=_same_host_cpu(connection, vm),
        libvirt_version=_version(connection.getLibVersion()),
        hypervisor_version=_version(connection.getVersion()),
        vm=_there_already(connection, vm),
        reserved=_reserved(driver, vm),
        repositories={one: _repository(one, vm, places) for one in vm.repositories if one in places.repositories},
        files={path: identity_of(path) for path in (*(disk.path for disk in vm.disks), *(file.path for file in vm.files))},
        networks={one: networks[one] for one in vm.networks if one in networks},
        bridges=tuple(one for one in vm.bridges if os.path.exists(f"/sys/class/net/{one}")),
        filters=tuple(one for one in vm.filters if one in filters),
        tls=tls,
        post_copy=_can_post_copy(),
    )


def _can_post_copy() -> bool:
    """May QEMU, which does not run as root, ask the kernel to wait for memory? (userfaultfd(2); kernels before 5.2 allow it to all)"""
    with suppress(OSError), open("/proc/sys/vm/unprivileged_userfaultfd", encoding="ascii") as file:
        return file.read().strip() == "1"
    return True


def require_domain(connection: Any, name_or_uuid: str) -> Any:
    """The domain of this name or UUID. Raises NotFound."""
    for look in (connection.lookupByName, connection.lookupByUUIDString):
        try:
            with told(f"looking for domain {name_or_uuid}"):
                return look(name_or_uuid)
        except DomusError as error:
            if error.code == "unreachable":
                raise
    raise NotFound("there is no VM of this name or UUID on this server", object=f"vm {name_or_uuid}", remedy="Look where it is: domus vm list")


def identity_of(path: str) -> Optional[str]:
    """Inode and size of a file, or None when there is none: files that differ in it are two."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f"{status.st_ino}:{status.st_size}"


def memory_available() -> int:
    """Bytes that new processes can have (proc(5), MemAvailable); 0 when the kernel does not tell."""
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def compare_cpu(connection: Any, vm: MovingVm) -> str:
    """How this server's processor suits the guest's: identical, superset, incompatible, or unknown."""
    if not vm.cpu:
        return "unknown"
    words = {libvirt.VIR_CPU_COMPARE_INCOMPATIBLE: "incompatible", libvirt.VIR_CPU_COMPARE_IDENTICAL: "identical", libvirt.VIR_CPU_COMPARE_SUPERSET: "superset"}
    try:
        answer = connection.compareHypervisorCPU(None, vm.architecture, vm.machine, vm.virtualization, vm.cpu, 0)
    except libvirt.libvirtError as error:
        return "incompatible" if code_of(error) == libvirt.VIR_ERR_CPU_INCOMPATIBLE else "unknown"
    return words.get(answer, "unknown")


def _same_host_cpu(connection: Any, vm: MovingVm) -> bool:
    if not vm.host_cpu:
        return False
    try:
        return bool(connection.compareCPU(vm.host_cpu, 0) == libvirt.VIR_CPU_COMPARE_IDENTICAL)
    except libvirt.libvirtError:
        return False


def _cpu(live: Any) -> str:
    """What the guest sees; empty where libvirt can not compare it."""
    cpu = live.find("cpu")
    return serialize(cpu) if cpu is not None and cpu.find("model") is not None else ""


def _kibibytes(root: Any, tag: str) -> int:
    return int(root.findtext(tag) or 0) * 1024


def _version(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def _checkpoints(domain: Any) -> int:
    with suppress(libvirt.libvirtError, AttributeError):
        return len(domain.listAllCheckpoints(0))
    return 0


def _job(domain: Any) -> str:
    with suppress(libvirt.libvirtError):
        if domain.isActive() and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            return "a migration, a save or a copy is under way"
    return ""


def _disks(live: Any, defined: Any, record: VmRecord, places: Places) -> Iterable[MovingDisk]:
    """The disks that run, and those that wait for a restart."""
    running = {target_of(disk): source_of(disk) for disk in live.iterfind("devices/disk")}
    waiting = [disk for disk in defined.iterfind("devices/disk") if running.get(target_of(disk)) != source_of(disk)] if live is not defined else []
    for element, waits in [*((disk, False) for disk in live.iterfind("devices/disk")), *((disk, True) for disk in waiting)]:
        target, path = target_of(element), source_of(element)
        if element.get("device", "disk") == "disk" and target != record.seed and path:
            yield _disk(element, target, path, record, places, waits)


def _disk(element: Any, target: str, path: str, record: VmRecord, places: Places, waits: bool) -> MovingDisk:
    format = get(element, "./driver/@type") or "raw"
    place = places.place(path) or path
    repository = place.split("/", 1)[0] if place != path else ""
    stem, extension = os.path.splitext(os.path.basename(path))
    adopted = bool(repository and places.repositories[repository].adopted)
    note = (
        notes_of(str(directory_of(places.repositories[repository]))).read("virtual_disk", stem) if repository and not adopted and extension in FORMATS else None
    )
    return MovingDisk(
        name=record.names("disks").get(target, target),
        target=target,
        path=path,
        place=place,
        format=format,
        repository=repository,
        size=size_of(path, format) or 0,
        allocated=_allocated(path),
        identity=identity_of(path) or "",
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        waiting=waits,
        note=note,
    )


def _allocated(path: str) -> int:
    """What the image takes with its backing files."""
    total = 0
    with suppress(OSError, DomusError):
        for dummy in range(32):
            total += os.stat(path).st_blocks * 512
            header = inspect(path)
            if not header.backing:
                break
            path = os.path.join(os.path.dirname(path), header.backing)
    return total


def _files(live: Any, defined: Any, record: Optional[VmRecord], state: str, places: Places) -> Iterable[MovingFile]:
    """Media and kernels that must be there; the cloud-init seed, and a stopped VM's UEFI variables, which go along."""
    seen: set[str] = set()
    for root in (live, defined):
        wanted = [(root.findtext(f"os/{use}"), use, False) for use in ("kernel", "initrd")]
        for disk in root.iterfind("devices/disk"):
            is_seed = bool(record and record.seed and target_of(disk) == record.seed)
            if is_seed or disk.get("device") == "cdrom":
                wanted.append((source_of(disk), "cloud_init" if is_seed else "cdrom", is_seed))
        if state == "stopped":
            wanted.append((root.findtext("os/nvram"), "uefi_variables", True))
        for path, use, bring in wanted:
            if path and path not in seen and (not bring or os.path.exists(path)):
                seen.add(path)
                place = places.place(path) or path
                yield MovingFile(use, path, os.path.getsize(path) if os.path.exists(path) else 0, place.split("/", 1)[0] if place != path else "", bring)


def _network_needs(*roots: Any) -> dict[str, tuple[str, ...]]:
    needs: dict[str, dict[str, None]] = {"networks": {}, "bridges": {}, "filters": {}}
    for nic in (nic for root in roots for nic in root.iterfind("devices/interface")):
        kind = nic.get("type")
        name = get(nic, f"./source/@{ {'network': 'network', 'bridge': 'bridge', 'direct': 'dev'}.get(kind, 'network') }")
        if name:
            needs["networks" if kind == "network" else "bridges"][name] = None
        if get(nic, "./filterref/@filter"):
            needs["filters"][str(get(nic, "./filterref/@filter"))] = None
    return {group: tuple(names) for group, names in needs.items()}


def _local_devices(*roots: Any) -> Iterable[str]:
    """What exists on this server only."""
    seen = dict.fromkeys(_described(element) for root in roots for tag in _HOST_DEVICES for element in root.iterfind(f"devices/{tag}"))
    seen |= dict.fromkeys("interface hostdev" for root in roots for nic in root.iterfind("devices/interface") if nic.get("type") == "hostdev")
    for disk in (disk for root in roots for disk in root.iterfind("devices/disk")):
        if disk.get("type") in ("block", "volume", "nvme", "vhostuser", "dir"):
            seen[f"disk {target_of(disk)} ({source_of(disk) or disk.get('type')})"] = None
    return seen


def _described(element: Any) -> str:
    return f"{element.tag} {element.get('type') or element.get('name') or ''}".strip()


def _probes(repositories: Iterable[str], places: Places) -> Iterable[tuple[str, str]]:
    """Leave a file of a new name in each repository of Domus's own; those of earlier times go."""
    for name in sorted(repositories):
        spec = places.repositories[name]
        directory = directory_of(spec)
        if spec.adopted or not directory:
            continue
        folder, probe = os.path.join(directory, NOTES), PROBE + secrets.token_hex(16)
        with suppress(OSError):  # a repository that nothing can be written to proves nothing
            make_folder(folder, 0o755)
            _forget_probes(folder)
            write_atomically(os.path.join(folder, probe), b"")
            yield name, probe


def _forget_probes(folder: str) -> None:
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        if entry.startswith(PROBE):
            with suppress(OSError):
                if time.time() - os.stat(path).st_mtime > PROBE_SECONDS:
                    os.unlink(path)


def _repository(name: str, vm: MovingVm, places: Places) -> RepositoryThere:
    spec = places.repositories[name]
    path = str(directory_of(spec))
    try:
        room = os.statvfs(path)
    except OSError:
        return RepositoryThere(path, available=False, shared=is_shared(spec), adopted=bool(spec.adopted))
    probe = vm.probes.get(name)
    same = None if probe is None else os.path.exists(os.path.join(path, NOTES, os.path.basename(probe)))
    return RepositoryThere(path, room.f_bavail * room.f_frsize, True, is_shared(spec), same, _known_shared(path), bool(spec.adopted))


def _known_shared(path: str) -> bool:
    """Does libvirt itself take this for a shared file system?"""
    best, type = "", ""
    with suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            dummy, mounted, kind = line.split()[:3]
            root = mounted.replace("\\040", " ").rstrip("/") + "/"
            if (os.path.realpath(path) + "/").startswith(root) and len(root) >= len(best):
                best, type = root, kind
    return type in _SHARED_TYPES


def _there_already(connection: Any, vm: MovingVm) -> Optional[str]:
    for look, wanted in ((connection.lookupByName, vm.name), (connection.lookupByUUIDString, vm.uuid)):
        with suppress(libvirt.libvirtError):
            domain = look(wanted)
            return f"{domain.name()} ({domain.UUIDString()}, {run_state(domain)})"
    return None


def _reserved(driver: LibvirtDriver, vm: MovingVm) -> Optional[str]:
    record: Optional[Mapping[str, Any]] = driver.registry.read(INCOMING, vm.uuid)
    return None if record is None else str(record.get("operation") or "")


def seed_folders(driver: LibvirtDriver) -> list[str]:
    """Where files that come along may be put: beside virtual disks, and in the server's own folders for seeds and UEFI variables."""
    places = driver.known_places()
    own = [os.path.join(directory_of(one) or "", VIRTUAL_DISKS) for one in places.repositories.values() if not one.adopted]
    return [*own, os.path.join(driver.state_directory, "cloud-init"), "/var/lib/libvirt/qemu/nvram"]


def as_data(facts: Any) -> dict[str, Any]:
    """The facts as JSON-able data."""
    return dataclasses.asdict(facts)
