"""Adoption: write the document of VMs that ran before Domus came, and say what of their XML no document can hold.

Nothing is changed here. Applying the document writes down what it says, once, and changes nothing of the VMs and their files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any, Optional

from ..errors import NotFound
from ..model.document import DEFAULT_SITE, Site
from ..model.field_types import Size
from ..model.fields import Object, Objects, fields_of, given, make
from ..model.quantities import format_size
from ..model.repository import RepositorySpec
from ..model.secrets import MASK, Digest
from ..model.snapshot import Found
from ..model.vm import VmSpec
from .connection import libvirt, told
from .device_writer import Writing
from .driver import LibvirtDriver
from .vm import name_devices
from .vm_record import VmRecord, read_record
from .vm_writer import new_domain
from .xml_fields import etree, get, parse

# What libvirt or QEMU assign by themselves, or what says the same in other words
ASSIGNED = re.compile(
    r"(uuid|id|metadata|resource|seclabel|iothreads|os/(loader|nvram|firmware|bootmenu|@firmware)|cpu(/@|/model/@|/topology/@dies)|vcpu/@placement|on_\w+"
    r"|devices$|devices/(emulator|controller(?!\[scsi)|input\[(mouse|keyboard)/ps2\]|memballoon|audio\["
    r"|video.*/(@vram|@ram|@vgamem|@heads|@primary|@max_outputs)))"
)
ASSIGNED_LEAVES = re.compile(
    r".*(/address|/alias|@index|/backingStore|/mirror|/target/@(dev|port|name|type)(\b|$)|/source/@(startupPolicy|index|portid|bridge|path|mode)"
    r"|/graphics.*@(port|autoport)|/listen|/target/model|/@tty|/driver/@name|/protocol|/script|/log|/@unit|/@model=virtio-transitional)"
)
# A device that has none of these is of a type that no document can say.
SOURCES = {"disks": ("file",), "nics": ("network", "bridge")}


def adopt(driver: LibvirtDriver, names: Optional[Sequence[str]] = None, site: str = DEFAULT_SITE) -> dict[str, Any]:
    """Return `document`, which holds the VMs with every field that was found, and `not_managed`: per VM what it can not hold.

    Without `names`, all VMs that Domus does not manage. Raises NotFound for a name that is not there.
    """
    found = driver.read(Site(site, {})).objects["vm"]
    chosen = list(names) if names is not None else [name for name, vm in found.items() if not vm.state.managed]
    for name in chosen:
        if name not in found:
            raise NotFound("there is no such domain", object=f"vm {name}", remedy=f"Known: {', '.join(sorted(found)[:10])}")
    repositories = _directories_of([found[name] for name in chosen], driver.registry.names("repository"))
    view = driver.read(Site(site, {"repository": {spec.name: spec for spec in repositories}}))
    document: dict[str, Any] = {"site": site}
    if repositories:
        document["repositories"] = [_plain(spec) for spec in repositories]
    document["vms"] = [_document_of(view.objects["vm"][name]) for name in chosen]
    return {"document": document, "not_managed": {name: _not_managed(driver, name, view.objects["vm"][name]) for name in chosen}}


def _directories_of(vms: Sequence[Found], taken: Iterable[str]) -> list[RepositorySpec]:
    """Adopted repositories for the directories of images that lie in no repository."""
    paths = [disk.file for vm in vms for disk in vm.spec.disks or () if disk.file]
    paths += [path for vm in vms if vm.spec.kernel for path in (vm.spec.kernel.kernel, vm.spec.kernel.initrd) if path]
    directories = sorted({os.path.dirname(path) for path in paths if path.startswith("/") and os.path.dirname(path) != "/"})
    names = set(taken)
    return [make(RepositorySpec, {"name": _name_of(path, names), "path": path, "adopted": True}) for path in directories]


def _name_of(path: str, taken: set[str]) -> str:
    """A name that tells the directory, and that no other has; it is taken from then on."""
    told = re.sub(r"[^A-Za-z0-9._-]+", "-", path.strip("/")).strip("-._")
    wanted = told if 0 < len(told) <= 60 else "directory"
    name = next(one for one in chain((wanted,), (f"{wanted}-{number}" for number in count(2))) if one not in taken)
    taken.add(name)
    return name


def _document_of(vm: Found) -> dict[str, Any]:
    data = _plain(vm.spec)
    for group in ("disks", "cdroms", "nics"):
        data[group] = [device for device in data.get(group, []) if group not in SOURCES or any(source in device for source in SOURCES[group])]
        if not data[group]:
            data.pop(group)
    if data.get("virtualization") not in ("kvm", "qemu"):
        data.pop("virtualization", None)
    for disk in data.get("disks", ()):
        for source in ("virtual_disk", "template", "image", "clone", "repository", "sparse"):
            disk.pop(source, None)
    return {**data, "adopted": True, "state": vm.state.state}


def _plain(spec: Any) -> dict[str, Any]:
    """A specification as a person writes it: sizes with units, no secrets, no other words than a document may hold."""
    data: dict[str, Any] = {}
    for field in fields_of(type(spec)):
        value = getattr(spec, field.name)
        if value is None or value == () or isinstance(value, Digest) or field.secret:
            continue
        if isinstance(field.type, Objects):
            value = [_plain(one) for one in value]
        elif isinstance(field.type, Object):
            value = _plain(value)
        elif isinstance(field.type, Size):
            value = format_size(value)
        elif isinstance(value, tuple):
            value = list(value)
        if value not in ({}, []):
            data[field.name] = value
    return data


def _not_managed(driver: LibvirtDriver, name: str, vm: Found) -> list[str]:
    with told(f"reading domain {name}"):
        root = parse(driver.connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    again = made_again(driver, vm, root)
    before, after = flatten(root), flatten(again)
    lost = [f"{place}{_value(MASK if place.endswith('passwd') else value)}" for place, value in before.items() if after.get(place) != value]
    return sorted(lost) + sorted(f"{place}{_value(value)} (would be added)" for place, value in after.items() if place not in before)


def _value(value: str) -> str:
    return f" = {value}" if value else ""


def made_again(driver: LibvirtDriver, vm: Found, root: Any) -> Any:
    """The XML that Domus would make for this VM if it were made anew, with the devices where they are."""
    record = read_record(root) or VmRecord()
    name_devices(root, record)
    disks = tuple(disk for disk in vm.spec.disks or () if disk.file and not disk.file.startswith("/"))
    nics = tuple(nic for nic in vm.spec.nics or () if nic.network or nic.bridge)
    spec = make(VmSpec, {**given(vm.spec), "disks": disks, "nics": nics})
    return new_domain(spec, vm.state.uuid, Writing(driver.known_places(), driver.known_isos(), record))


def flatten(root: Any) -> dict[str, str]:
    """A domain's XML as paths and values, without what libvirt assigns by itself: the form in which two definitions are compared."""
    places: dict[str, str] = {}
    _flatten(root, "", places)
    return {place: value for place, value in places.items() if not ASSIGNED.match(place) and not ASSIGNED_LEAVES.match(place)}


def _flatten(element: Any, path: str, places: dict[str, str]) -> None:
    for name, value in element.attrib.items():
        places[f"{path}/@{name}".lstrip("/")] = value
    text = (element.text or "").strip()
    if path and (text or not len(element) and not element.attrib):
        places[path] = text
    for child in element:
        if isinstance(child.tag, str):
            _flatten(child, f"{path}/{_step(child)}".lstrip("/"), places)


def _step(element: Any) -> str:
    """The name of an element in its path; devices are told apart by what a person knows them by."""
    tag = etree.QName(element).localname
    for mark in (get(element, "./target/@dev") if tag == "disk" else None, get(element, "./mac/@address") if tag == "interface" else None):
        if mark:
            return f"{tag}[{mark}]"
    if tag == "boot" and element.get("dev"):
        return f"boot[{element.get('dev')}]"
    kinds = [element.get(name) for name in ("name", "type", "bus", "model") if element.get(name)]
    if element.getparent() is not None and element.getparent().tag in ("devices", "features", "clock"):
        return f"{tag}[{'/'.join(kinds)}]" if kinds else str(tag)
    return str(tag)
