"""HA VMs that are to run and run nowhere because no server may take them. Pacemaker's own scheduler is asked, with the configuration as it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Optional

from ..libvirt_driver.tools import run
from ..libvirt_driver.xml_fields import etree
from ..planning.placement import told_reasons
from .cib import CLOSED, vm_id
from .pool_problems import ACTION, BLOCKED, WAITS, Problem
from .pool_status import PoolStatus

NO_DEVICE = "Give the pool fence devices, and test them: domus pool fence-test"
REMEDY = "It starts by itself when a server has room: bring one back or wake it, add one, or stop or move other VMs"


def with_waiting(status: PoolStatus, timeout: float = 20.0) -> PoolStatus:
    """The status with a problem more for each VM that waits; one that the scheduler is about to start does not. Raises DriverError, Unreachable.

    What failed before is told of already, and without quorum nothing is started at all.
    """
    down = unexplained(status)
    if not down or not status.is_quorate:
        return status
    cib = run(["cibadmin", "--query"], timeout=timeout, what="reading the CIB").encode()
    # Names of anti-affinity groups are elements there, whatever they have in them.
    simulated = etree.fromstring(_simulated(cib, timeout), etree.XMLParser(recover=True))
    return dataclasses.replace(status, problems=(*status.problems, *waiting(etree.fromstring(cib), simulated, down)))


def unexplained(status: PoolStatus) -> list[str]:
    """The VMs that are down, and about which nothing is told that would say why."""
    told = {problem.about for problem in status.problems if problem.kind in (ACTION, BLOCKED)}
    return [name for name in status.down if name not in told]


@functools.lru_cache(maxsize=1)
def _simulated(cib: bytes, timeout: float) -> bytes:
    """What the scheduler would do. It takes seconds in a large pool, and a VM may wait for days: the same configuration is looked at once."""
    command = ["crm_simulate", "--xml-pipe", "--output-as=xml", "--show-utilization"]
    return run(command, timeout=timeout, input=cib, what="asking Pacemaker's scheduler").encode()


def waiting(cib: Any, simulated: Any, down: Collection[str]) -> tuple[Problem, ...]:
    """The problems of those `down` to which the scheduler gives no server. Pure."""
    assigned = {str(one.get("resource")) for one in simulated.iterfind("utilizations/utilization[@node]")}
    left = {str(one.get("node")): _amounts(one) for one in simulated.iterfind("utilizations/capacity[@comment='Remaining']")}
    return tuple(_problem(cib, simulated, name, left) for name in sorted(down) if vm_id(name) not in assigned)


def _problem(cib: Any, simulated: Any, name: str, left: Mapping[str, Mapping[str, int]]) -> Problem:
    if not _fences(cib, simulated):
        return Problem(WAITS, name, f"VM {name} waits: the pool has no fence device, and without one Pacemaker starts nothing", NO_DEVICE)
    pairs = cib.iterfind(f"configuration/resources/primitive[@id='{vm_id(name)}']/utilization/nvpair")
    needs = {str(one.get("name")): int(one.get("value")) for one in pairs}
    closed = {str(node.get("uname")) for node in cib.iterfind("configuration/nodes/node") if _is_closed(node)}
    reasons = {str(one.get("name")): _reason(one, needs, left, closed) for one in simulated.iterfind("cluster_status/nodes/node")}
    need = f"{needs.get('memory', 0)} MiB of memory and {needs.get('cpus', 0)} vCPUs"
    return Problem(WAITS, name, f"VM {name} waits for a server that may take it, with {need} left: {told_reasons(reasons)}", REMEDY)


def _fences(cib: Any, simulated: Any) -> bool:
    """Could the pool cut anybody, by a device or by the watchdogs of its servers?"""
    devices = (one for one in simulated.iterfind("cluster_status/resources//resource") if str(one.get("resource_agent")).startswith("stonith:"))
    watched = cib.find("configuration/crm_config//nvpair[@name='have-watchdog'][@value='true']")
    return watched is not None or next(devices, None) is not None


def _reason(node: Any, needs: Mapping[str, int], left: Mapping[str, Mapping[str, int]], closed: Collection[str]) -> str:
    """Why a server (`node` of crm_mon's form) does not take a VM."""
    if node.get("online") != "true":
        return "is away"
    if node.get("standby") == "true" or node.get("maintenance") == "true" or node.get("name") in closed:
        return "takes no VMs now"
    room = left.get(str(node.get("name")), {})
    lacks = next(_lacks(needs, room), None)
    return lacks or "may not run it: a rule forbids it, or it failed there"


def _lacks(needs: Mapping[str, int], room: Mapping[str, int]) -> Iterator[str]:
    for name, need in needs.items():
        there = room.get(name, 0)
        if there < need:
            told: Optional[str] = {"memory": f"has {there} MiB left", "cpus": f"has {there} vCPUs left"}.get(name)
            yield told or "has a VM that it must not be together with"


def _amounts(element: Any) -> dict[str, int]:
    return {str(one.tag): int(one.text or 0) for one in element}


def _is_closed(node: Any) -> bool:
    return any(pair.get("name") == CLOSED and pair.get("value") == "1" for pair in node.iterfind("instance_attributes/nvpair"))
