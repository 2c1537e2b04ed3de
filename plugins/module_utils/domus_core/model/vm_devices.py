"""The devices of a VM: disks, CD-ROM drives, NICs and what else is nested in its specification."""

from __future__ import annotations

import dataclasses
from typing import Optional

from ..errors import InvalidSpec
from .field_types import Choice, FileReference, Flag, Integer, IpAddress, ListOf, MacAddress, Name, SecretText, Size, Text
from .fields import CREATION, RESTART, attribute
from .network import INTERFACE
from .virtual_disk import SECTOR, source_problems

BOOT_INDEX = Integer(1, 64)
_CPU_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
CPU_FEATURES = ListOf(Name(), most=512, sort=True)


@dataclasses.dataclass(frozen=True)
class CpuBaselineSpec:
    """A CPU as libvirt names it: a model, with what is added to it and what is taken away."""

    model: str = attribute(Text(63, pattern=_CPU_WORD, noun="a CPU model"), "The model's name.", required=True, effect=RESTART, example="EPYC")
    vendor: Optional[str] = attribute(Text(63, pattern=_CPU_WORD, noun="a vendor"), "Its vendor.", effect=RESTART, example="AMD")
    require: Optional[tuple[str, ...]] = attribute(CPU_FEATURES, "Features beyond the model.", effect=RESTART, example=["pku"])
    disable: Optional[tuple[str, ...]] = attribute(CPU_FEATURES, "Features of the model that it lacks.", effect=RESTART, example=["sha-ni"])


@dataclasses.dataclass(frozen=True)
class DiskSpec:
    """What is wanted of a disk of a VM."""

    name: str = attribute(Name(), "What the disk is known by in this VM.", required=True, example="root")
    repository: Optional[str] = attribute(Name(), "Where its virtual disk is made; left out: beside the template or image.", effect=CREATION, example="main")
    template: Optional[str] = attribute(Name(), "Make it from this template.", effect=CREATION, example="debian12")
    image: Optional[str] = attribute(
        FileReference(), "Make it from this image, in the Templates folder of a repository.", effect=CREATION, example="main/debian-12.qcow2"
    )
    virtual_disk: Optional[str] = attribute(FileReference(), "Use this virtual disk: repository/name.", effect=CREATION, example="main/data1")
    file: Optional[str] = attribute(
        FileReference(deep=True),
        "Use this file as it lies, by its place in the repository's directory: for VMs that were adopted.",
        effect=CREATION,
        example="images/web1.qcow2",
    )
    clone: Optional[str] = attribute(
        Choice("thin", "sparse", "full"),
        "How it is made from a template or image.",
        effect=CREATION,
        default="thin for a template, sparse for an image",
        example="thin",
    )
    size: Optional[int] = attribute(Size(SECTOR, multiple=SECTOR), "Its size; it can grow, also while the VM runs, never shrink.", example="20GiB")
    format: Optional[str] = attribute(Choice("qcow2", "raw"), "Image format.", effect=CREATION, default="qcow2", xpath="./driver/@type", example="qcow2")
    sparse: Optional[bool] = attribute(Flag(), "Take room only as it is written.", effect=CREATION, default=True, example=True)
    shareable: Optional[bool] = attribute(
        Flag(), "Other VMs may use it at the same time (raw only).", effect=RESTART, xpath="./shareable", default=False, example=False
    )
    read_only: Optional[bool] = attribute(Flag(), "The VM can not write to it.", effect=RESTART, xpath="./readonly", default=False, example=False)
    bus: Optional[str] = attribute(
        Choice("virtio", "scsi", "sata", "ide", "usb"), "How the VM sees it.", effect=RESTART, xpath="./target/@bus", default="virtio", example="virtio"
    )
    cache: Optional[str] = attribute(
        Choice("default", "none", "writethrough", "writeback", "directsync", "unsafe"),
        "Host caching.",
        effect=RESTART,
        xpath="./driver/@cache",
        example="none",
    )
    discard: Optional[str] = attribute(
        Choice("unmap", "ignore"), "Whether what the guest trims gives room back.", effect=RESTART, xpath="./driver/@discard", example="unmap"
    )
    serial: Optional[str] = attribute(
        Text(36, pattern=r"[A-Za-z0-9][A-Za-z0-9_.+ -]*", noun="a serial number"),
        "Serial number the VM sees.",
        effect=RESTART,
        xpath="./serial",
        example="web1-root",
    )
    boot_index: Optional[int] = attribute(BOOT_INDEX, "Place in the boot order.", effect=RESTART, xpath="./boot/@order", example=1)

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        problems = source_problems(self, ("template", "image", "virtual_disk", "file"))
        if self.virtual_disk or self.file:
            given = [name for name in ("repository", "clone", "sparse") if getattr(self, name) is not None]
            problems += [InvalidSpec("goes only with a disk that is made for this VM", field=name) for name in given]
        return problems


@dataclasses.dataclass(frozen=True)
class CdromSpec:
    """What is wanted of a CD-ROM drive of a VM."""

    name: str = attribute(Name(), "What the drive is known by in this VM.", required=True, example="cd")
    iso: Optional[str] = attribute(
        Text(63, pattern=r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})?", noun="the name of an ISO, or empty"),
        "The ISO in it, by name; an empty string ejects.",
        example="debian12-netinst",
    )
    bus: Optional[str] = attribute(
        Choice("sata", "ide", "scsi", "usb"), "How the VM sees it.", effect=RESTART, xpath="./target/@bus", default="sata, or ide on machine pc", example="sata"
    )
    boot_index: Optional[int] = attribute(BOOT_INDEX, "Place in the boot order.", effect=RESTART, xpath="./boot/@order", example=2)


@dataclasses.dataclass(frozen=True)
class NicSpec:
    """What is wanted of a network interface of a VM."""

    name: str = attribute(Name(), "What the NIC is known by in this VM.", required=True, example="eth0")
    network: Optional[str] = attribute(Name(), "The network it is connected to.", example="lan")
    bridge: Optional[str] = attribute(INTERFACE, "A bridge of the server, instead of a network.", example="br0")
    model: Optional[str] = attribute(
        Choice("virtio", "e1000", "e1000e", "rtl8139"), "How the VM sees it.", effect=RESTART, xpath="./model/@type", default="virtio", example="virtio"
    )
    mac: Optional[str] = attribute(
        MacAddress(), "Its MAC address; left out: derived from site, VM and NIC.", effect=RESTART, xpath="./mac/@address", example="52:54:00:12:34:56"
    )
    filter: Optional[str] = attribute(
        Text(63, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", noun="the name of a filter"),
        "libvirt network filter.",
        xpath="./filterref/@filter",
        example="clean-traffic",
    )
    link: Optional[str] = attribute(Choice("up", "down"), "Whether its cable is plugged in.", xpath="./link/@state", default="up", example="up")
    boot_index: Optional[int] = attribute(BOOT_INDEX, "Place in the boot order.", effect=RESTART, xpath="./boot/@order", example=3)

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        if self.network is not None and self.bridge is not None:
            return [InvalidSpec("goes not together with network", field="bridge", value=self.bridge)]
        return []


@dataclasses.dataclass(frozen=True)
class TopologySpec:
    """How the vCPUs are laid out."""

    sockets: Optional[int] = attribute(Integer(1, 64), "Sockets.", effect=RESTART, xpath="./@sockets", required=True, example=1)
    cores: Optional[int] = attribute(Integer(1, 512), "Cores a socket.", effect=RESTART, xpath="./@cores", required=True, example=4)
    threads: Optional[int] = attribute(Integer(1, 8), "Threads a core.", effect=RESTART, xpath="./@threads", required=True, example=1)


@dataclasses.dataclass(frozen=True)
class KernelSpec:
    """A kernel that is booted directly, without the disks' boot loader."""

    kernel: Optional[str] = attribute(
        FileReference(), "Kernel, in the Templates folder of a repository.", effect=RESTART, xpath="./kernel", required=True, example="main/vmlinuz"
    )
    initrd: Optional[str] = attribute(FileReference(), "Its initial RAM disk.", effect=RESTART, xpath="./initrd", example="main/initrd.img")
    arguments: Optional[str] = attribute(Text(2000), "Its command line.", effect=RESTART, xpath="./cmdline", example="console=ttyS0")


@dataclasses.dataclass(frozen=True)
class VncSpec:
    """A graphical console."""

    enabled: Optional[bool] = attribute(Flag(), "Whether there is one.", effect=RESTART, default=True, example=True)
    listen: Optional[str] = attribute(IpAddress(), "Address it listens on.", effect=RESTART, default="127.0.0.1", example="127.0.0.1")
    password: Optional[str] = attribute(
        SecretText(8, pattern="[ -~]+", noun="a VNC password"), "Password, 8 ASCII characters at most (RFC 6143 7.2.2).", effect=RESTART, secret=True
    )

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        given = [name for name in ("listen", "password") if self.enabled is False and getattr(self, name) is not None]
        return [InvalidSpec("goes only with a console that is enabled", field=name, remedy="Leave it out, or say enabled: true") for name in given]


@dataclasses.dataclass(frozen=True)
class WatchdogSpec:
    """A watchdog device."""

    model: Optional[str] = attribute(Choice("i6300esb", "ib700"), "The device.", effect=RESTART, xpath="./@model", default="i6300esb", example="i6300esb")
    action: Optional[str] = attribute(
        Choice("reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi"),
        "What happens when the guest no longer feeds it.",
        effect=RESTART,
        xpath="./@action",
        default="reset",
        example="reset",
    )


@dataclasses.dataclass(frozen=True)
class CloudInitSpec:
    """What the guest's cloud-init is told, as a NoCloud seed image."""

    user_data: Optional[str] = attribute(
        SecretText(1 << 20, multiline=True), "user-data, as text.", effect=RESTART, secret=True, example="#cloud-config\npassword: secret\n"
    )
    meta_data: Optional[str] = attribute(
        Text(1 << 16, multiline=True),
        "meta-data, as text; left out: instance-id (the UUID) and local-hostname (the name).",
        effect=RESTART,
        example="instance-id: web1\n",
    )
    network_config: Optional[str] = attribute(
        SecretText(1 << 16, multiline=True), "network-config, as text.", effect=RESTART, secret=True, example="version: 2\n"
    )
