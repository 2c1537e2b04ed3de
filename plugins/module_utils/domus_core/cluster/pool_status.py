"""How the pool is, as Pacemaker sees it (`crm_mon`, as XML): members, VMs, and what needs somebody. Pure but for `read_status`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Optional

from ..libvirt_driver.tools import run
from ..libvirt_driver.xml_fields import etree
from .cib import vm_id

_KEY = re.compile(r"(.+?)_(migrate_to|migrate_from|[a-z-]+)_\d+")


@dataclasses.dataclass(frozen=True)
class PoolStatus:
    """`members` has each server's state (online, standby, pending, unclean, offline), `vms` has each resource of ours and the servers where it runs.

    `alerts` are what an operator must know: failed actions, failed fencing, servers that could not be cut, VMs that are blocked. `failed` are
    the resources with failed actions.
    """

    is_quorate: bool
    coordinator: Optional[str]
    members: Mapping[str, str]
    vms: Mapping[str, tuple[str, ...]]
    alerts: tuple[str, ...]
    failed: tuple[str, ...] = ()

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
    vms = {one.get("id"): tuple(node.get("name") for node in one.iterfind("node")) for one in root.iterfind("resources//resource")}
    return PoolStatus(
        is_quorate=center is not None and center.get("with_quorum") == "true",
        coordinator=None if center is None else center.get("name"),
        members={str(node.get("name")): _state(node) for node in root.iterfind("nodes/node")},
        vms={str(identity): servers for identity, servers in vms.items()},
        alerts=tuple([*_failed_actions(root), *_fencing(root), *_stuck(root)]),
        failed=tuple(sorted({_operation(one)[0] for one in root.iterfind("failures/failure")})),
    )


def _state(node: Any) -> str:
    if node.get("unclean") == "true":
        return "unclean"
    if node.get("online") != "true":
        return "offline"
    return next((word for word in ("pending", "standby", "maintenance") if node.get(word) == "true"), "online")


def _operation(failure: Any) -> tuple[str, str]:
    """Resource and action of a failure; both may have underscores in them."""
    told = _KEY.fullmatch(failure.get("op_key") or "")
    return (told[1], told[2]) if told else (str(failure.get("id")), str(failure.get("task")))


def _failed_actions(root: Any) -> list[str]:
    failures = []
    for one in root.iterfind("failures/failure"):
        resource, action = _operation(one)
        failures.append(f"{action} of {resource} failed on {one.get('node')}: {one.get('exitreason') or one.get('exitstatus')}")
    return failures


def _fencing(root: Any) -> list[str]:
    return [
        f"{event.get('action')} of {event.get('target')} failed: {event.get('exit-reason') or event.get('extended-status') or 'no device could do it'}"
        for event in root.iterfind("fence_history/fence_event")
        if event.get("status") == "failed"
    ]


def _stuck(root: Any) -> list[str]:
    servers = [f"{node.get('name')} is to be cut, and is not proven to be off" for node in root.iterfind("nodes/node") if node.get("unclean") == "true"]
    blocked = [f"{one.get('id')} is blocked" for one in root.iterfind("resources//resource") if one.get("blocked") == "true"]
    return servers + blocked
