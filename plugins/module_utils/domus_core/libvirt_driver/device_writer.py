"""Write the devices of a domain that have names: disks, CD-ROM drives, NICs, and the cloud-init seed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any, Optional, Union

from ..model.fields import field_named
from ..model.vm_devices import CdromSpec, DiskSpec, NicSpec
from .places import Places
from .vm_reader import target_of
from .vm_record import VmRecord
from .xml_fields import add, etree, get, mapped, put, write_field, write_fields

PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
SEED_TARGET = "vdz"


@dataclasses.dataclass(frozen=True)
class Writing:
    """What writing needs to know beside the specification: paths, ISO images by name, and the record that names devices."""

    places: Places
    isos: Mapping[str, str]
    record: VmRecord


def add_scsi(root: Any, device: Any) -> Optional[Any]:
    """Give the domain the controller that its first SCSI disk needs, and return it; libvirt's own choice, lsilogic, is for old guests only."""
    if getattr(device, "bus", None) != "scsi" or root.find("devices/controller[@type='scsi']") is not None:
        return None
    return add(root.find("devices"), "controller", type="scsi", index="0", model="virtio-scsi")


def new_device(root: Any, group: str, device: Any, writing: Writing) -> Any:
    """The element of a new disk, CD-ROM drive or NIC; its target or MAC address goes into the record."""
    if group == "nics":
        return nic_element(device, writing)
    return disk_element(device, root, writing) if group == "disks" else cdrom_element(device, root, writing)


def edit_device(element: Any, device: Any, inner: str, writing: Writing) -> None:
    """Make one field of a device's element what the specification says."""
    if inner in ("network", "bridge"):
        _connect(element, device)
    elif inner == "iso":
        _insert(element, device, writing)
    elif inner == "bus":
        _move(element, device, writing)
    elif inner == "mac":
        put(element, "./mac/@address", device.mac)
        writing.record.rename("nics", device.name, device.mac)
    elif field_named(type(device), inner).xpath:
        value = getattr(device, inner)
        write_field(element, field_named(type(device), inner), None if (inner, value) == ("cache", "default") else value)


def _move(element: Any, device: Any, writing: Writing) -> None:
    """Put a disk or CD-ROM drive on another bus: it gets another target, since libvirt derives addresses from targets."""
    root = element.getroottree().getroot()
    add_scsi(root, device)
    target = _free_target(device, device.bus, root, writing.record)
    put(element, "./target/@dev", target)
    put(element, "./target/@bus", device.bus)
    put(element, "./address", None)
    writing.record.rename("cdroms" if element.get("device") == "cdrom" else "disks", device.name, target)


def device_element(root: Any, group: str, name: str, record: VmRecord) -> Optional[Any]:
    """The element of a device that a domain has, found by what the record says, or else by target or position."""
    mark = record.devices.get(group, {}).get(name)
    if group == "nics":
        nics = root.findall("devices/interface")
        known = set(record.devices.get(group, {}).values())
        for position, nic in enumerate(nics):
            mac = get(nic, "./mac/@address")
            if mac == mark if mark else (mac not in known and f"eth{position}" == name):
                return nic
        return None
    return next((disk for disk in root.iterfind("devices/disk") if target_of(disk) == (mark or name)), None)


def disk_element(disk: DiskSpec, root: Any, writing: Writing) -> Any:
    """The element of a new disk."""
    element = etree.Element("disk", type="file", device="disk")
    path = writing.places.path(disk.file or "")
    add(element, "driver", name="qemu", type=disk.format)
    source = add(element, "source", file=path)
    if path.startswith("/dev/"):
        element.set("type", "block")
        source.attrib.pop("file")
        source.set("dev", path)
    target = writing.record.devices.get("disks", {}).get(disk.name) or _free_target(disk, disk.bus or "virtio", root, writing.record)
    add(element, "target", dev=target, bus=disk.bus)
    for field in mapped(DiskSpec):
        value = getattr(disk, field.name)
        if value is not None and (field.name, value) != ("cache", "default"):
            write_field(element, field, value)
    writing.record.rename("disks", disk.name, target)
    return element


def cdrom_element(drive: CdromSpec, root: Any, writing: Writing) -> Any:
    """The element of a new CD-ROM drive."""
    element = etree.Element("disk", type="file", device="cdrom")
    add(element, "driver", name="qemu", type="raw")
    target = writing.record.devices.get("cdroms", {}).get(drive.name) or _free_target(drive, drive.bus or "sata", root, writing.record)
    add(element, "target", dev=target, bus=drive.bus)
    add(element, "readonly")
    write_fields(element, drive)
    _insert(element, drive, writing)
    writing.record.rename("cdroms", drive.name, target)
    return element


def _insert(element: Any, drive: CdromSpec, writing: Writing) -> None:
    put(element, "./source", None)
    if drive.iso:
        element.insert(1, etree.Element("source", file=writing.isos[drive.iso]))


def nic_element(nic: NicSpec, writing: Writing) -> Any:
    """The element of a new NIC."""
    element = etree.Element("interface")
    _connect(element, nic)
    write_fields(element, nic)
    if nic.link == "up":
        put(element, "./link", None)
    writing.record.rename("nics", nic.name, nic.mac or "")
    return element


def _connect(element: Any, nic: NicSpec) -> None:
    kind = "network" if nic.network is not None else "bridge"
    element.set("type", kind)
    put(element, "./source", None)
    element.insert(0, etree.Element("source", {kind: getattr(nic, kind)}))


def _free_target(device: Union[DiskSpec, CdromSpec], bus: str, root: Any, record: VmRecord) -> str:
    """A target that nothing has: the device's own name if it is one, as with adopted VMs, else the first."""
    taken = {target_of(disk) for disk in root.iterfind("devices/disk")} | {SEED_TARGET}
    taken |= set(record.devices.get("disks", {}).values()) | set(record.devices.get("cdroms", {}).values())
    names = [device.name] if re.fullmatch(PREFIXES[bus] + "[a-z]{1,2}", device.name) else []
    names += [PREFIXES[bus] + one for one in ascii_lowercase] + [PREFIXES[bus] + one + two for one in ascii_lowercase for two in ascii_lowercase]
    return next(name for name in names if name not in taken)


def put_seed(root: Any, path: str, record: VmRecord) -> None:
    """Give the domain this cloud-init seed image, in place of the one it has."""
    element = next((disk for disk in root.iterfind("devices/disk") if record.seed and target_of(disk) == record.seed), None)
    if element is None:
        element = add(root.find("devices"), "disk", type="file", device="disk")
        add(element, "driver", name="qemu", type="raw")
        add(element, "target", dev=SEED_TARGET, bus="virtio")
        add(element, "readonly")
        record.seed = SEED_TARGET
    put(element, "./source", None)
    element.insert(1, etree.Element("source", file=path))
