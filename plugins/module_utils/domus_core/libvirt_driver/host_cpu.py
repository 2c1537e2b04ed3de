"""The server's processors and memory cells out of libvirt's capabilities: what decides where a VM can run, and move to."""

from __future__ import annotations

import copy
from typing import Any, Optional

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
    if domain_capabilities is None:
        return None
    mode = parse(domain_capabilities).find("cpu/mode[@name='host-model'][@supported='yes']")
    if mode is None or mode.find("model") is None:
        return None
    made = copy.deepcopy(mode)
    made.tag = "cpu"
    made.attrib.clear()
    return serialize(made)


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
