"""Change a running domain. What libvirt, QEMU or the guest can not do live is left for the next restart."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from contextlib import suppress
from typing import Any, Optional

from ..errors import DomusError, Unsupported
from ..model.fields import LIVE
from ..model.vm import VmSpec
from ..planning.steps import Change
from .bounded import require_wanted
from .connection import libvirt, told, translate
from .device_writer import Writing, add_scsi, device_element, edit_device, new_device
from .tools import run
from .vm_reader import source_of, target_of
from .vm_record import GROUPS, NAMESPACE, PREFIX, VmRecord, as_text, names_in, read_record
from .xml_fields import etree, get, parse, put, serialize

_PLACE = re.compile(r"(disks|cdroms|nics)\[([^\]]+)\](?:\.(.+))?")
# what QEMU says when it is to take the medium out, and when it is to put one in
_TRAY_CLOSED = ("Tray of device '", "Tray of the device is not open")
# libvirt has no code of its own for these: the change is fine, this guest or machine can not take it while it runs
_NOT_LIVE = (
    "unplug request",
    "No more available PCI",
    "no more available",
    "not hotpluggable",
    "not supported for hot",
    "cannot be hotplugged",
    "hotplug is not supported",
    "hot unplug",
    "timed out waiting to open tray",
    "is not removable",
    *_TRAY_CLOSED,
)
# as long as libvirt itself waits for a guest that has locked its tray
TRIES, PAUSE = 25, 0.2
MONITOR_TIMEOUT = 10.0


def change_running(domain: Any, spec: VmSpec, changes: tuple[Change, ...], writing: Writing) -> None:
    """Make the live changes in the running domain. Raises DomusError when one fails for a reason that a restart would not mend."""
    for change in changes:
        if change.effect != LIVE:
            continue
        require_wanted()
        try:
            _change_again(domain, spec, change, writing)
        except libvirt.libvirtError as error:
            mended = translate(error, f"changing {change.field}")
            if not _waits(mended, change):
                raise mended.located("", change.field) from None
    _remember_names(domain, writing.record)


def _change_again(domain: Any, spec: VmSpec, change: Change, writing: Writing) -> None:
    """A guest that looks at its CD-ROM drive, as firmware does while it boots, may close the tray under us: that passes."""
    for remaining in reversed(range(TRIES)):
        try:
            return _change(domain, spec, change, writing)
        except libvirt.libvirtError as error:
            if not remaining or not any(sign in str(error) for sign in _TRAY_CLOSED):
                raise
        time.sleep(PAUSE)
        _open_tray(domain, change, writing)


def _open_tray(domain: Any, change: Change, writing: Writing) -> None:
    """Open the tray that libvirt takes for open, if QEMU has it closed.

    A reset of the drive's bus closes it (ide_reset and scsi_disk_reset in QEMU 7.2) without an event, so libvirt goes on believing it open and never
    opens it again; forcing the change does not help. A tray that the guest has locked is only asked for.
    """
    match = _PLACE.fullmatch(change.field)
    element = _device(domain, match[1], match[2], writing)[1] if match else None
    if element is None or get(element, "./target/@tray") != "open":
        return
    command = json.dumps({"execute": "blockdev-open-tray", "arguments": {"id": get(element, "./alias/@name")}})
    # Whether it helped is seen when the change is tried again.
    with suppress(DomusError):
        run(
            ["virsh", "--connect", domain.connect().getURI(), "qemu-monitor-command", "--domain", domain.UUIDString(), command],
            timeout=MONITOR_TIMEOUT,
            what="opening the tray",
        )


def _remember_names(domain: Any, record: VmRecord) -> None:
    """What runs keeps the names of its devices in a record of its own, beside what was asked for when it was started."""
    root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
    own = read_record(root) or VmRecord(VmSpec(record.spec.name if record.spec else ""), record.site)
    names = names_in(root, record)
    if names != {group: own.devices.get(group, {}) for group in GROUPS}:
        element = etree.Element("vm")  # libvirt gives it the namespace
        element.text = as_text(dataclasses.replace(own, devices=names))
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, serialize(element), PREFIX, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _waits(error: DomusError, change: Change) -> bool:
    if change.field.endswith(".size"):
        return False
    return isinstance(error, Unsupported) or any(sign in error.message for sign in _NOT_LIVE)


def _change(domain: Any, spec: VmSpec, change: Change, writing: Writing) -> None:
    match = _PLACE.fullmatch(change.field)
    if match:
        _change_device(domain, match[1], match[2], match[3] or "", change, spec, writing)
    elif change.field == "memory":
        domain.setMemoryFlags(change.after // 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    elif change.field == "cpus":
        domain.setVcpusFlags(change.after, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    elif change.field == "description":
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, change.after, None, None, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _change_device(domain: Any, group: str, name: str, inner: str, change: Change, spec: VmSpec, writing: Writing) -> None:
    root, element = _device(domain, group, name, writing)
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    if change.after is None and not inner:
        if element is not None:
            domain.detachDeviceFlags(serialize(element), live)
    elif not inner:
        if element is None and not _is_attached(root, group, change.after, writing):
            controller = add_scsi(root, change.after)
            if controller is not None:
                domain.attachDeviceFlags(serialize(controller), live)
            domain.attachDeviceFlags(serialize(new_device(root, group, change.after, writing)), live)
    elif element is not None and inner == "size":
        domain.blockResize(target_of(element), change.after, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    elif element is not None:
        device = next(one for one in getattr(spec, group) if one.name == name)
        edit_device(element, device, inner, writing)
        # Meanwhile the guest may move it, and libvirt refuses a change that also moves the tray.
        put(element, "./target/@tray", None)
        domain.updateDeviceFlags(serialize(element), live)


def _device(domain: Any, group: str, name: str, writing: Writing) -> tuple[Any, Optional[Any]]:
    """What runs, and in it the element of a device, or None."""
    root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
    return root, device_element(root, group, name, dataclasses.replace(writing.record, devices=names_in(root, writing.record)))


def _is_attached(root: Any, group: str, device: Any, writing: Writing) -> bool:
    """Is it there, from an apply that was broken off or a guest that did not let it go? Then it only gets its name."""
    if group == "nics":
        mark = device.mac if any(get(nic, "./mac/@address") == device.mac for nic in root.iterfind("devices/interface")) else None
    else:
        path = writing.places.path(device.file)
        mark = next((target_of(disk) for disk in root.iterfind("devices/disk") if source_of(disk) == path), None)
    if mark:
        writing.record.rename(group, device.name, mark)
    return bool(mark)


def grow_in_use(connection: Any, path: str, size: int) -> bool:
    """Grow an image through the running domain that uses it; False when none does. Raises DomusError."""
    with told(f"growing {path}"):
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            for disk in parse(domain.XMLDesc(0)).iterfind("devices/disk"):
                if path in (get(disk, "./source/@file"), get(disk, "./source/@dev")):
                    domain.blockResize(target_of(disk), size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
                    return True
    return False
