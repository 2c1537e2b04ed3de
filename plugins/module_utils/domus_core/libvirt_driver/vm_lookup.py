"""One domain, read and written as far as a verb needs it: in milliseconds, and without looking at any image."""

from __future__ import annotations

import re
from typing import Any, Optional

from ..errors import NotFound
from ..model.fields import make
from ..model.snapshot import Found
from ..model.vm import VmSpec, VmState
from .connection import libvirt, told
from .vm_power import run_state
from .vm_record import NAMESPACE, PREFIX, as_bare_xml, read_record
from .xml_fields import get, parse, read_fields

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def find_vm(connection: Any, name_or_uuid: str) -> Optional[Found]:
    """A domain by name or UUID: its run state, its record, and what stands in its XML outside of its devices; or None."""
    domain = _named(connection, name_or_uuid)
    if domain is None:
        return None
    with told(f"reading domain {name_or_uuid}"):
        root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        state, persistent = run_state(domain), bool(domain.isPersistent())
    record = read_record(root)
    spec = make(VmSpec, {name: value for name, value in read_fields(root, VmSpec).items() if value is not None})
    generation, site = (record.generation, record.site) if record else (0, None)
    measured = VmState(get(root, "./uuid") or "", state, persistent=persistent, managed=record is not None, generation=generation, site=site)
    return Found(spec, measured, recorded=record.spec if record else None)


def _named(connection: Any, name_or_uuid: str) -> Any:
    for look, worth in ((connection.lookupByName, True), (connection.lookupByUUIDString, _UUID.fullmatch(name_or_uuid))):
        try:
            if worth:
                with told(f"looking for domain {name_or_uuid}"):
                    return look(name_or_uuid)
        except NotFound:
            continue
    return None


def is_managed(domain: Any) -> bool:
    """Does Domus manage this domain? One that has gone meanwhile is none."""
    try:
        return read_record(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))) is not None
    except libvirt.libvirtError:
        return False


def record_wanted(domain: Any, wanted: VmSpec) -> None:
    """Write down what is asked for of a domain that Domus made, without defining it anew; a generation of its own."""
    record = read_record(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
    if record is None:
        return
    record.spec, record.generation = wanted, record.generation + 1
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, as_bare_xml(record), PREFIX, NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
