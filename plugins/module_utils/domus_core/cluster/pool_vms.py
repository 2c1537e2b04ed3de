"""The VMs of a pool from any of its members, without the manager: listed; HA VMs started and stopped, by telling Pacemaker what is wanted of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..errors import Conflict, DomusError, DriverError, Forbidden, NotFound, Unreachable
from ..libvirt_driver.tools import run
from .cib import VM, vm_id
from .failures import look_anew
from .pacemaker import Pacemaker
from .pool_status import PoolStatus, read_status
from .records import PoolRecord
from .waiting_vms import with_waiting

STARTED, STOPPED = "Started", "Stopped"
SECONDS = 60.0
LOOK_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class PoolVm:
    """A VM of the pool. `servers`: where an HA VM runs; where another ran last, as its record says. `wanted`: Started or Stopped, None: nobody said."""

    name: str
    uuid: str
    is_ha: bool
    servers: tuple[str, ...] = ()
    wanted: Optional[str] = None
    problems: tuple[str, ...] = ()


def vms_of(cib: Any, status: PoolStatus, records: Iterable[PoolRecord]) -> list[PoolVm]:
    """All VMs by name: Pacemaker's, and those that only have a record."""
    found = []
    for one in cib.iterfind("configuration/resources//primitive[@type='vm'][@provider='domus']"):
        name = str(one.get("id")).removeprefix(VM)
        problems = tuple(problem.text for problem in status.problems if problem.about == name)
        wanted = _pairs(one, "meta_attributes").get("target-role")
        found.append(PoolVm(name, _pairs(one, "instance_attributes").get("uuid", ""), True, status.servers_of(name), wanted, problems))
    known = {vm.uuid for vm in found}
    others = [PoolVm(one.name, one.uuid, False, (one.server,) if one.server else ()) for one in records if one.uuid not in known]
    return sorted([*found, *others], key=lambda vm: (vm.name, vm.uuid))


def _pairs(element: Any, section: str) -> Mapping[str, str]:
    return {str(one.get("name")): str(one.get("value")) for one in element.iterfind(f"{section}/nvpair")}


def set_wanted(name: str, wanted: str, patience: float, check: bool = False) -> list[str]:
    """Have an HA VM run, or not run, and wait until it is so; returns what was changed.

    Raises NotFound for a VM that is none of Pacemaker's, Forbidden without quorum, Conflict when Pacemaker has done all it can and it is not so,
    Unreachable when that takes longer than `patience` seconds.
    """
    status = read_status()
    vm = _ha_vm(name, vms_of(Pacemaker().read(), status, ()))
    if vm.wanted == wanted and _is_so(vm.servers, wanted):
        return []
    if not status.is_quorate:
        raise Forbidden("this server has no quorum, so that nothing is started or stopped here", object=f"vm {name}", remedy="domus-agent pool status")
    if not check:
        told = ["--meta", "--set-parameter", "target-role", "--parameter-value", wanted]
        run(["crm_resource", "--resource", vm_id(name), *told], timeout=SECONDS, what=f"telling Pacemaker that {name} is to be {wanted.lower()}")
        _wait(name, wanted, patience)
    return [f"vm {name} {wanted.lower()}"]


def move(name: str, target: str, patience: float) -> None:
    """Have Pacemaker migrate an HA VM live to another server, and wait for it; where it can not, the VM runs on where it is.

    Raises NotFound, Conflict for a server that takes no VM or where Pacemaker sees no room, Forbidden without quorum, Unreachable after `patience` seconds,
    DriverError with the reason when the migration has failed.
    """
    status = read_status()
    vm = _ha_vm(name, vms_of(Pacemaker().read(), status, ()))
    if vm.servers == (target,):
        return
    _require_movable(vm, target, status)
    of_it = ["crm_resource", "--resource", vm_id(name)]
    run([*of_it, "--move", "--node", target, "--lifetime", f"PT{int(patience) + 60}S"], timeout=SECONDS, what=f"telling Pacemaker to move {name} to {target}")
    try:
        _wait_for_move(vm, target, patience)
    finally:
        run([*of_it, "--clear"], timeout=SECONDS, what=f"leaving {name} where it is")
        if vm_id(name) in read_status().failed:
            look_anew(vm_id(name))


def _require_movable(vm: PoolVm, target: str, status: PoolStatus) -> None:
    if not status.is_quorate:
        raise Forbidden("this server has no quorum, so that nothing is moved", object=f"vm {vm.name}", remedy="domus-agent pool status")
    if target not in status.members:
        raise NotFound("is not a member of this pool", object=f"server {target}", remedy=f"Members: {', '.join(sorted(status.members))}")
    if status.members[target] != "online":
        raise Conflict(f"is {status.members[target]}, so it takes no VM", object=f"server {target}", remedy="domus-agent pool status")
    if len(vm.servers) != 1:
        raise Conflict(
            "does not run, so it can not be moved live", object=f"vm {vm.name}", remedy="It starts wherever there is room: domus-agent pool start-vm"
        )


def _wait_for_move(vm: PoolVm, target: str, patience: float) -> None:
    """Until it is there, it has failed, or Pacemaker has nothing more to do."""
    end = time.monotonic() + patience
    while True:
        is_idle = _waited(LOOK_SECONDS) is None
        status = read_status()
        if status.servers_of(vm.name) == (target,):
            return
        failure = next((problem for problem in status.problems if problem.about == vm.name and problem.action.startswith("migrate")), None)
        if failure is not None:
            raise DriverError(f"was not moved: {failure.text}", object=f"vm {vm.name}", remedy="Mend what the reason names, then move it again")
        if is_idle:
            reason = f"{target} has no room for it, or a rule forbids it to run there"
            raise Conflict(f"was not moved: {reason}", object=f"vm {vm.name}", field="server", value=target, remedy="domus-agent pool status")
        if time.monotonic() > end:
            raise Unreachable(f"is not on {target} after {patience:g} s", object=f"vm {vm.name}", remedy="domus-agent pool status")


def _waited(seconds: float) -> Optional[DomusError]:
    """Wait so long for Pacemaker to have nothing more to do; None when that is so."""
    try:
        run(["crm_resource", "--wait", "--timeout", f"{seconds:g}s"], timeout=seconds + 10, what="waiting for Pacemaker")
    except DomusError as error:
        return error
    return None


def _ha_vm(name: str, vms: Iterable[PoolVm]) -> PoolVm:
    known = {vm.name: vm for vm in vms}
    if name not in known:
        raise NotFound(
            "is no HA VM of this pool",
            object=f"vm {name}",
            remedy="domus-agent pool vms lists them; the others: domus-agent start or domus-agent stop, on their server",
        )
    return known[name]


def _is_so(servers: tuple[str, ...], wanted: str) -> bool:
    return len(servers) == 1 if wanted == STARTED else not servers


def _wait(name: str, wanted: str, patience: float) -> None:
    """Until Pacemaker has nothing more to do; it may have to do with other VMs, too, so that what counts is how this one is then."""
    waited = _waited(patience)
    status = with_waiting(read_status())
    if _is_so(status.servers_of(name), wanted):
        return
    reasons = "; ".join(problem.text for problem in status.problems if problem.about == name)
    if waited is not None:
        raise Unreachable(f"is not {wanted.lower()} after {patience:g} s: {reasons or waited}", object=f"vm {name}", remedy="domus-agent pool status")
    reason = reasons or "no server has room for it, or is allowed to run it"
    raise Conflict(f"is not {wanted.lower()}: {reason}", object=f"vm {name}", remedy="Mend that, then: domus-agent pool clear")
