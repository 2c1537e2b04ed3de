"""What Domus wants of Pacemaker's configuration (CIB), as an XML tree; every element that is ours has an id with the prefix `domus-`.

See 0011 for the reasons of each value, and Pacemaker Explained for their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

from ..libvirt_driver.xml_fields import etree
from ..model.quantities import UNITS
from .pool import CURRENT, FenceDevice, HaVm, Member, Pool, secret_path

PREFIX = "domus-"
# What the resources of VMs and of fence devices begin with.
VM, DEVICE = f"{PREFIX}vm-", f"{PREFIX}fence-"
NEVER = "-INFINITY"
# What a VM scores, least first: a preference, its rank (of 1,000 at most), the mark of a living server, being where it is. The mark must count for
# less than being there, since servers get theirs one after the other; both together for more than all else; all of it is below a million, INFINITY.
PREFERRED, RANK, ALIVE, STICKINESS = 100, 200, 220_000, 460_000
# In maintenance a server takes no VM: more than all the others together, and less than being there, so that what is there stays.
SHUT = -430_000
UP = f"{PREFIX}up"
# Attributes of a server.
TAG, CPU_GROUP, MEMORY, CPUS, CLOSED = f"{PREFIX}tag-", f"{PREFIX}cpu-group", f"{PREFIX}memory", f"{PREFIX}cpus", f"{PREFIX}closed"
MONITOR_SECONDS = 10
# A server so busy that a monitor takes longer is no reason to restart its VMs: who is really gone, Corosync finds out.
MONITOR_TIMEOUT = 120
# Defining a domain and starting its QEMU, on a server that has much else to do.
START_SECONDS = 90
# What stop needs beyond the guest's own time: to end a QEMU that does not go, with proof.
STOP_SECONDS = 60
MIGRATE_SECONDS = 3600
# A fence device that fails is tried so often on each server, and again after a pause.
DEVICE_FAILURES, DEVICE_PAUSE = 3, 60
# Both members of a pair cut each other at once, so the first gets a head start, and the one with more VMs a longer one.
HEAD_START, BUSIER_HEAD_START = 5, 10
# After so many times its time-out a server's watchdog has reset it for sure: Pacemaker's own measure (sbd(8)), since it may hear of its loss last.
WATCHDOG_PROPERTY, SURE = "stonith-watchdog-timeout", 2

PROPERTIES = {
    "stonith-enabled": "true",
    "no-quorum-policy": "freeze",
    "placement-strategy": "balanced",
    "start-failure-is-fatal": "false",
    "stop-orphan-resources": "false",
    "symmetric-cluster": "true",
    "startup-fencing": "true",
    "concurrent-fencing": "true",
    "migration-limit": "2",
    # Guests are most of a server's load: at Pacemaker's 80 % a busy one would start VMs one by one. Four vCPUs for each processor are usual.
    "load-threshold": "400%",
    # After ten failed attempts Pacemaker cuts nobody any more until it looks again: a device that was repaired must not wait its 15 minutes.
    "cluster-recheck-interval": "60s",
}


def _id(word: str, *names: str) -> str:
    """An id that no other names give: names may hold every character that an id may, so all but the last come with their length."""
    return f"{PREFIX}{word}-" + "".join(f"{len(name)}-{name}-" for name in names[:-1]) + names[-1]


def vm_id(name: str) -> str:
    """The resource of a VM."""
    return VM + name


def device_id(name: str) -> str:
    """The resource of a fence device."""
    return DEVICE + name


def wanted_configuration(pool: Pool, node_ids: Mapping[str, int]) -> Any:
    """The element `configuration` with everything that is ours, and nothing else."""
    root = etree.Element("configuration")
    sections = {
        name: etree.SubElement(root, name) for name in ("crm_config", "nodes", "resources", "constraints", "fencing-topology", "rsc_defaults", "op_defaults")
    }
    _set(sections["crm_config"], "cluster_property_set", "cluster", pool.name, _properties(pool))
    for member in sorted(pool.members, key=lambda member: node_ids[member.name]):
        _add_member(sections["nodes"], member, node_ids[member.name], pool)
    for device in sorted(pool.devices, key=lambda device: device.name):
        _add_device(sections["resources"], device, pool)
    _add_mark(sections["resources"], pool)
    for vm in sorted(pool.vms, key=lambda vm: vm.name):
        _add_vm(sections["resources"], vm, pool)
    for constraint in _constraints(pool):
        sections["constraints"].append(constraint)
    for level in _levels(pool.devices):
        sections["fencing-topology"].append(level)
    _set(sections["rsc_defaults"], "meta_attributes", "defaults", pool.name, {"resource-stickiness": STICKINESS, "priority": 1})
    return root


def _set(parent: Any, tag: str, word: str, owner: str, values: Mapping[str, Any]) -> Any:
    """A set of name-value pairs, each with an id of its own; None leaves a pair out."""
    element = etree.SubElement(parent, tag, id=_id(word, owner))
    for name, value in values.items():
        if value is not None:
            etree.SubElement(element, "nvpair", id=_id(f"{word}.", owner, name), name=name, value=str(value))
    return element


def is_pair(pool: Pool) -> bool:
    """Do two members decide between themselves, with nobody else's vote?"""
    return len(pool.members) == 2 and pool.quorum_device is None


def _properties(pool: Pool) -> dict[str, str]:
    watchdog = {} if pool.watchdog is None else {WATCHDOG_PROPERTY: f"{SURE * pool.watchdog.timeout}s"}
    return {**PROPERTIES, "priority-fencing-delay": f"{BUSIER_HEAD_START if is_pair(pool) else 0}s", **watchdog}


def _add_member(parent: Any, member: Member, number: int, pool: Pool) -> None:
    node = etree.SubElement(parent, "node", id=str(number), uname=member.name)
    told = {TAG + tag: 1 for tag in sorted(member.tags)}
    # What it has on the whole: a member that changes VMs without the manager works out from it what is left.
    whole = {MEMORY: member.memory // UNITS["MiB"], CPUS: member.cpus, CLOSED: int(member.closed)}
    attributes = {CPU_GROUP: member.cpu_group, **told, **whole, "standby": "on" if member.evacuated else "off"}
    _set(node, "instance_attributes", "node", member.name, attributes)
    _set(node, "utilization", "room", member.name, _capacity(member, pool))


def _capacity(member: Member, pool: Pool) -> dict[str, int]:
    """What its HA VMs may have, in MiB and vCPUs, and of each anti-affinity group one: never less than what those there have already.

    Pacemaker would move VMs away, or stop them, to make the sum right.
    """
    room = {"memory": member.memory // UNITS["MiB"], "cpus": member.cpus, **{_apart(group): 1 for vm in pool.vms for group in sorted(vm.anti_affinity)}}
    there = [_needs(vm) for vm in pool.vms if vm.server == member.name]
    return {name: max(amount, sum(needs.get(name, 0) for needs in there)) for name, amount in sorted(room.items())}


def _needs(vm: HaVm) -> dict[str, int]:
    """What a VM takes of its server. A group is room for one: colocations with a negative score stop a healthy VM of the group for a lost one."""
    return {"memory": _mebibytes(vm), "cpus": vm.cpus, **{_apart(group): 1 for group in sorted(vm.anti_affinity)}}


def _apart(group: str) -> str:
    return f"{PREFIX}apart-{group}"


def _mebibytes(vm: HaVm) -> int:
    return -(-vm.memory // UNITS["MiB"])


def _add_device(parent: Any, device: FenceDevice, pool: Pool) -> None:
    identity = device_id(device.name)
    element = etree.SubElement(parent, "primitive", id=identity, **{"class": "stonith", "type": device.agent})
    plugs = dict(sorted(device.servers.items()))
    targets: dict[str, Any] = (
        {"pcmk_host_map": ";".join(f"{server}:{plug}" for server, plug in plugs.items())}
        if any(plugs.values())
        else {"pcmk_host_list": " ".join(plugs), "pcmk_host_check": "static-list"}
    )
    if is_pair(pool) and pool.members[0].name in plugs and "pcmk_delay_base" not in device.options:
        targets["pcmk_delay_base"] = f"{pool.members[0].name}:{HEAD_START}s" if len(plugs) > 1 else f"{HEAD_START}s"
    hidden = {f"{option}_script": secret_path(device.name, option) for option in sorted(device.secrets)}
    _set(element, "instance_attributes", "options", device.name, {**dict(sorted(device.options.items())), **hidden, **targets})
    # Without a limit one that does not answer is started again every second, for ever; it can cut power all the same while it is not watched.
    _set(element, "meta_attributes", "patience", device.name, {"migration-threshold": DEVICE_FAILURES, "failure-timeout": f"{DEVICE_PAUSE}s"})
    _add_operations(element, identity, [("monitor", 120, 60, None), ("start", 0, 60, None)])


def _add_mark(parent: Any, pool: Pool) -> None:
    """A mark that each server has while it is a living member.

    The scheduler gives room first to who has the highest score where it runs, or ran: by this, to the VMs of living servers before those of a dead one.
    """
    clone = etree.SubElement(parent, "clone", id=_id("clone", "up"))
    element = etree.SubElement(clone, "primitive", id=UP, **{"class": "ocf", "provider": "pacemaker", "type": "attribute"})
    _set(element, "instance_attributes", "mark", pool.name, {"name": UP, "active_value": 1, "inactive_value": 0})
    _add_operations(element, UP, [("monitor", 60, 60, None)])


def _add_operations(parent: Any, identity: str, operations: Iterable[tuple[str, int, int, Optional[str]]]) -> None:
    """Operations as (name, interval, timeout, what a failure leads to), in seconds."""
    element = etree.SubElement(parent, "operations")
    for name, interval, timeout, on_fail in operations:
        values = {"id": _id(f"{name}.", identity), "name": name, "interval": f"{interval}s" if interval else "0", "timeout": f"{timeout}s", "on-fail": on_fail}
        etree.SubElement(element, "op", {key: value for key, value in values.items() if value is not None})


def _add_vm(parent: Any, vm: HaVm, pool: Pool) -> None:
    """Its parameters never change, since a change of one would restart it; all that may change is elsewhere."""
    identity = vm_id(vm.name)
    element = etree.SubElement(parent, "primitive", id=identity, **{"class": "ocf", "provider": "domus", "type": "vm"})
    role = None if vm.wanted is None else "Started" if vm.wanted else "Stopped"
    meta = {
        "target-role": role,
        "allow-migrate": "true",
        "migration-threshold": vm.restart_limit,
        "failure-timeout": f"{vm.restart_window}s",
    }
    _set(element, "instance_attributes", "parameters", vm.name, {"name": vm.name, "uuid": vm.uuid})
    _set(element, "meta_attributes", "meta", vm.name, meta)
    _set(element, "utilization", "needs", vm.name, _needs(vm))
    _add_operations(
        element,
        identity,
        [
            ("monitor", MONITOR_SECONDS, MONITOR_TIMEOUT, None),
            ("start", 0, START_SECONDS + pool.lock_patience + vm.start_delay, None),
            ("stop", 0, STOP_SECONDS + vm.stop_timeout, "block"),
            ("migrate_to", 0, MIGRATE_SECONDS, "block"),
            ("migrate_from", 0, STOP_SECONDS, None),
        ],
    )


def _constraints(pool: Pool) -> Iterator[Any]:
    yield _living(pool)
    yield _shut(pool)
    for device in sorted(pool.devices, key=lambda device: device.name):
        if len(device.servers) == 1:  # a server that is to be cut can not be the one that watches its own device
            (server,) = device.servers
            yield _location(device_id(device.name), server, NEVER)
    for vm in sorted(pool.vms, key=lambda vm: vm.name):
        yield from _rules(vm)
        yield from _rank(vm)
        yield from _preferences(vm, pool)
        for first in vm.start_after:
            values = {"first": vm_id(first), "then": vm_id(vm.name), "kind": "Optional", "symmetrical": "false"}
            yield etree.Element("rsc_order", {"id": _id("order", first, vm.name), **values})


def _living(pool: Pool) -> Any:
    """The mark counts for servers that keep their VMs: neither in maintenance nor about to stop."""
    location = etree.Element("rsc_location", {"id": _id("alive", pool.name), "rsc-pattern": f"^{VM}"})
    rule = etree.SubElement(location, "rule", {"id": _id("alive-rule", pool.name), "score": str(ALIVE), "boolean-op": "and"})
    staying = etree.SubElement(rule, "rule", {"id": _id("staying", pool.name), "boolean-op": "or"})
    conditions = [
        (rule, {"attribute": UP, "operation": "eq", "value": "1"}),
        (rule, {"attribute": "standby", "operation": "ne", "value": "on"}),
        (staying, {"attribute": "shutdown", "operation": "not_defined"}),
        (staying, {"attribute": "shutdown", "operation": "eq", "value": "0"}),
    ]
    for number, (parent, values) in enumerate(conditions):
        etree.SubElement(parent, "expression", {"id": _id("alive-if", str(number), pool.name), **values})
    return location


def _shut(pool: Pool) -> Any:
    """A server in maintenance takes no VM."""
    location = etree.Element("rsc_location", {"id": _id("shut", pool.name), "rsc-pattern": f"^{VM}"})
    rule = etree.SubElement(location, "rule", {"id": _id("shut-rule", pool.name), "score": str(SHUT)})
    etree.SubElement(rule, "expression", {"id": _id("shut-if", pool.name), "attribute": CLOSED, "operation": "eq", "value": "1"})
    return location


def _location(resource: str, server: str, score: str) -> Any:
    return etree.Element("rsc_location", {"id": _id("at", resource, server), "rsc": resource, "node": server, "score": score})


def _rules(vm: HaVm) -> Iterator[Any]:
    """Servers that lack a tag, or are of another CPU group, are no servers for it: one rule, whatever their number."""
    conditions: list[tuple[str, Optional[str]]] = [(f"{PREFIX}tag-{tag}", None) for tag in sorted(vm.server_tags)]
    if vm.cpu_group is not None:
        conditions.append((f"{PREFIX}cpu-group", vm.cpu_group))
    if not conditions:
        return
    identity = _id("only", vm.name)
    location = etree.Element("rsc_location", id=identity, rsc=vm_id(vm.name))
    rule = etree.SubElement(location, "rule", {"id": _id("rule", vm.name), "score": NEVER, "boolean-op": "or"})
    for number, (attribute, value) in enumerate(conditions):
        values = {"operation": "not_defined"} if value is None else {"operation": "ne", "value": value}
        etree.SubElement(rule, "expression", {"id": _id("condition", str(number), vm.name), "attribute": attribute, **values})
    yield location


def _rank(vm: HaVm) -> Iterator[Any]:
    """The same score for every server changes nothing about where it runs; of VMs that were lost together the higher is given room first."""
    if vm.priority:
        identity = _id("rank", vm.name)
        location = etree.Element("rsc_location", id=identity, rsc=vm_id(vm.name))
        rule = etree.SubElement(location, "rule", id=_id("rank-rule", vm.name), score=str(RANK * vm.priority))
        etree.SubElement(rule, "expression", id=_id("rank-all", vm.name), attribute="#uname", operation="defined")
        yield location


def _preferences(vm: HaVm, pool: Pool) -> Iterator[Any]:
    """Where it starts if there is room; weaker than staying where it is."""
    preferred = list(vm.preferred_servers)
    last = vm.server or vm.last_server
    if not preferred and (vm.start_policy or pool.start_policy) == CURRENT and last in {member.name for member in pool.members}:
        preferred = [str(last)]
    for place, server in enumerate(preferred):
        yield _location(vm_id(vm.name), server, str(PREFERRED - place))


def _levels(devices: Iterable[FenceDevice]) -> Iterator[Any]:
    """Levels for servers that several devices can cut; the devices of one level must all succeed."""
    by_server: dict[str, dict[int, list[str]]] = {}
    for device in devices:
        for server in device.servers:
            by_server.setdefault(server, {}).setdefault(device.level, []).append(device_id(device.name))
    for server, levels in sorted(by_server.items()):
        if sum(map(len, levels.values())) > 1:
            for index, (level, names) in enumerate(sorted(levels.items()), 1):
                values = {"target": server, "index": str(index), "devices": ",".join(sorted(names))}
                yield etree.Element("fencing-level", {"id": _id("level", str(level), server), **values})


def is_ours(identity: str) -> bool:
    """Is an element with this id Domus's own?"""
    return identity.startswith(PREFIX)
