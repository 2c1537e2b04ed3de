"""VMs that start with their server, and could not because their repository was not there yet: started when it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from domus_core.errors import DomusError
from domus_core.libvirt_driver.connection import libvirt, told
from domus_core.libvirt_driver.driver import LibvirtDriver
from domus_core.libvirt_driver.vm_reader import source_of
from domus_core.libvirt_driver.vm_record import read_record
from domus_core.libvirt_driver.xml_fields import parse

PATIENCE = 60.0
_log = logging.getLogger(__name__)


def start_late(driver: LibvirtDriver, directory: str) -> list[str]:
    """Start the VMs with a disk below `directory` whose start at boot failed; return their names. Raises DomusError when libvirt does not answer."""
    started = []
    for domain in _waiting(driver.connection, directory):
        name = str(domain.name())
        try:
            with driver.locked([("vm", name)], [], patience=PATIENCE), told(f"starting {name}"):
                if _is_waiting(domain, directory):
                    domain.create()
                    started.append(name)
        except DomusError as error:
            _log.warning("vm %s: its repository is there now, but it does not start: %s", name, error)
    return started


def _waiting(connection: Any, directory: str) -> Iterable[Any]:
    with told("listing the domains"):
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE | libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART
        return [domain for domain in connection.listAllDomains(flags) if _is_waiting(domain, directory)]


def _is_waiting(domain: Any, directory: str) -> bool:
    """It has not run since libvirt was started, nobody has asked for it to be off, and a disk of it is there."""
    state, reason = domain.state()
    if state != libvirt.VIR_DOMAIN_SHUTOFF or reason not in (libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN, libvirt.VIR_DOMAIN_SHUTOFF_FAILED):
        return False
    root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    record = read_record(root)
    if record is not None and record.spec is not None and record.spec.state not in (None, "running"):
        return False
    return any((source_of(disk) or "").startswith(f"{directory}/") for disk in root.iterfind("devices/disk"))
