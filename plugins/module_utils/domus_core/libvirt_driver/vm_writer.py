"""Write a VM's specification into a domain's XML: a new one from nothing, or an existing one in place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any, Callable, Optional, Union

from ..model.fields import field_named
from ..model.repository import TEMPLATES
from ..model.secrets import Secret
from ..model.vm import VmSpec
from ..model.vm_devices import CdromSpec, DiskSpec, NicSpec
from ..planning.steps import Change
from .places import Places
from .vm_reader import AGENT_CHANNEL, BOOT_CLASSES, target_of
from .vm_record import VmRecord
from .xml_fields import add, ensure, etree, get, mapped, put, write_field, write_fields

PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
SEED_TARGET = "vdz"
# Beside disks and NICs these take a PCI Express port: USB, virtio-serial, balloon, RNG, SCSI, the cloud-init seed.
OWN_PORTS, SPARE_PORTS = 6, 6
_PLACE = re.compile(r"(disks|cdroms|nics)\[([^\]]+)\](?:\.(.+))?")


@dataclasses.dataclass(frozen=True)
class Writing:
    """What writing needs to know beside the specification: paths, ISO images by name, and the record that names devices."""

    places: Places
    isos: Mapping[str, str]
    record: VmRecord


def new_domain(spec: VmSpec, uuid: str, writing: Writing) -> Any:
    """The XML of a new domain, as a tree (https://libvirt.org/formatdomain.html)."""
    root = etree.Element("domain", type=spec.virtualization)
    add(root, "name", spec.name)
    add(root, "uuid", uuid)
    hvm = add(add(root, "os"), "type", "hvm")
    hvm.set("arch", spec.architecture)
    write_fields(root, spec)
    features = add(root, "features")
    add(features, "acpi")
    add(features, "apic")
    devices = add(root, "devices")
    if "q35" in (spec.machine or ""):
        add(devices, "controller", type="pci", index="0", model="pcie-root")
        _add_ports(devices, spec)
    for name in SPECIAL:
        if getattr(spec, name) is not None:
            SPECIAL[name](root, spec, writing)
    for disk in spec.disks or ():
        add_scsi(root, disk)
        devices.append(disk_element(disk, root, writing))
    for drive in spec.cdroms or ():
        add_scsi(root, drive)
        devices.append(cdrom_element(drive, root, writing))
    for nic in spec.nics or ():
        devices.append(nic_element(nic, writing))
    return root


def _add_ports(devices: Any, spec: VmSpec) -> None:
    """Devices can be plugged into a running q35 machine only where a port is free: there are always some more than devices."""
    wanted = OWN_PORTS + len(spec.disks or ()) + len(spec.nics or ()) + SPARE_PORTS
    for dummy in range(wanted - len(devices.findall("controller[@model='pcie-root-port']"))):
        add(devices, "controller", type="pci", model="pcie-root-port")


def change_domain(root: Any, spec: VmSpec, changes: tuple[Change, ...], writing: Writing) -> None:
    """Make the changes in a domain's XML in place; `spec` is the whole specification afterwards. What Domus does not know stays."""
    for change in changes:
        match = _PLACE.fullmatch(change.field)
        top = change.field.split(".", 1)[0]
        if match:
            _change_device(root, match[1], match[2], match[3], change, spec, writing)
        elif top in SPECIAL:
            SPECIAL[top](root, spec, writing)
        elif field_named(VmSpec, top).xpath:
            write_field(root, field_named(VmSpec, top), getattr(spec, top))
    _one_boot_order(root, by_class=any(change.field == "boot" and change.after is not None for change in changes))


def _one_boot_order(root: Any, *, by_class: bool) -> None:
    """libvirt takes an order by class or by device, not both: the one asked for last stays."""
    by_device = list(root.iterfind("devices/*/boot"))
    for boot in by_device if by_class else root.findall("os/boot") if by_device else ():
        boot.getparent().remove(boot)


def _change_device(root: Any, group: str, name: str, inner: Optional[str], change: Change, spec: VmSpec, writing: Writing) -> None:
    element = device_element(root, group, name, writing.record)
    if inner is None:
        if element is not None:
            element.getparent().remove(element)
            writing.record.devices.get(group, {}).pop(name, None)
        if change.after is not None:
            add_scsi(root, change.after)
            if root.find("devices/controller[@model='pcie-root-port']") is not None:
                _add_ports(root.find("devices"), spec)
            root.find("devices").append(new_device(root, group, change.after, writing))
    elif element is not None:
        device = next(one for one in getattr(spec, group) if one.name == name)
        edit_device(element, device, inner, writing)


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


def _put_cpus(root: Any, spec: VmSpec, writing: Writing) -> None:
    put(root, "./vcpu", str(spec.cpus_max))
    put(root, "./vcpu/@current", str(spec.cpus) if spec.cpus != spec.cpus_max else None)


def _put_cpu(root: Any, spec: VmSpec, writing: Writing) -> None:
    model = spec.cpu_model
    cpu = ensure(root, "./cpu")
    if model is not None:
        put(cpu, "./model", None)
        if model in ("host-passthrough", "host-model", "maximum"):
            cpu.set("mode", model)
        else:
            cpu.set("mode", "custom")
            add(cpu, "model", model, fallback="forbid")
    if spec.cpu_topology is not None:
        write_fields(ensure(cpu, "./topology"), spec.cpu_topology)


def _put_firmware(root: Any, spec: VmSpec, writing: Writing) -> None:
    if spec.firmware == "bios":
        return
    system = root.find("os")
    system.set("firmware", "efi")
    firmware = add(system, "firmware")
    secure = "yes" if spec.firmware == "uefi-secure" else "no"
    add(firmware, "feature", enabled=secure, name="secure-boot")
    add(firmware, "feature", enabled=secure, name="enrolled-keys")


def _put_boot(root: Any, spec: VmSpec, writing: Writing) -> None:
    system = root.find("os")
    for old in system.findall("boot"):
        system.remove(old)
    names = {name: dev for dev, name in BOOT_CLASSES.items()}
    for name in spec.boot or ():
        add(system, "boot", dev=names[name])


def _put_kernel(root: Any, spec: VmSpec, writing: Writing) -> None:
    kernel = spec.kernel
    if kernel is None:
        return
    for name, tag in (("kernel", "kernel"), ("initrd", "initrd")):
        value = getattr(kernel, name)
        put(root, f"./os/{tag}", writing.places.in_folder(value, TEMPLATES) if value else None)
    put(root, "./os/cmdline", kernel.arguments)


def _put_serial(root: Any, spec: VmSpec, writing: Writing) -> None:
    devices = root.find("devices")
    for tag in ("serial", "console"):
        for old in devices.findall(tag):
            devices.remove(old)
    if spec.serial_console:
        add(add(devices, "serial", type="pty"), "target", port="0")
        add(add(devices, "console", type="pty"), "target", type="serial", port="0")


def _put_vnc(root: Any, spec: VmSpec, writing: Writing) -> None:
    devices, vnc = root.find("devices"), spec.vnc
    graphics = devices.find("graphics[@type='vnc']")
    if vnc is None or vnc.enabled is False:
        if graphics is not None:
            devices.remove(graphics)
        return
    if graphics is None:
        graphics = add(devices, "graphics", type="vnc", autoport="yes")
        if devices.find("video") is None:  # else libvirt adds a card of its own choice
            add(add(devices, "video"), "model", type="none")
    if vnc.listen is not None:
        graphics.set("listen", vnc.listen)
        for old in graphics.findall("listen"):
            graphics.remove(old)
    if isinstance(vnc.password, Secret):
        graphics.set("passwd", vnc.password.reveal())


def _put_video(root: Any, spec: VmSpec, writing: Writing) -> None:
    devices = root.find("devices")
    for old in devices.findall("video"):
        devices.remove(old)
    if spec.video != "none":
        add(add(devices, "video"), "model", type=spec.video)
    elif spec.vnc is not None and spec.vnc.enabled is not False:
        add(add(devices, "video"), "model", type="none")


def _put_rng(root: Any, spec: VmSpec, writing: Writing) -> None:
    devices = root.find("devices")
    if spec.rng and devices.find("rng") is None:
        add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    elif not spec.rng:
        for old in devices.findall("rng"):
            devices.remove(old)


def _put_watchdog(root: Any, spec: VmSpec, writing: Writing) -> None:
    devices, dog = root.find("devices"), spec.watchdog
    if dog is None:
        return
    element = next((one for one in devices.iterfind("watchdog") if one.get("model") != "itco"), None)
    if element is None:
        element = add(devices, "watchdog", model="i6300esb", action="reset")
    if dog.model not in (None, element.get("model")):
        put(element, "./address", None)
    write_fields(element, dog)


def _put_agent(root: Any, spec: VmSpec, writing: Writing) -> None:
    devices = root.find("devices")
    found = [one for one in devices.iterfind("channel") if get(one, "./target/@name") == AGENT_CHANNEL]
    if spec.guest_agent and not found:
        add(add(devices, "channel", type="unix"), "target", type="virtio", name=AGENT_CHANNEL)
    elif not spec.guest_agent:
        for old in found:
            devices.remove(old)


SPECIAL: dict[str, Callable[[Any, VmSpec, Writing], None]] = {
    "cpus": _put_cpus,
    "cpus_max": _put_cpus,
    "cpu_model": _put_cpu,
    "cpu_topology": _put_cpu,
    "firmware": _put_firmware,
    "boot": _put_boot,
    "kernel": _put_kernel,
    "serial_console": _put_serial,
    "vnc": _put_vnc,
    "video": _put_video,
    "rng": _put_rng,
    "watchdog": _put_watchdog,
    "guest_agent": _put_agent,
}
