"""The server's processors and memory cells out of libvirt's capabilities: what decides where a VM can run, and move to."""

from __future__ import annotations

import copy
from typing import Any, Optional

from ..model.fields import plain
from ..model.vm_devices import CpuBaselineSpec
from .xml_fields import parse, serialize

KIBIBYTE = 1024


def host_cpu(capabilities: Any) -> dict[str, Any]:
    """The host's CPU as libvirt names it; `features` are those beyond the model, `xml` is what libvirt compares and makes a baseline of."""
    cpu = capabilities.find("host/cpu")
    if cpu is None:
        return {"model": None, "vendor": None, "features": [], "microcode": None, "xml": None}
    microcode = cpu.find("microcode")
    return {
        "model": cpu.findtext("model"),
        "vendor": cpu.findtext("vendor"),
        "features": sorted(feature.get("name") for feature in cpu.iterfind("feature") if feature.get("name")),
        "microcode": None if microcode is None else microcode.get("version"),
        "xml": _comparable(cpu) if cpu.findtext("model") else None,
    }


def guest_cpu_xml(domain_capabilities: Optional[str]) -> Optional[str]:
    """The CPU that guests with `host-model` get here, as libvirt compares it and makes a baseline of it; None when it tells none."""
    mode = _host_model(domain_capabilities)
    if mode is None:
        return None
    made = copy.deepcopy(mode)
    made.tag = "cpu"
    made.attrib.clear()
    return serialize(made)


def guest_cpu(domain_capabilities: Optional[str]) -> Optional[dict[str, Any]]:
    """The same CPU as data (CpuBaselineSpec), for the baseline of a group."""
    mode = _host_model(domain_capabilities)
    return None if mode is None else dict(plain(cpu_of(mode)))


def cpu_of(element: Any) -> CpuBaselineSpec:
    """The CPU in an element that names a model; features that only may or must not be there are not part of it."""
    by_policy: dict[str, list[str]] = {"require": [], "disable": []}
    for feature in element.iterfind("feature"):
        by_policy.setdefault(feature.get("policy", "require"), []).append(feature.get("name"))
    lists = {policy: tuple(sorted(by_policy[policy])) for policy in ("require", "disable")}
    return CpuBaselineSpec(element.findtext("model", ""), element.findtext("vendor"), **lists)


def _host_model(domain_capabilities: Optional[str]) -> Any:
    if domain_capabilities is None:
        return None
    mode = parse(domain_capabilities).find("cpu/mode[@name='host-model'][@supported='yes']")
    return None if mode is None or mode.find("model") is None else mode


def numa_cell(cell: Any) -> dict[str, Any]:
    """A NUMA cell: {id, memory, cpus, distances}; the distances go by the cells' ids."""
    kibibytes = int(cell.findtext("memory", "0"))
    return {
        "id": int(cell.get("id")),
        "memory": kibibytes * KIBIBYTE,
        "cpus": [int(cpu.get("id")) for cpu in cell.iterfind("cpus/cpu")],
        "distances": {one.get("id"): int(one.get("value")) for one in cell.iterfind("distances/sibling")},
    }


def _comparable(cpu: Any) -> str:
    """Without what differs between equal processors: clock, caches, page sizes."""
    made = copy.deepcopy(cpu)
    for child in list(made):
        if child.tag not in ("arch", "model", "vendor", "topology", "feature", "maxphysaddr"):
            made.remove(child)
    return serialize(made)
