"""How the pool is, as Pacemaker sees it (`crm_mon`, as XML): members, VMs, and what needs somebody. Pure but for `read_status`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from ..libvirt_driver.tools import run
from ..libvirt_driver.xml_fields import etree
from .cib import DEVICE, VM, vm_id
from .pool_problems import Problem, operation_of, problems_of


@dataclasses.dataclass(frozen=True)
class PoolStatus:
    """`members` has each server's state (online, standby, pending, unclean, offline), `vms` has each resource of ours and the servers where it runs.

    `problems` are what an operator must know: failed actions, failed fencing, servers that could not be cut, VMs that are blocked. `failed` are
    the resources with failed actions. `devices` has for each fence device the servers that watch it now; one that works is watched by somebody.
    `down` are the VMs (by name) that are to run and run nowhere.
    """

    is_quorate: bool
    coordinator: Optional[str]
    members: Mapping[str, str]
    vms: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
    failed: tuple[str, ...] = ()
    devices: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    down: tuple[str, ...] = ()

    @property
    def alerts(self) -> tuple[str, ...]:
        """The problems as lines."""
        return tuple(map(str, self.problems))

    def servers_of(self, vm: str) -> tuple[str, ...]:
        """Where Pacemaker thinks that a VM runs."""
        return self.vms.get(vm_id(vm), ())


def read_status(timeout: float = 20.0) -> PoolStatus:
    """The status as this server's Pacemaker tells it. Raises DriverError, Unreachable."""
    return status_from(run(["crm_mon", "--one-shot", "--output-as=xml", "--inactive"], timeout=timeout, what="asking Pacemaker").encode())


def status_from(text: bytes) -> PoolStatus:
    """The status in the output of crm_mon."""
    root = etree.fromstring(text)
    center = root.find("summary/current_dc")
    resources = {str(one.get("id")): tuple(str(node.get("name")) for node in one.iterfind("node")) for one in root.iterfind("resources//resource")}
    devices = {str(one.get("id")) for one in root.iterfind("resources//resource") if str(one.get("resource_agent")).startswith("stonith:")}
    return PoolStatus(
        is_quorate=center is not None and center.get("with_quorum") == "true",
        coordinator=None if center is None else center.get("name"),
        members={str(node.get("name")): _state(node) for node in root.iterfind("nodes/node")},
        vms=resources,
        problems=problems_of(root),
        failed=tuple(sorted({operation_of(one)[0] for one in root.iterfind("failures/failure")})),
        devices={name.removeprefix(DEVICE): resources[name] for name in sorted(devices)},
        down=tuple(str(one.get("id"))[len(VM) :] for one in root.iterfind("resources//resource") if _is_down(one)),
    )


def _is_down(resource: Any) -> bool:
    is_wanted = resource.get("target_role") == "Started" and resource.get("managed") == "true"
    return is_wanted and str(resource.get("id")).startswith(VM) and resource.get("role") == "Stopped"


def _state(node: Any) -> str:
    if node.get("unclean") == "true":
        return "unclean"
    if node.get("online") != "true":
        return "offline"
    return next((word for word in ("pending", "standby", "maintenance") if node.get(word) == "true"), "online")
