"""Pools for the tests."""

from __future__ import annotations

from typing import Any

from domus_core.cluster.pool import FenceDevice, HaVm, Member, Pool
from domus_core.model.quantities import UNITS

GIB = UNITS["GiB"]


def member(number: int, **more: Any) -> Member:
    """A server with one link."""
    return Member(f"srv{number}", (f"192.0.2.{number}",), **{"memory": 16 * GIB, "cpus": 32, **more})


def vm(name: str, **more: Any) -> HaVm:
    """A small HA VM."""
    return HaVm(name, f"uuid-of-{name}", **{"memory": GIB, "cpus": 1, "wanted": True, **more})


def pool(servers: int = 3, *vms: HaVm, **more: Any) -> Pool:
    """A pool with a fence device for each server."""
    members = more.pop("members", tuple(member(number) for number in range(1, servers + 1)))
    devices = tuple(FenceDevice(f"power-{one.name}", "fence_test", {one.name: ""}) for one in members)
    return Pool("rack1", members, **{"devices": devices, "vms": vms, **more})
