"""A server's facts, as people read them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from domus_core.model.quantities import format_size

from ..output import Column, key, size

Item = Mapping[str, Any]


def _facts(server: Item) -> Item:
    return server.get("facts") or {}


def _processor(server: Item) -> str:
    facts = _facts(server)
    cpu = facts.get("cpu") or {}
    named = " ".join(word for word in (cpu.get("vendor"), cpu.get("model") or facts.get("cpu_model")) if word)
    topology = facts.get("cpu_topology") or {}
    counts = " x ".join(f"{topology[name]} {name}" for name in ("sockets", "cores", "threads") if topology.get(name))
    return ", ".join(part for part in (named, counts) if part)


def _booted(server: Item) -> str | None:
    at = _facts(server).get("booted_at")
    return None if not at else datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")


def _machine(server: Item) -> str:
    return " ".join(word for word in (_facts(server).get("machine") or {}).values() if word)


def _cells(server: Item) -> str:
    huge: dict[int, list[str]] = {}
    for pool in _facts(server).get("huge_pages") or ():
        huge.setdefault(pool["cell"], []).append(f"{pool['total']} huge pages of {format_size(pool['size'])}")
    return _lines(
        ", ".join([f"{cell['id']}: {format_size(cell['memory'])}", f"CPUs {ranges(cell['cpus'])}", *huge.get(cell["id"], ())])
        for cell in _facts(server).get("numa_cells") or ()
    )


def _disks(server: Item) -> str:
    def line(disk: Item) -> str:
        turns = {True: "rotating", False: "solid state", None: ""}[disk.get("rotational")]
        words = [f"{disk['name']}  {format_size(disk['size'])}", turns, disk.get("model"), disk.get("wwn")]
        made_of = f"of {', '.join(disk['made_of'])}" if disk.get("made_of") else None
        return ", ".join(word for word in (*words, made_of) if word)

    return _lines(line(disk) for disk in _facts(server).get("block_devices") or ())


def _interfaces(server: Item) -> str:
    def line(one: Item) -> str:
        words = [f"{one['name']}  {one['kind']}", "link" if one.get("link") else "no link", f"{one['speed']} Mbit/s" if one.get("speed") else None]
        words += [one.get("mac"), f"in {one['master']}" if one.get("master") else None, f"of {', '.join(one['ports'])}" if one.get("ports") else None]
        return ", ".join(word for word in words if word)

    return _lines(line(one) for one in _facts(server).get("interfaces") or ())


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as 0-2,5."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


FACTS: list[Column] = [
    key("hostname", "facts", "hostname"),
    ("machine", _machine),
    *(key(name, "facts", name) for name in ("distribution", "kernel")),
    ("booted", _booted),
    ("processors", _processor),
    key("cpus", "facts", "cpus"),
    size("memory", "facts", "memory"),
    ("memory cells", _cells),
    ("disks", _disks),
    ("interfaces", _interfaces),
    *(key(name.replace("_", " "), "facts", name) for name in ("virtualization", "hypervisor", "hypervisor_version", "libvirt_version")),
    key("host UUID", "facts", "uuid"),
]
