"""The VMs that are made by thousands, as a document and as the XML that our engine makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domus_core.engine import apply
from domus_core.libvirt_driver.driver import open_driver
from domus_core.libvirt_driver.xml_fields import add, etree, parse, serialize
from domus_core.model.document import parse_document

from .measuring import TEST_DRIVER

INACTIVE = 3  # VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE


def document(vms: int) -> dict[str, Any]:
    """A site of VMs without disks, each with a NIC on the network that libvirt's test driver has."""
    return {"site": "bench", "servers": [{"name": "localhost", "virtualization": "qemu"}], "vms": [_vm(number) for number in range(vms)]}


def _vm(number: int) -> dict[str, Any]:
    return {
        "name": f"vm{number:04}",
        "description": f"application server {number}",
        "tags": ["production", f"rack{number % 40}"],
        "cpus": 2,
        "cpus_max": 4,
        "memory": "2GiB",
        "memory_max": "4GiB",
        "nics": [{"name": "eth0", "network": "default"}],
        "boot": ["network"],
        "autostart": False,
    }


def definitions(vms: int, state_directory: Path) -> list[str]:
    """The XML of these VMs as libvirt has it after our engine made them, its record included; the state directory then knows the server."""
    driver = open_driver(TEST_DRIVER, str(state_directory))
    try:
        report = apply(parse_document(document(vms)), driver)
        if report.errors:
            raise report.errors[0]
        return [driver.connection.lookupByName(f"vm{number:04}").XMLDesc(INACTIVE) for number in range(vms)]
    finally:
        driver.close()


def without_record(text: str) -> str:
    """The XML of a domain without what only Domus reads."""
    root = parse(text)
    root.remove(root.find("metadata"))
    return serialize(root)


def seeded_uri(path: Path, xml: list[str]) -> str:
    """Write what libvirt's test driver starts with: these domains, switched off; returns its URI (https://libvirt.org/drvtest.html)."""
    node = etree.Element("node")
    cpu = add(node, "cpu")
    for name, value in (("mhz", "2400"), ("model", "x86_64"), ("active", "2"), ("nodes", "1"), ("sockets", "1"), ("cores", "2"), ("threads", "1")):
        add(cpu, name, value)
    add(node, "memory", str(64 << 20))
    network = add(node, "network")
    add(network, "name", "default")
    add(network, "ip", address="192.0.2.1", netmask="255.255.255.0")
    for text in xml:
        domain = parse(text)
        # The test driver's own element, in its own name space: what it starts with runs, unless told otherwise.
        add(domain, "{http://libvirt.org/schemas/domain/test/1.0}runstate", "5")
        node.append(domain)
    path.write_text(serialize(node), encoding="utf-8")
    return f"test://{path}"
