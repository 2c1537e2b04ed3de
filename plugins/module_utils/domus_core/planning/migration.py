"""Moving a VM: whether it can work, how it is done, and whose the VM is when it was interrupted. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import Busy, Conflict, DomusError, NoCapacity, NotFound, Refused, Unsupported
from ..model.migration import Destination, MigrationSpec, MovingDisk, MovingVm, RepositoryThere
from ..model.vm import machine_family

LIVE, OFFLINE = "live", "offline"
MOVABLE = ("running", "paused", "stopped")
SUITS = ("identical", "superset")


@dataclasses.dataclass(frozen=True)
class MigrationPlan:
    """How the VM is moved. `copied` are the targets of the disks that libvirt copies, `unsafe` that libvirt is to take our word for shared storage."""

    way: str
    copied: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()
    unsafe: bool = False
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()}


def plan_from_dict(data: Any) -> MigrationPlan:
    """The plan that `as_dict` was made of."""
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in MigrationPlan.__dataclass_fields__
    }
    return MigrationPlan(**known)


def plan_migration(vm: MovingVm, to: Destination, options: MigrationSpec) -> MigrationPlan:
    """How the VM gets there. Raises Refused with everything that is in the way."""
    problems = [error.located(f"vm {vm.name}") for check in _CHECKS for error in check(vm, to, options)]
    if problems:
        raise Refused(problems)
    copied = tuple(disk for disk in vm.disks if not is_shared(disk.repository, disk.path, disk.identity, vm, to))
    brought = tuple(file.path for file in vm.files if file.bring and not is_shared(file.repository, file.path, "", vm, to))
    unsafe = any(not to.repositories[disk.repository].known_shared for disk in vm.disks if disk not in copied and disk.repository in to.repositories)
    way = OFFLINE if vm.state == "stopped" else LIVE
    flags = _flags(way, options, bool(copied), unsafe, vm, to)
    amount = (vm.memory if way == LIVE else 0) + sum(disk.allocated for disk in copied)
    return MigrationPlan(way, tuple(disk.target for disk in copied), brought, unsafe, flags, tuple(_warnings(vm, to, options, copied)), amount)


def _flags(way: str, options: MigrationSpec, copies: bool, unsafe: bool, vm: MovingVm, to: Destination) -> tuple[str, ...]:
    """libvirt's flags by name, without VIR_MIGRATE_."""
    flags = ["PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE"]
    if way == OFFLINE:
        return (*flags, "OFFLINE", *(["TLS"] if to.tls else []))  # nothing is sent that it could encrypt; migrate_tls_force asks for it all the same
    flags += ["LIVE", "ABORT_ON_ERROR"]
    chosen = (("TLS", to.tls), ("NON_SHARED_DISK", copies), ("UNSAFE", unsafe), ("POSTCOPY", options.post_copy), ("PARALLEL", (options.multifd or 1) > 1))
    return (*flags, *(name for name, wanted in chosen if wanted))


def is_shared(repository: str, path: str, identity: str, vm: MovingVm, to: Destination) -> bool:
    """Do both servers see the same file? That is proven by the repository's probe; where nothing may be written, both must have declared it."""
    there = to.repositories.get(repository)
    if there is None or there.path != vm.repositories.get(repository):
        return False
    if there.same is not None:
        return there.same
    return there.shared and repository in vm.shared and (not identity or to.files.get(path) == identity)


# --- what may be in the way; each check yields its refusals


def _check_state(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    if not vm.managed:
        yield Conflict("was not made by Domus", field="managed", remedy="Adopt it first: domus adopt --server SERVER writes its document; apply that")
    if vm.state not in MOVABLE:
        yield Conflict(f"a {vm.state} VM can not be moved: what it saved lies on its server", field="state", value=vm.state, remedy="Start it first")
    if not vm.persistent:
        yield Conflict("its definition was taken away while it runs", field="persistent", remedy="Define it again (virsh define), or stop it")
    if vm.snapshots:
        yield Unsupported(f"it has {vm.snapshots} snapshots, and libvirt moves none", field="snapshots", remedy="Delete them first: virsh snapshot-list")
    if vm.job:
        yield Busy(f"libvirt is busy with it: {vm.job}", remedy="Wait for that to end, or abort it: virsh domjobabort")
    if options.post_copy and not to.post_copy:
        yield Unsupported(
            "the destination's kernel does not let QEMU fetch memory later",
            field="post_copy",
            value=True,
            remedy="There: sysctl vm.unprivileged_userfaultfd=1 (role server: server_kernel_settings), or leave it out",
        )
    if options.post_copy and vm.state == "stopped":
        yield Conflict("a stopped VM has no memory to fetch later", field="post_copy", value=True, remedy="Leave it out")


def _check_there(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    if to.vm is not None:
        yield Conflict(
            f"another VM has its name or UUID there: {to.vm}", field="server", value=to.name, remedy="Delete the one that is not wanted, or choose another"
        )
    if to.reserved is not None:
        yield Busy("is being moved there by somebody else", field="server", value=to.reserved, remedy="Wait for that to end")


def _check_processor(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    if vm.virtualization not in to.domain_types or (vm.virtualization == "kvm" and to.virtualization != "kvm"):
        yield Unsupported("the destination can not run this type of VM", field="virtualization", value=vm.virtualization, remedy="Choose another server")
    if vm.machine and to.machines and vm.machine not in to.machines:
        yield Unsupported(
            f"the destination's QEMU does not know this machine type; its newest of the family is {_newest(vm.machine, to.machines)}",
            field="machine",
            value=vm.machine,
            remedy="Update QEMU there, or give the VM an older machine and restart it",
        )
    if vm.state == "stopped":
        return
    if vm.cpu_mode == "host-passthrough" and vm.virtualization == "kvm" and not to.same_host_cpu:
        yield Unsupported(
            "the VM sees the source's processor as it is, and the destination has another one",
            field="cpu_model",
            value=vm.cpu_mode,
            remedy="Give the VM a CPU model that both have (host-model, or a name) and restart it, or choose another server",
        )
    elif vm.cpu and to.cpu == "incompatible":
        yield Unsupported(
            "the destination's processor lacks what the guest was started with",
            field="cpu_model",
            remedy="Give the VM a CPU model that both have and restart it, or choose another server",
        )


def _newest(machine: str, known: Iterable[str]) -> str:
    family = sorted((one for one in known if machine_family(one) == machine_family(machine) and any(sign.isdigit() for sign in one)), key=_by_number)
    return family[-1] if family else "none"


def _by_number(machine: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in machine.replace("-", ".").split(".")]


def _check_room(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    if vm.state != "stopped" and vm.memory > to.memory_free:
        yield NoCapacity(
            f"the destination has {to.memory_free >> 20} MiB of memory free, and it needs {vm.memory >> 20} MiB",
            field="memory",
            value=vm.memory,
            remedy="Stop or move something there, or choose another server",
        )
    wanted: dict[str, int] = {}
    for disk in vm.disks:
        if disk.repository in to.repositories and not is_shared(disk.repository, disk.path, disk.identity, vm, to):
            wanted[disk.repository] = wanted.get(disk.repository, 0) + disk.allocated
    for name, size in wanted.items():
        if options.copy_storage and size > to.repositories[name].free:
            free = to.repositories[name].free >> 20
            yield NoCapacity(
                f"its disks take {size >> 20} MiB, and there are {free} MiB free",
                field="repository",
                value=name,
                remedy="Make room there, or choose another server",
            )


def _check_disks(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    for disk in vm.disks:
        field = f"disks[{disk.name}]"
        there = to.repositories.get(disk.repository)
        if not disk.repository:
            yield Unsupported(
                "lies in no repository, so the destination can not know it", field=field, value=disk.path, remedy="Add a repository for its folder"
            )
        elif there is None:
            yield NotFound("its repository is not at the destination", field=field, value=disk.repository, remedy="Present the repository to that server too")
        elif not there.available:
            yield NotFound("its repository does not answer at the destination", field=field, value=disk.repository, remedy="Mend its storage first")
        elif there.path != vm.repositories.get(disk.repository):
            yield Conflict(
                f"its repository is at {there.path} there", field=field, value=vm.repositories.get(disk.repository), remedy="Use one path on all servers"
            )
        elif not is_shared(disk.repository, disk.path, disk.identity, vm, to):
            yield from _check_copying(disk, there, field, vm, to, options)


def _check_copying(disk: MovingDisk, there: RepositoryThere, field: str, vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    if there.shared and disk.repository in vm.shared:
        yield Conflict(
            "its repository is declared as shared, and the destination sees other files there",
            field=field,
            value=disk.repository,
            remedy="Is it mounted on both servers? If it is not shared, say so: shared: false",
        )
    elif vm.state == "stopped":
        yield Unsupported(
            "lies on storage of the source's own, and the disks of a stopped VM are not copied",
            field=field,
            value=disk.place,
            remedy="Start it, and move it while it runs (--copy-storage), or use shared storage",
        )
    elif not options.copy_storage:
        yield Conflict(
            "lies on storage of the source's own",
            field=field,
            value=disk.place,
            remedy="Copy it along: --copy-storage (copy_storage: true), or use shared storage",
        )
    elif there.adopted:
        yield Unsupported(
            "in its repository at the destination nothing is made: it is adopted", field=field, value=disk.repository, remedy="Use shared storage"
        )
    elif disk.shareable or disk.read_only:
        word = "shareable" if disk.shareable else "read-only"
        yield Unsupported(f"a {word} disk is not copied", field=field, value=disk.place, remedy="Put it on shared storage, or take it from the VM first")
    elif disk.waiting:
        yield Conflict("it waits for a restart of the VM, so libvirt would not copy it", field=field, value=disk.place, remedy="Restart the VM first")
    elif to.files.get(disk.path) is not None:
        yield Conflict("there is another file of this name at the destination", field=field, value=disk.path, remedy="Remove it there, or rename it")


def _check_files(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    for file in vm.files:
        found = to.files.get(file.path)
        if not file.bring and found is None:
            yield NotFound(f"its {file.use} is not at the destination", field=file.use, value=file.path, remedy="Put it there, or take it from the VM first")
        elif not file.bring and not is_shared(file.repository, file.path, "", vm, to) and str(found).rsplit(":", maxsplit=1)[-1] != str(file.size):
            yield Conflict(f"its {file.use} is another file at the destination", field=file.use, value=file.path, remedy="Put the same file there")


def _check_networks(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    for name in vm.networks:
        if name not in to.networks:
            yield NotFound("this network is not at the destination", field="network", value=name, remedy="Add the server to the network's servers and apply")
        elif not to.networks[name]:
            yield Conflict("this network is not active at the destination", field="network", value=name, remedy="Start it there")
    for name in vm.bridges:
        if name not in to.bridges:
            yield NotFound("this bridge is not at the destination", field="bridge", value=name, remedy="Make it there, or use a network")
    for name in vm.filters:
        if name not in to.filters:
            yield NotFound("this network filter is not at the destination", field="filter", value=name, remedy="Define it there")


def _check_devices(vm: MovingVm, to: Destination, options: MigrationSpec) -> Iterator[DomusError]:
    for device in vm.local_devices:
        yield Unsupported("it uses a device of the source itself", field="devices", value=device, remedy="Take the device from the VM first")
    if vm.vnc_listen and to.addresses and vm.vnc_listen not in ("127.0.0.1", "0.0.0.0", "::", "::1", *to.addresses):
        yield Conflict(
            "its graphical console listens on an address that the destination does not have",
            field="vnc.listen",
            value=vm.vnc_listen,
            remedy="Let it listen on 127.0.0.1 or 0.0.0.0, and restart it",
        )


_CHECKS = (_check_state, _check_there, _check_processor, _check_room, _check_disks, _check_files, _check_networks, _check_devices)


def _warnings(vm: MovingVm, to: Destination, options: MigrationSpec, copied: tuple[MovingDisk, ...]) -> Iterator[str]:
    if not to.tls:
        yield "the connection is not encrypted: this agent's migration_uri is not one of TLS"
    if vm.state != "stopped" and to.cpu == "unknown" and vm.cpu_mode != "host-passthrough":
        yield "libvirt can not say whether the destination's processor suits the guest"
    for word, here, there in (("libvirt", vm.libvirt_version, to.libvirt_version), ("QEMU", vm.hypervisor_version, to.hypervisor_version)):
        if here and there and _version(there) < _version(here):
            yield f"{word} is older at the destination ({there}) than here ({here})"
    if to.cpus and vm.cpus > to.cpus:
        yield f"it has {vm.cpus} vCPUs, and the destination {to.cpus} processors"
    for disk in copied:
        if disk.size > to.repositories[disk.repository].free:
            yield f"disk {disk.name} may grow to {disk.size >> 20} MiB, more than is free in {disk.repository}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


# --- whose the VM is

SOURCE, DESTINATION, BOTH, NOBODY, UNKNOWN = "source", "destination", "both", "nobody", "unknown"
# What one side sees of the VM on a server. `moving`: libvirt is at it; `halted`: it stands, as at the switch; `arriving`: what comes in is not complete;
# `split`: post-copy broke, its memory is on both sides.
MOVING, RUNS, HALTED, DEFINED, ABSENT, ARRIVING, SPLIT, SILENT = "moving", "runs", "halted", "defined", "absent", "arriving", "split", "silent"
# What is to be done: `keep` it (and take back what was prepared), `resume` it, `drop` what is left of it, `finish` the arrival, `wait` and look again.
KEEP, RESUME, DROP, FINISH, WAIT, ASK = "keep", "resume", "drop", "finish", "wait", "ask"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Which side has the VM, and what each side does to its own part; `final` says that nothing more will change by itself."""

    owner: str
    at_source: str
    at_destination: str
    reason: str

    @property
    def final(self) -> bool:
        """Is it settled, once both have done that?"""
        return WAIT not in (self.at_source, self.at_destination) and ASK not in (self.at_source, self.at_destination)


def settle(source: str, destination: str) -> Verdict:
    """Whose the VM is, from what is seen on both sides. Nothing is thrown away unless the other side is seen to have the VM.

    An arrival is complete once the destination has the VM's definition: libvirt writes it before the VM goes on there. So a VM
    that is defined, halted or running at the destination has arrived, and an older copy at the source must not go on.
    """
    if SPLIT in (source, destination):
        return Verdict(UNKNOWN, ASK, ASK, "post-copy broke: its memory is on both servers; it goes on once they reach each other")
    if MOVING in (source, destination) or destination == ARRIVING:
        return Verdict(SOURCE, WAIT, WAIT, "libvirt is still at it")
    if destination == SILENT:
        return _destination_silent(source)
    if source == SILENT:
        return _source_silent(destination)
    return _both_seen(source, destination)


def _destination_silent(source: str) -> Verdict:
    if source == RUNS:
        return Verdict(SOURCE, KEEP, WAIT, "it runs at the source; the destination does not answer")
    if source == ABSENT:
        return Verdict(UNKNOWN, WAIT, WAIT, "it has left the source; the destination does not answer")
    return Verdict(UNKNOWN, ASK, WAIT, "it stands at the source, and whether it runs at the destination can not be seen")


def _source_silent(destination: str) -> Verdict:
    if destination in (RUNS, HALTED, DEFINED):
        return Verdict(DESTINATION, WAIT, FINISH, "it has arrived; the source does not answer")
    return Verdict(UNKNOWN, WAIT, WAIT, "it is not at the destination, and the source does not answer")


def _both_seen(source: str, destination: str) -> Verdict:
    if destination == ABSENT:
        if source == ABSENT:
            return Verdict(NOBODY, KEEP, KEEP, "neither server has it")
        return Verdict(SOURCE, RESUME if source == HALTED else KEEP, DROP, "it did not leave the source")
    if source == ABSENT:
        return Verdict(DESTINATION, FINISH, FINISH, "it has arrived")
    if source == RUNS and destination == RUNS:
        return Verdict(BOTH, DROP, FINISH, "it went on at both: the destination had it first, so the source's copy ends")
    if source == RUNS:
        return Verdict(SOURCE, KEEP, DROP, "it runs at the source; what came in did not go on")
    return Verdict(DESTINATION, DROP, FINISH, "it has arrived; what is left at the source is older")
