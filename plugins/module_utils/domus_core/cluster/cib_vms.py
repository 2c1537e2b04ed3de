"""The VMs of a pool in Pacemaker's configuration, changed by a member that knows of the pool only what the configuration says. Pure."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Optional

from ..errors import DomusError
from ..model.fields import restore
from ..model.ha import is_kept_up
from ..model.quantities import UNITS
from ..model.vm import VmSpec
from .cib import CLOSED, CPU_GROUP, CPUS, MEMORY, TAG, VM, is_ours, vm_id, wanted_configuration
from .pool import BEST, HaVm, Member, Pool
from .pool_of import ha_vm_of
from .records import PoolRecord


@dataclasses.dataclass(frozen=True)
class PoolRules:
    """What a member is told of its pool beside the configuration: its name, how long a start waits for locks, in seconds, and where VMs start."""

    name: str
    lock_patience: int = 30
    start_policy: str = BEST


def known_vms(cib: Any) -> set[str]:
    """The names of the HA VMs in a configuration."""
    identities = (str(one.get("id")) for one in cib.iterfind("configuration/resources//primitive[@type='vm'][@provider='domus']"))
    return {identity[len(VM) :] for identity in identities if identity.startswith(VM)}


def ha_vms(
    records: Iterable[PoolRecord], known: Collection[str], places: Mapping[str, tuple[str, ...]], wanted: Mapping[str, bool]
) -> tuple[list[HaVm], list[DomusError]]:
    """The VMs whose records ask for HA; `places`: where Pacemaker has them, `wanted`: whether one that is new to it is to run.

    With what is wrong with the records: such a VM stays as it is.
    """
    found, problems = [], []
    for record in records:
        try:
            spec = restore(VmSpec, record.specification)
        except (DomusError, ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(DomusError(f"its record can not be understood: {error}", object=f"vm {record.name}"))
            continue
        if is_kept_up(spec):
            there = places.get(record.name, ())
            run = None if record.name in known else wanted.get(record.name, False)
            server = there[0] if len(there) == 1 else None
            found.append(ha_vm_of(spec, spec.ha, record.uuid, server=server, last_server=record.server, wanted=run, stop_timeout=record.stop_timeout))
    return found, problems


def vm_configuration(cib: Any, rules: PoolRules, vms: Iterable[HaVm], dropped: Collection[str] = ()) -> Any:
    """What Domus wants of the configuration when these are the pool's VMs: all that is no VM's stays as it is there.

    So do VMs of which nothing is said here, unless they are `dropped`: a record that can not be read takes no VM out of the pool.
    """
    found = cib.find("configuration")
    members, ids = _members(found)
    told = list(vms)
    there = {member.name for member in members}
    told = [dataclasses.replace(vm, preferred_servers=tuple(one for one in vm.preferred_servers if one in there)) for vm in told]
    names = {vm.name for vm in told}
    kept = known_vms(cib) - names - set(dropped)
    told = [dataclasses.replace(vm, start_after=tuple(one for one in vm.start_after if one in names | kept)) for vm in told]
    pool = Pool(rules.name, members, vms=tuple(told), start_policy=rules.start_policy, lock_patience=rules.lock_patience)
    wanted = wanted_configuration(pool, ids)
    _keep_strangers(found.find("nodes"), wanted.find("nodes"), set(ids))
    for section in wanted:
        if section.tag != "nodes":
            _keep_others(found.find(section.tag), section, {vm_id(name) for name in kept})
    if kept:
        _keep_room(found.find("nodes"), wanted.find("nodes"))
    return wanted


def _members(found: Any) -> tuple[tuple[Member, ...], dict[str, int]]:
    members, ids = [], {}
    for node in found.iterfind("nodes/node"):
        name = str(node.get("uname"))
        told = {str(pair.get("name")): str(pair.get("value")) for pair in node.iterfind("instance_attributes/nvpair")}
        if MEMORY in told:  # else it is no member yet: nobody has put it into the pool
            ids[name] = int(node.get("id"))
            tags = frozenset(one[len(TAG) :] for one in told if one.startswith(TAG))
            memory, cpus = int(told[MEMORY]) * UNITS["MiB"], int(told.get(CPUS, 0))
            evacuated, closed = told.get("standby") in ("on", "true"), told.get(CLOSED) == "1"
            members.append(Member(name, memory=memory, cpus=cpus, tags=tags, cpu_group=told.get(CPU_GROUP), evacuated=evacuated, closed=closed))
    return tuple(members), ids


def _keep_strangers(found: Any, wanted: Any, members: Collection[str]) -> None:
    """Servers of which it is not said what they have, as an older Domus left it out: what is ours there stays until the pool is applied again."""
    for node in found:
        if node.get("uname") not in members:
            stranger = copy.deepcopy(node)
            for child in [child for child in stranger if not is_ours(child.get("id", ""))]:
                stranger.remove(child)
            wanted.append(stranger)


def _keep_others(found: Optional[Any], wanted: Any, kept: Collection[str]) -> None:
    """Put what is ours there and no VM's, or one of the kept VMs', in place of what would be made here."""
    for child in list(wanted):
        if _owner(child) is None:
            wanted.remove(child)
    for child in () if found is None else found:
        owner = _owner(child)
        if is_ours(child.get("id", "")) and (owner is None or owner in kept):
            wanted.append(copy.deepcopy(child))


def _owner(element: Any) -> Optional[str]:
    """The VM that a resource or a constraint is about; None: no VM in particular."""
    identity = element.get("id") if element.tag == "primitive" else element.get("rsc") or element.get("then")
    return identity if identity is not None and identity.startswith(VM) else None


def _keep_room(found: Any, wanted: Any) -> None:
    """What the kept VMs need is not known here: servers have at least the room that they had."""
    before = {pair.get("id"): int(pair.get("value")) for pair in found.iterfind("node/utilization/nvpair") if is_ours(pair.get("id", ""))}
    for node in wanted:
        for pair in node.iterfind("utilization/nvpair"):
            pair.set("value", str(max(int(pair.get("value")), before.get(pair.get("id"), 0))))
