"""Kind VM: a virtual machine, known to libvirt as a domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Optional

from ..errors import InvalidSpec
from .field_types import Choice, Flag, Integer, ListOf, Name, Size, Text
from .fields import CREATION, IGNORE, RESTART, Object, Objects, attribute
from .ha import HaSpec
from .kind import POOL, Kind
from .quantities import UNITS
from .vm_devices import CdromSpec, CloudInitSpec, CpuBaselineSpec, DiskSpec, KernelSpec, NicSpec, TopologySpec, VncSpec, WatchdogSpec

KIB, MIB = UNITS["KiB"], UNITS["MiB"]
# Only the VM's record says these: libvirt knows nothing of them.
PLACEMENT_RULES = ("server_tags", "anti_affinity", "cpu_group", "ha")
# What QEMU offers (libvirt src/qemu/qemu_validate.c); other hypervisors know more.
LIFECYCLE = ("destroy", "restart")


def same_machine(wanted: str, found: str) -> bool:
    """Is the machine type the same, when libvirt has replaced an alias by the newest versioned name?"""
    family = {"pc": "pc-i440fx-", "q35": "pc-q35-", "virt": "virt-"}.get(wanted)
    return wanted == found or bool(family and found.startswith(family))


def machine_family(machine: str) -> str:
    """The family of a machine type, the same for its alias and all its versions: another family has other hardware."""
    for family in ("pc-i440fx", "pc-q35", "virt"):
        if machine in (family, family.replace("pc-", "", 1)) or machine.startswith(family + "-"):
            return family
    return "pc-i440fx" if machine == "pc" else machine


def same_virtualization(wanted: str, found: str) -> bool:
    """`auto` is content with whatever the VM was made with."""
    return wanted in ("auto", found)


@dataclasses.dataclass(frozen=True)
class VmSpec:
    """What is wanted of a VM; None means not managed."""

    name: str = attribute(Name(), "Name, unique on the server.", required=True, xpath="./name", example="web1")
    server: Optional[str] = attribute(Name(), "The server where it starts its life, not where it must stay.", compare=IGNORE, example="srv1")
    pool: Optional[str] = attribute(Name(), "The server pool where it starts its life; needs a manager.", compare=IGNORE, example="rack1")
    ha: Optional[HaSpec] = attribute(Object(HaSpec), "High availability: how its server pool keeps it up.")
    server_tags: Optional[tuple[str, ...]] = attribute(
        ListOf(Name(), most=16), "It is placed only on servers that have all these tags; needs a manager.", example=["ssd"]
    )
    anti_affinity: Optional[tuple[str, ...]] = attribute(
        ListOf(Name(), most=16), "Anti-affinity groups it belongs to: no two VMs of a group are placed on one server; needs a manager.", example=["databases"]
    )
    cpu_group: Optional[str] = attribute(Name(), "It is placed only on servers of this CPU compatibility group; needs a manager.", example="rack1-cpus")
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", xpath="./description", example="front end")
    tags: Optional[tuple[str, ...]] = attribute(ListOf(Name()), "Labels.", example=["web", "production"])
    cpus: Optional[int] = attribute(Integer(1, 512), "Virtual CPUs now; changes live up to cpus_max.", default=1, example=2)
    cpus_max: Optional[int] = attribute(Integer(1, 512), "Virtual CPUs at most.", effect=RESTART, default="cpus", example=4)
    memory: Optional[int] = attribute(
        Size(MIB, multiple=KIB), "Memory now; changes live up to memory_max.", xpath="./currentMemory", default="512MiB", example="2GiB"
    )
    memory_max: Optional[int] = attribute(Size(MIB, multiple=KIB), "Memory at most.", effect=RESTART, xpath="./memory", default="memory", example="4GiB")
    cpu_model: Optional[str] = attribute(
        Text(63, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", noun="a CPU model"),
        "`host-passthrough`, `host-model`, `maximum`, or a name that libvirt knows; left out: libvirt's choice.",
        effect=RESTART,
        example="host-model",
    )
    cpu_baseline: Optional[CpuBaselineSpec] = attribute(
        Object(CpuBaselineSpec),
        "A CPU that all servers of its cpu_group have; a manager fills it in, as libvirt computes it, where cpu_model is left out.",
        effect=RESTART,
    )
    cpu_topology: Optional[TopologySpec] = attribute(
        Object(TopologySpec), "Layout of the vCPUs; its product is cpus_max.", effect=RESTART, xpath="./cpu/topology"
    )
    firmware: Optional[str] = attribute(Choice("bios", "uefi", "uefi-secure"), "Firmware.", effect=CREATION, default="bios", example="uefi")
    machine: Optional[str] = attribute(
        Text(63, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", noun="a machine type"),
        "Machine type; an alias such as q35 or pc is content with any version of it.",
        effect=RESTART,
        xpath="./os/type/@machine",
        matches=same_machine,
        default="q35",
        example="q35",
    )
    architecture: Optional[str] = attribute(
        Choice("x86_64", "aarch64", "i686"), "Processor architecture.", effect=CREATION, xpath="./os/type/@arch", default="the server's", example="x86_64"
    )
    virtualization: Optional[str] = attribute(
        Choice("auto", "kvm", "qemu"),
        "Virtualization type; `auto` takes the server's.",
        effect=CREATION,
        matches=same_virtualization,
        default="auto",
        example="auto",
    )
    boot: Optional[tuple[str, ...]] = attribute(
        ListOf(Choice("disk", "cdrom", "network")), "Boot order by class; goes not with boot_index of a device.", effect=RESTART, example=["disk", "cdrom"]
    )
    kernel: Optional[KernelSpec] = attribute(Object(KernelSpec), "Boot this kernel directly.", effect=RESTART, xpath="./os")
    disks: Optional[tuple[DiskSpec, ...]] = attribute(Objects(DiskSpec), "Disks, known by name; those not mentioned stay.")
    cdroms: Optional[tuple[CdromSpec, ...]] = attribute(Objects(CdromSpec, most=8), "CD-ROM drives, known by name; those not mentioned stay.", effect=RESTART)
    nics: Optional[tuple[NicSpec, ...]] = attribute(Objects(NicSpec), "Network interfaces, known by name; those not mentioned stay.")
    serial_console: Optional[bool] = attribute(Flag(), "A serial console (`virsh console`).", effect=RESTART, default=True, example=True)
    vnc: Optional[VncSpec] = attribute(Object(VncSpec), "A graphical console.", effect=RESTART)
    video: Optional[str] = attribute(
        Choice("none", "vga", "virtio", "bochs", "qxl", "cirrus"), "Graphics card.", effect=RESTART, default="vga with vnc, else none", example="virtio"
    )
    rng: Optional[bool] = attribute(Flag(), "A source of randomness.", effect=RESTART, default=True, example=True)
    watchdog: Optional[WatchdogSpec] = attribute(Object(WatchdogSpec), "A watchdog device.", effect=RESTART, xpath="./devices/watchdog")
    guest_agent: Optional[bool] = attribute(Flag(), "A channel for the QEMU guest agent.", effect=RESTART, default=True, example=True)
    cloud_init: Optional[CloudInitSpec] = attribute(
        Object(CloudInitSpec), "What the guest's cloud-init is told; renewed when it changes, read by the guest at its next start.", effect=RESTART
    )
    clock: Optional[str] = attribute(
        Choice("utc", "localtime"), "What the VM's clock is set to.", effect=RESTART, xpath="./clock/@offset", default="utc", example="utc"
    )
    on_poweroff: Optional[str] = attribute(
        Choice(*LIFECYCLE), "What happens when the guest powers off.", effect=RESTART, xpath="./on_poweroff", default="destroy", example="destroy"
    )
    on_reboot: Optional[str] = attribute(
        Choice(*LIFECYCLE), "What happens when the guest restarts.", effect=RESTART, xpath="./on_reboot", default="restart", example="restart"
    )
    on_crash: Optional[str] = attribute(
        Choice(*LIFECYCLE, "preserve", "coredump-destroy", "coredump-restart"),
        "What happens when the guest crashes.",
        effect=RESTART,
        xpath="./on_crash",
        default="destroy",
        example="restart",
    )
    autostart: Optional[bool] = attribute(Flag(), "Start it with the server.", default=False, example=True)
    state: Optional[str] = attribute(
        Choice("running", "stopped", "suspended", "paused", "absent"),
        "Run state: `suspended` is saved to disk; `absent` deletes the VM and keeps its disks. Left out: not managed.",
        example="running",
    )
    stop_timeout: Optional[int] = attribute(Integer(0, 86400), "Seconds the guest gets to shut down by itself.", compare=IGNORE, default=120, example=60)
    force_stop: Optional[bool] = attribute(Flag(), "Power it off when the guest did not shut down in time.", compare=IGNORE, default=False, example=True)
    exact: Optional[bool] = attribute(
        Flag(), "Disks, CD-ROM drives and NICs that are not mentioned are taken away (files stay).", compare=IGNORE, default=False, example=False
    )
    delete_disks: Optional[bool] = attribute(
        Flag(), "With state absent: delete the disks that Domus made for it, too.", compare=IGNORE, default=False, example=True
    )
    adopted: Optional[bool] = attribute(Flag(), "It was not made by Domus and may be managed, and deleted, by it.", compare=IGNORE, example=True)
    generation: Optional[int] = attribute(
        Integer(0, 1 << 53), "The generation this specification was made from; refused when the VM has another.", compare=IGNORE, example=3
    )

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        problems = list(self._amounts())
        if self.state == "absent":
            return problems
        if self.delete_disks:
            problems.append(InvalidSpec("goes only with state absent", field="delete_disks", value=True))
        if self.pool and self.server:
            problems.append(InvalidSpec("goes not together with server", field="pool", value=self.pool, remedy="Leave one of them out"))
        if self.cpu_model and self.cpu_baseline:
            problems.append(InvalidSpec("goes not together with cpu_model", field="cpu_baseline", remedy="Leave one of them out"))
        order = [device.boot_index for device in self._devices() if device.boot_index]
        if self.boot and order:
            problems.append(InvalidSpec("goes not together with boot_index of a device", field="boot", remedy="Order by class or by device"))
        for name, values in (("boot_index", order), ("mac", [nic.mac for nic in self.nics or () if nic.mac])):
            for value in _twice(values):
                problems.append(InvalidSpec(f"two devices have the same {name}", field=name, value=value))
        taken = [disk.name for disk in self.disks or ()] + [drive.name for drive in self.cdroms or ()]
        problems += [InvalidSpec("a disk and a CD-ROM drive have the same name", field="cdroms", value=name) for name in _twice(taken)]
        return problems

    def _amounts(self) -> Iterable[InvalidSpec]:
        if self.cpus and self.cpus_max and self.cpus > self.cpus_max:
            yield InvalidSpec(f"is more than cpus_max {self.cpus_max}", field="cpus", value=self.cpus)
        if self.memory and self.memory_max and self.memory > self.memory_max:
            yield InvalidSpec(f"is more than memory_max {self.memory_max}", field="memory", value=self.memory)
        layout, most = self.cpu_topology, self.cpus_max
        if layout and most and (layout.sockets or 1) * (layout.cores or 1) * (layout.threads or 1) != most:
            yield InvalidSpec(f"sockets x cores x threads is not cpus_max {most}", field="cpu_topology")

    def _devices(self) -> tuple[Any, ...]:
        return (*(self.disks or ()), *(self.cdroms or ()), *(self.nics or ()))


@dataclasses.dataclass(frozen=True)
class VmState:
    """What was measured of a VM; `memory` is what its guest has now, in bytes, None when it does not run."""

    uuid: str = ""
    state: str = "stopped"
    memory: Optional[int] = None
    persistent: bool = True
    managed: bool = False
    generation: int = 0
    site: Optional[str] = None
    addresses: tuple[str, ...] = ()
    vnc_port: Optional[int] = None


def _twice(values: list[Any]) -> list[Any]:
    return [value for value in dict.fromkeys(values) if values.count(value) > 1] if len(set(values)) < len(values) else []


VM_KIND = Kind("vm", "vms", VmSpec, VmState, POOL, "A virtual machine.")
