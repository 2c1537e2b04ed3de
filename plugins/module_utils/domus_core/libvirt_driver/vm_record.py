"""What Domus writes into a VM's own definition: what was asked for, its generation, and which device has which name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Optional

from ..model.fields import plain, restore
from ..model.vm import VmSpec
from .xml_fields import etree, get, serialize

NAMESPACE = "urn:domus:vm:1"
TAG = f"{{{NAMESPACE}}}vm"
PREFIX = "domus"
GROUPS = ("disks", "cdroms", "nics")


@dataclasses.dataclass
class VmRecord:
    """The record of a VM. `devices` maps, per group, a device's name to its target (disks, CD-ROM drives) or MAC address (NICs)."""

    spec: Optional[VmSpec] = None
    site: str = ""
    generation: int = 0
    devices: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    seed: Optional[str] = None

    def names(self, group: str) -> dict[str, str]:
        """The names of the devices of a group by target or MAC address."""
        return {mark: name for name, mark in self.devices.get(group, {}).items()}

    def rename(self, group: str, name: str, mark: str) -> None:
        """Remember the target or MAC address of a device."""
        self.devices.setdefault(group, {})[name] = mark


def read_record(root: Any) -> Optional[VmRecord]:
    """The record in a domain's XML, or None; one that can not be read counts as none, so that it is never trusted."""
    element = root.find(f"metadata/{TAG}")
    if element is None:
        return None
    try:
        data = json.loads(element.text or "")
        return VmRecord(restore(VmSpec, data["spec"]), str(data["site"]), int(data["generation"]), dict(data["devices"]), data.get("seed"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(root: Any, record: VmRecord) -> None:
    """Put the record into a domain's XML, in place of the one that is there."""
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    for old in metadata.findall(TAG):
        metadata.remove(old)
    etree.SubElement(metadata, TAG, nsmap={PREFIX: NAMESPACE}).text = as_text(record)


def as_text(record: VmRecord) -> str:
    """The record as text; secrets go in as salted digests."""
    data = {
        "spec": plain(record.spec, mask=False),
        "site": record.site,
        "generation": record.generation,
        "devices": record.devices,
        "seed": record.seed,
    }
    return json.dumps({key: value for key, value in data.items() if value is not None})


def as_bare_xml(record: VmRecord) -> str:
    """The record as the element that virDomainSetMetadata takes: it puts the namespace in by itself."""
    element = etree.Element("vm")
    element.text = as_text(record)
    return serialize(element)


def names_in(live_root: Any, record: VmRecord) -> dict[str, dict[str, str]]:
    """The names of the devices that run: those that their own record gives, else those of the definition's."""
    own = read_record(live_root)
    there = {get(one, "./target/@dev") for one in live_root.iterfind("devices/disk")} | {
        get(one, "./mac/@address") for one in live_root.iterfind("devices/interface")
    }
    named: dict[str, dict[str, str]] = {}
    for group in GROUPS:
        named[group] = {name: mark for name, mark in (own.devices.get(group, {}) if own else {}).items() if mark in there}
        for name, mark in record.devices.get(group, {}).items():
            if mark in there and mark not in named[group].values():
                named[group].setdefault(name, mark)
    return named
