"""Write a VM's specification into a domain's XML: a new one from nothing, or an existing one in place."""

from __future__ import annotations

import re
from typing import Any, Callable, Optional

from ..model.fields import field_named
from ..model.repository import TEMPLATES, VIRTUAL_DISKS, directory_of, is_shared
from ..model.secrets import Secret
from ..model.vm import VmSpec
from ..planning.steps import MANAGED, Change
from .device_writer import Writing, add_scsi, cdrom_element, device_element, disk_element, edit_device, new_device, nic_element
from .places import Places
from .vm_reader import AGENT_CHANNEL, BOOT_CLASSES, source_of
from .xml_fields import add, ensure, etree, get, put, write_field, write_fields

# Beside disks and NICs these take a PCI Express port: USB, virtio-serial, balloon, RNG, SCSI, the cloud-init seed.
OWN_PORTS, SPARE_PORTS = 6, 6
_PLACE = re.compile(r"(disks|cdroms|nics)\[([^\]]+)\](?:\.(.+))?")


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
    _put_variables(root, writing.places)
    return root


def _add_ports(devices: Any, spec: VmSpec) -> None:
    """Devices can be plugged into a running q35 machine only where a port is free: there are always some more than devices."""
    wanted = OWN_PORTS + len(spec.disks or ()) + len(spec.nics or ()) + SPARE_PORTS
    for dummy in range(wanted - len(devices.findall("controller[@model='pcie-root-port']"))):
        add(devices, "controller", type="pci", model="pcie-root-port")


def change_domain(root: Any, spec: VmSpec, changes: tuple[Change, ...], writing: Writing) -> None:
    """Make the changes in a domain's XML in place; `spec` is the whole specification afterwards. What Domus does not know stays."""
    for change in changes:
        if change.field == MANAGED:
            continue
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


def _put_baseline(root: Any, spec: VmSpec, writing: Writing) -> None:
    """Another CPU takes the features of the baseline with it."""
    cpu, wanted = ensure(root, "./cpu"), spec.cpu_baseline
    for tag in ("model", "vendor", "feature") if wanted is not None else ("vendor", "feature"):
        for old in cpu.findall(tag):
            cpu.remove(old)
    if wanted is None:
        return
    cpu.attrib.clear()
    for name, value in (("mode", "custom"), ("match", "exact")):
        cpu.set(name, value)
    add(cpu, "model", wanted.model, fallback="forbid")
    if wanted.vendor is not None:
        add(cpu, "vendor", wanted.vendor)
    for policy in ("require", "disable"):
        for name in getattr(wanted, policy) or ():
            add(cpu, "feature", policy=policy, name=name)


def _put_firmware(root: Any, spec: VmSpec, writing: Writing) -> None:
    if spec.firmware == "bios":
        return
    system = root.find("os")
    system.set("firmware", "efi")
    firmware = add(system, "firmware")
    secure = "yes" if spec.firmware == "uefi-secure" else "no"
    add(firmware, "feature", enabled=secure, name="secure-boot")
    add(firmware, "feature", enabled=secure, name="enrolled-keys")


def _put_variables(root: Any, places: Places) -> None:
    """UEFI variables lie with its first disk where other servers see that, too: they boot it from them as well. Elsewhere they are where libvirt keeps them."""
    first = next(root.iterfind("devices/disk[@device='disk']"), None)
    holding = places.holding(source_of(first)) if first is not None else None
    if root.find("os").get("firmware") == "efi" and holding is not None and is_shared(holding):
        add(root.find("os"), "nvram").text = f"{directory_of(holding)}/{VIRTUAL_DISKS}/{root.findtext('uuid')}_VARS.fd"


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
    "cpu_baseline": _put_baseline,
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
