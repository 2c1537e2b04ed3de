"""Read a domain's XML into a VM's specification."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import DomusError
from ..model.fields import given, make, merge
from ..model.repository import TEMPLATES
from ..model.vm import PLACEMENT_RULES, VmSpec
from ..model.vm_devices import CdromSpec, CpuBaselineSpec, DiskSpec, KernelSpec, NicSpec, TopologySpec, VncSpec, WatchdogSpec
from ..storage_connect.reach import NotAnswering
from .host_cpu import cpu_of
from .image_header import inspect
from .places import Places
from .vm_record import VmRecord
from .xml_fields import get, read_fields

AGENT_CHANNEL = "org.qemu.guest_agent.0"
BOOT_CLASSES = {"hd": "disk", "cdrom": "cdrom", "network": "network"}
# Fields that libvirt's XML does not hold; they come from the record.
ONLY_RECORDED = ("tags", *PLACEMENT_RULES, "cloud_init")
DISK_ONLY_RECORDED = ("repository", "template", "image", "virtual_disk", "clone", "sparse")


def read_vm(root: Any, record: Optional[VmRecord], places: Places, isos: Mapping[str, str]) -> VmSpec:
    """The specification in a domain's XML; `isos` are the names of the known ISO images by path."""
    record = record or VmRecord()
    values = read_fields(root, VmSpec)
    vcpu = root.find("vcpu")
    values["cpus_max"] = int(vcpu.text)
    values["cpus"] = int(vcpu.get("current", vcpu.text))
    values["virtualization"] = root.get("type")
    values["firmware"] = _firmware(root)
    values["boot"] = tuple(BOOT_CLASSES[boot.get("dev")] for boot in root.iterfind("os/boot") if boot.get("dev") in BOOT_CLASSES) or None
    values["cpu_model"], values["cpu_baseline"] = _cpu(root, record.spec)
    if root.find("cpu/topology") is not None:
        values["cpu_topology"] = make(TopologySpec, read_fields(root.find("cpu/topology"), TopologySpec))
    if root.find("os/kernel") is not None:
        values["kernel"] = _kernel(root, record.spec.kernel if record.spec else None, places)
    values |= _devices(root.find("devices"), record, places, isos)
    for name in ONLY_RECORDED:
        values[name] = getattr(record.spec, name) if record.spec else None
    return make(VmSpec, _as_asked(values, record.spec))


def _as_asked(values: dict[str, Any], asked: Any) -> dict[str, Any]:
    """What is there, with texts as they were asked for: libvirt drops empty ones, and XML knows one kind of line end."""
    texts = {name: value for name, value in given(asked).items() if isinstance(value, str)} if asked else {}
    same = {name: text for name, text in texts.items() if text.replace("\r\n", "\n").replace("\r", "\n") == (values.get(name) or "")}
    return {**{name: value for name, value in values.items() if value is not None}, **same}


def _firmware(root: Any) -> str:
    loader = root.find("os/loader")
    if root.find("os").get("firmware") != "efi" and (loader is None or loader.get("type") != "pflash"):
        return "bios"
    secure = [feature.get("enabled") for feature in root.iterfind("os/firmware/feature") if feature.get("name") == "secure-boot"]
    return "uefi-secure" if secure == ["yes"] or (loader is not None and loader.get("secure") == "yes") else "uefi"


def _cpu(root: Any, asked: Optional[VmSpec]) -> tuple[Optional[str], Optional[CpuBaselineSpec]]:
    """The model; or, where a baseline was asked for and the model is named, what is told of it and its features."""
    cpu = root.find("cpu")
    if cpu is None:
        return None, None
    mode = cpu.get("mode", "custom")
    if mode != "custom" or asked is None or asked.cpu_baseline is None:
        return (get(cpu, "./model") if mode == "custom" else str(mode)), None
    return None, cpu_of(cpu)


def _kernel(root: Any, asked: Optional[KernelSpec], places: Places) -> KernelSpec:
    values = {name: value for name, value in read_fields(root.find("os"), KernelSpec).items() if value}
    for name in ("kernel", "initrd"):
        if name in values:
            values[name] = places.reference(values[name], TEMPLATES)
    return make(KernelSpec, _as_asked(values, asked))


def _devices(devices: Any, record: VmRecord, places: Places, isos: Mapping[str, str]) -> dict[str, Any]:
    media = [disk for disk in devices.iterfind("disk") if target_of(disk) != record.seed]
    graphics = devices.find("graphics[@type='vnc']")
    watchdogs = [dog for dog in devices.iterfind("watchdog") if dog.get("model") != "itco"]
    return {
        "disks": tuple(_disk(disk, record, places) for disk in media if disk.get("device", "disk") == "disk"),
        "cdroms": tuple(_cdrom(disk, record, isos) for disk in media if disk.get("device") == "cdrom"),
        "nics": tuple(_nic(position, nic, record) for position, nic in enumerate(devices.iterfind("interface"))),
        "serial_console": devices.find("console") is not None or devices.find("serial") is not None,
        "vnc": _vnc(graphics, record),
        "video": next((model.get("type") for model in devices.iterfind("video/model")), "none"),
        "rng": devices.find("rng") is not None,
        "watchdog": make(WatchdogSpec, read_fields(watchdogs[0], WatchdogSpec)) if watchdogs else None,
        "guest_agent": any(target.get("name") == AGENT_CHANNEL for target in devices.iterfind("channel/target")),
    }


def target_of(disk: Any) -> str:
    """The target (vda, sdb ...) of a disk element: what it is known by within its domain."""
    return get(disk, "./target/@dev") or ""


def source_of(disk: Any) -> Optional[str]:
    """The path of a disk element's file or block device, or None for other sources."""
    return get(disk, "./source/@file") or get(disk, "./source/@dev")


def _disk(element: Any, record: VmRecord, places: Places) -> DiskSpec:
    target = target_of(element)
    name = record.names("disks").get(target, target)
    path = source_of(element)
    values = {"name": name, "cache": "default", **read_fields(element, DiskSpec)}
    asked = next((disk for disk in (record.spec and record.spec.disks) or () if disk.name == name), None)
    values |= {"file": places.place(path), "size": _size(path, values.get("format", "raw"), places, asked) if path else None}
    if asked is not None:
        values |= {field: getattr(asked, field) for field in DISK_ONLY_RECORDED}
    return make(DiskSpec, {field: value for field, value in values.items() if value is not None})


def _size(path: str, format: str, places: Places, asked: Optional[DiskSpec]) -> Optional[int]:
    """The size of an image; of one that can not be reached, that which was asked for."""
    try:
        size: Optional[int] = places.reach(path, lambda: size_of(path, format))
        return size
    except NotAnswering:
        return asked.size if asked is not None else None


def size_of(path: str, format: str) -> Optional[int]:
    """The size in bytes that a VM sees of an image, or None when it can not be read."""
    try:
        return os.stat(path).st_size if format == "raw" and os.path.isfile(path) else inspect(path).virtual_size
    except (OSError, DomusError):
        return None


def _cdrom(element: Any, record: VmRecord, isos: Mapping[str, str]) -> CdromSpec:
    target = target_of(element)
    path = source_of(element)
    values = {"name": record.names("cdroms").get(target, target), **read_fields(element, CdromSpec)}
    iso = isos.get(path) if path else ""
    return make(CdromSpec, values if iso is None else {**values, "iso": iso})


def _nic(position: int, element: Any, record: VmRecord) -> NicSpec:
    values = {"link": "up", **read_fields(element, NicSpec)}
    name = record.names("nics").get(values.get("mac", ""), f"eth{position}")
    source = {"network": "network", "bridge": "bridge"}.get(element.get("type", ""))
    if source:
        values[source] = get(element, f"./source/@{source}")
    return make(NicSpec, {"name": name, **{field: value for field, value in values.items() if value is not None}})


def _vnc(graphics: Optional[Any], record: VmRecord) -> VncSpec:
    if graphics is None:
        return make(VncSpec, {"enabled": False})
    values: dict[str, Any] = {"enabled": True, "listen": graphics.get("listen") or get(graphics, "./listen/@address")}
    asked = record.spec.vnc if record.spec else None
    if asked is not None:
        values["password"] = asked.password
    return make(VncSpec, {name: value for name, value in values.items() if value is not None})


def comparable(running: VmSpec, defined: VmSpec, started_as: Optional[VmSpec]) -> VmSpec:
    """What runs, without the differences that libvirt or the guest make by themselves; the same instance when none is left.

    `started_as` is the record it was started with: libvirt replaces host-model by what that means here, and adds to a baseline what QEMU adds to it.
    The balloon's target is what the definition says, however much the guest has given back so far: see VmState.memory.
    """
    values = given(running)
    values.update({name: getattr(defined, name) for name in ("tags", "description", *PLACEMENT_RULES)})
    seen, own = values.pop("cpu_baseline", None), started_as.cpu_baseline if started_as else None
    if defined.cpu_model == "host-model" and own is None and (started_as is None or started_as.cpu_model in (None, "host-model")):
        values["cpu_model"] = defined.cpu_model
    elif seen is not None and own is not None and seen.model == own.model:
        values["cpu_baseline"] = own
    elif seen is not None:
        values["cpu_model"] = seen.model
    if (defined.memory or 0) <= (running.memory_max or 0):
        values["memory"] = defined.memory
    known = {disk.name: disk for disk in defined.disks or ()}
    values["disks"] = tuple(_alike(disk, known.get(disk.name)) for disk in running.disks or ())
    alike = make(VmSpec, {name: value for name, value in values.items() if value is not None})
    return defined if alike == defined else alike


def _alike(disk: DiskSpec, defined: Optional[DiskSpec]) -> DiskSpec:
    """An overlay of a snapshot or a grown image has one size, whichever XML it is read from; libvirt starts shared disks without a cache."""
    if defined is None or defined.file != disk.file:
        return disk
    values = {"name": disk.name, "size": defined.size, "cache": "default" if defined.shareable and defined.cache == "default" else None}
    return merge(disk, make(DiskSpec, {name: value for name, value in values.items() if value is not None}))
