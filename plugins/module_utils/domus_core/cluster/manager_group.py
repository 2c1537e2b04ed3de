"""The manager as a service of a pool in Pacemaker's configuration: a group of its address and its services, on one of the chosen members. Pure.

Its ids have a prefix of their own: the pool's document says nothing of it, so what is `domus-...` and not wanted by a document does not concern it.
See 0013 for the reasons of each value.
"""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
from collections.abc import Iterator
from typing import Any, Optional

from ..errors import Conflict, InvalidSpec
from ..libvirt_driver.xml_fields import canonical, etree

GROUP, PLACE = "manager-ha", "manager-ha-place"
ADDRESS = f"{GROUP}-address"
SERVICES = {"runner": "domus-runner", "manager": "domus-manager", "web": "domus-nginx", "backup": "domus-backup.timer"}
MONITOR_SECONDS, MONITOR_TIMEOUT = 10, 60
# The web server waits for the flag of a dead server (150 s at most) before it starts; systemd gives each of them 40 s to end.
START_SECONDS, STOP_SECONDS = 200, 100
# Where it has failed so often it is tried elsewhere, and there again after a while.
FAILURES, FAILURE_SECONDS = 3, 300


@dataclasses.dataclass(frozen=True)
class ManagerService:
    """The members that may run the manager, and its address: where the others and all people reach it.

    `prefix_length` and `interface` are found by the members' routes when nobody says them. Raises InvalidSpec.
    """

    address: str
    members: tuple[str, ...]
    prefix_length: Optional[int] = None
    interface: Optional[str] = None

    def __post_init__(self) -> None:
        try:
            bits = ipaddress.ip_address(self.address).max_prefixlen
        except ValueError:
            remedy = "Give it a free one of the servers' network"
            raise InvalidSpec("is no IP address", object="manager", field="address", value=self.address, remedy=remedy) from None
        if self.prefix_length is not None and not 1 <= self.prefix_length <= bits:
            raise InvalidSpec(f"is not from 1 to {bits}", object="manager", field="prefix_length", value=self.prefix_length)
        if len(set(self.members)) < 2:
            remedy = "One server alone is not highly available"
            raise InvalidSpec("are less than two", object="manager", field="members", value=list(self.members), remedy=remedy)


def put_manager(configuration: Any, service: ManagerService) -> tuple[str, ...]:
    """Put the service into a whole configuration, in place; returns what changes. What somebody has told Pacemaker about it beside us stays.

    Raises Conflict for a member that the pool does not have.
    """
    known = {node.get("uname") for node in configuration.iterfind("nodes/node")}
    strangers = sorted(set(service.members) - known)
    if strangers:
        remedy = "Name servers of this pool, as the pool calls them (domus-agent pool status)"
        raise Conflict("is no member of this pool", object="manager", field="members", value=strangers[0], remedy=remedy)
    return tuple([*_put(configuration.find("resources"), _group(service)), *_put(configuration.find("constraints"), _place(service))])


def take_manager(configuration: Any) -> tuple[str, ...]:
    """Take it out of a whole configuration, in place; returns what changes. Pacemaker must have stopped it, or it goes on."""
    return tuple(_taken(configuration))


def stop_manager(configuration: Any) -> tuple[str, ...]:
    """Have Pacemaker stop it, in place; returns what changes."""
    group = _find(configuration.find("resources"), GROUP)
    if group is None:
        return ()
    meta = group.find("meta_attributes")
    role = next((pair for pair in meta if pair.get("name") == "target-role"), None)
    if role is None:
        role = etree.SubElement(meta, "nvpair", id=f"{meta.get('id')}-target-role", name="target-role")
    if role.get("value") == "Stopped":
        return ()
    role.set("value", "Stopped")
    return (f"~ resources {GROUP}",)


def _taken(configuration: Any) -> Iterator[str]:
    for section in ("constraints", "resources"):
        parent = configuration.find(section)
        for element in [one for one in parent if one.get("id") in (GROUP, PLACE)]:
            parent.remove(element)
            yield f"- {section} {element.get('id')}"


def _find(parent: Any, identity: str) -> Any:
    return next((element for element in parent if element.get("id") == identity), None)


def _put(parent: Any, wanted: Any) -> Iterator[str]:
    found = _find(parent, wanted.get("id"))
    if found is None:
        parent.append(wanted)
        yield f"+ {parent.tag} {wanted.get('id')}"
        return
    before = canonical(found)
    meta = wanted.find("meta_attributes")
    if meta is not None and found.find("meta_attributes") is not None:
        ours = {pair.get("name") for pair in meta}
        meta.extend(copy.deepcopy(pair) for pair in found.find("meta_attributes") if pair.get("name") not in ours)
    parent.replace(found, wanted)
    if canonical(wanted) != before:
        yield f"~ {parent.tag} {wanted.get('id')}"


def _group(service: ManagerService) -> Any:
    group = etree.Element("group", id=GROUP)
    _pairs(group, "meta_attributes", {"migration-threshold": FAILURES, "failure-timeout": f"{FAILURE_SECONDS}s"})
    address = etree.SubElement(group, "primitive", id=ADDRESS, **{"class": "ocf", "provider": "heartbeat", "type": "IPaddr2"})
    _pairs(address, "instance_attributes", {"ip": service.address, "cidr_netmask": service.prefix_length, "nic": service.interface})
    _operations(address)
    for name, unit in SERVICES.items():
        _operations(etree.SubElement(group, "primitive", id=f"{GROUP}-{name}", **{"class": "systemd", "type": unit}))
    return group


def _pairs(parent: Any, tag: str, values: dict[str, Any]) -> None:
    element = etree.SubElement(parent, tag, id=f"{parent.get('id')}-{tag}")
    for name, value in values.items():
        if value is not None:
            etree.SubElement(element, "nvpair", id=f"{parent.get('id')}-{tag}-{name}", name=name, value=str(value))


def _operations(parent: Any) -> None:
    """A stop that fails must not have the server cut: its VMs are well."""
    element = etree.SubElement(parent, "operations")
    for name, interval, timeout, on_fail in (
        ("monitor", MONITOR_SECONDS, MONITOR_TIMEOUT, "restart"),
        ("start", 0, START_SECONDS, "restart"),
        ("stop", 0, STOP_SECONDS, "block"),
    ):
        values = {"name": name, "interval": f"{interval}s" if interval else "0", "timeout": f"{timeout}s", "on-fail": on_fail}
        etree.SubElement(element, "op", id=f"{parent.get('id')}-{name}", **values)


def _place(service: ManagerService) -> Any:
    """Only on members that have what it needs; a server that joins the pool later has not."""
    location = etree.Element("rsc_location", id=PLACE, rsc=GROUP)
    rule = etree.SubElement(location, "rule", id=f"{PLACE}-rule", score="-INFINITY", **{"boolean-op": "and"})
    for name in sorted(set(service.members)):
        etree.SubElement(rule, "expression", id=f"{PLACE}-{name}", attribute="#uname", operation="ne", value=name)
    return location
