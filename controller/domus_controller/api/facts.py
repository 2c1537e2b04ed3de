"""The shape of a server's facts, as agents tell them."""

from __future__ import annotations

from .schemas import Schema

TEXT: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": ["integer", "null"]}
FLAG: Schema = {"type": ["boolean", "null"]}


def _object(doc: str, **properties: Schema) -> Schema:
    return {"type": "object", "description": doc, "properties": properties}


def _objects(doc: str, **properties: Schema) -> Schema:
    return {"type": "array", "description": doc, "items": {"type": "object", "properties": properties}}


FACTS: Schema = _object(
    "What a server is and can do; sizes in bytes. An agent of another version may tell more or less.",
    uuid={**TEXT, "description": "libvirt's host UUID: no two servers may have the same."},
    hostname=TEXT,
    node={**TEXT, "description": "What it calls itself; Corosync and Pacemaker call it so."},
    addresses={"type": "array", "items": {"type": "string"}, "description": "Its own, without loopback and link-local ones."},
    kernel=TEXT,
    distribution=TEXT,
    booted_at={**NUMBER, "description": "Seconds since 1970, to the minute."},
    machine=_object("What the firmware says.", vendor=TEXT, product=TEXT, bios=TEXT),
    architecture=TEXT,
    cpu=_object(
        "The processor, as libvirt names it.",
        model=TEXT,
        vendor=TEXT,
        features={"type": "array", "items": {"type": "string"}, "description": "Those that its model does not have."},
        microcode=TEXT,
        xml={**TEXT, "description": "For libvirt to compare, and to find what several servers have in common."},
    ),
    guest_cpu_xml={**TEXT, "description": "The CPU that VMs with `host-model` get, in the same form."},
    guest_cpu={"type": ["object", "null"], "description": "The same as data, as a VM's `cpu_baseline` has it."},
    cpus=NUMBER,
    cpu_topology=_object("Of the whole server.", sockets=NUMBER, cores=NUMBER, threads=NUMBER),
    memory=NUMBER,
    numa_cells=_objects(
        "Memory and the processors that are near it.",
        id=NUMBER,
        memory=NUMBER,
        cpus={"type": "array", "items": {"type": "integer"}},
        distances={"type": "object", "description": "How far each cell is, by id; 10 is near."},
    ),
    huge_pages=_objects("What is set aside.", cell=NUMBER, size=NUMBER, total=NUMBER),
    block_devices=_objects(
        "Disks, and what is made of them.",
        name=TEXT,
        size=NUMBER,
        rotational=FLAG,
        read_only=FLAG,
        removable=FLAG,
        model=TEXT,
        vendor=TEXT,
        serial=TEXT,
        wwn=TEXT,
        kind=TEXT,
        made_of={"type": "array", "items": {"type": "string"}},
    ),
    interfaces=_objects(
        "Network interfaces, bridges and bonds; not those of VMs.",
        name=TEXT,
        kind={**TEXT, "description": "physical, bridge, bond, vlan, wireless or virtual."},
        mac=TEXT,
        own_mac={**TEXT, "description": "That of the card itself, by which it is woken; in a bond `mac` is the bond's."},
        wakes={**FLAG, "description": "The card is set to wake the server when it gets a magic packet."},
        mtu=NUMBER,
        link=FLAG,
        speed={**NUMBER, "description": "In Mbit/s."},
        driver=TEXT,
        master={**TEXT, "description": "The bridge or bond it is a port of."},
        ports={"type": "array", "items": {"type": "string"}},
    ),
    virtualization=TEXT,
    hypervisor=TEXT,
    hypervisor_version=TEXT,
    libvirt_version=TEXT,
    server_pool={
        "type": ["object", "null"],
        "description": "How it sees its clustered pool; see `/api/v1/server-pools`.",
    },
)
