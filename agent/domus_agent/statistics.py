"""Figures of the server and its running VMs, in one call; a QEMU that hangs is left out of them, and delays nobody."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, Callable, Optional

from domus_core.errors import DomusError
from domus_core.libvirt_driver.bounded import bounded
from domus_core.libvirt_driver.connection import connect, libvirt, told
from domus_core.libvirt_driver.registry import Registry
from domus_core.libvirt_driver.repository import registered_places
from domus_core.libvirt_driver.vm_power import STATES
from domus_core.storage_connect.storage import Storage

from .host_figures import host_figures

LIMIT = 5.0
_GROUPS = ("STATE", "CPU_TOTAL", "BALLOON", "VCPU", "INTERFACE", "BLOCK")
_FLAGS = ("ACTIVE", "NOWAIT")
# vCPUs, and memory in bytes
_Size = tuple[Optional[int], ...]


class Statistics:
    """Figures on request; `collect` may be called from any thread and takes 5 seconds at most.

    `resized` hears of the VMs (UUIDs) that have other vCPUs or memory than at the round before, and of those that were not in it: who looked
    at them earlier may have looked too early.
    """

    def __init__(self, uri: str, state_directory: str) -> None:
        self._uri = uri
        self._registry = Registry(os.path.join(state_directory, "objects"))
        self._storage = Storage()
        self._asking = threading.Lock()
        self._cpu: Optional[tuple[int, int]] = None
        self._sizes: dict[str, _Size] = {}
        self.resized: Callable[[Collection[str]], None] = lambda uuids: None

    def collect(self) -> dict[str, Any]:
        """The figures now: {at, vms: {uuid: ...} or None when libvirt does not tell them, host}. Sizes and traffic in bytes since the start, times in ns."""
        vms = self._vms()
        if vms is not None:
            self._compare({uuid: _size_of(found) for uuid, found in vms.items()})
        return {"at": time.time(), "vms": vms, "host": self._host()}

    def _compare(self, sizes: dict[str, _Size]) -> None:
        """Tell whose size has changed; what is not told this time is what it was."""
        before, self._sizes = self._sizes, {}
        for uuid, size in sizes.items():
            known = before.get(uuid, size)
            self._sizes[uuid] = tuple(was if now is None else now for now, was in zip(size, known))
        changed = [uuid for uuid, size in self._sizes.items() if before.get(uuid) != size]
        if changed:
            self.resized(changed)

    def _vms(self) -> Optional[dict[str, Any]]:
        if not self._asking.acquire(blocking=False):  # an earlier question has had no answer yet
            return None
        try:
            return dict(bounded(self._ask, LIMIT, "asking for statistics"))
        except (DomusError, libvirt.libvirtError):
            return None

    def _ask(self) -> dict[str, Any]:
        try:
            with told("asking for statistics"), contextlib.closing(connect(self._uri)) as connection:
                groups, flags = (
                    sum(getattr(libvirt, prefix + name, 0) for name in names)
                    for prefix, names in (("VIR_DOMAIN_STATS_", _GROUPS), ("VIR_CONNECT_GET_ALL_DOMAINS_STATS_", _FLAGS))
                )
                return {domain.UUIDString(): figures(values) for domain, values in connection.getAllDomainStats(groups, flags)}
        finally:
            self._asking.release()

    def _host(self) -> dict[str, Any]:
        told = host_figures()
        return {**told, "cpu": self._busy_share(told["cpu_ticks"], told["cpu_idle_ticks"]), "file_systems": self._file_systems()}

    def _busy_share(self, ticks: Optional[int], idle: Optional[int]) -> Optional[float]:
        """How busy the processors were since the last question: 0 to 1; None at the first."""
        before, self._cpu = self._cpu, None if ticks is None or idle is None else (ticks, idle)
        if before is None or self._cpu is None or self._cpu[0] == before[0]:
            return None
        return round(max(0.0, 1 - (self._cpu[1] - before[1]) / (self._cpu[0] - before[0])), 4)

    def _file_systems(self) -> dict[str, dict[str, Any]]:
        """Size and room of the repositories' file systems, in bytes; one that is not there is left out."""
        try:
            specs = registered_places(self._registry, self._storage).repositories
        except DomusError:  # a damaged note of one
            return {}
        states = self._storage.measure_all({name: (spec, "") for name, spec in specs.items()})
        return {name: {"path": spec.path, "size": state.capacity, "free": state.free} for name, (spec, state) in states.items() if state.available}


def figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """One VM's figures of libvirt's; None is what this libvirt, or this moment, does not tell."""
    memory = values.get("balloon.current")
    return {
        "state": STATES.get(values.get("state.state", 0), "stopped"),
        "cpu_time_ns": values.get("cpu.time"),
        "vcpus": values.get("vcpu.current"),
        "memory": None if memory is None else memory * 1024,
        "disk_read": _sum(values, "block", "rd.bytes"),
        "disk_written": _sum(values, "block", "wr.bytes"),
        "net_received": _sum(values, "net", "rx.bytes"),
        "net_sent": _sum(values, "net", "tx.bytes"),
    }


def _size_of(found: Mapping[str, Any]) -> _Size:
    return found["vcpus"], found["memory"]


def _sum(values: Mapping[str, Any], group: str, name: str) -> Optional[int]:
    count = values.get(f"{group}.count")
    return None if count is None else sum(values.get(f"{group}.{number}.{name}", 0) for number in range(count))
