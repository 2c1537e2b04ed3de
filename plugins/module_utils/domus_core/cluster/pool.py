"""What a clustered pool is, for whoever writes its configuration: members, fence devices, HA VMs. Checked, frozen, no I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Optional

from ..errors import Conflict, DomusError, InvalidSpec

MOST_MEMBERS = 32
BEST, BALANCED, CURRENT = "best", "balanced", "current"
STAY_OFF, RESTART = "stay_off", "restart"
# Until a quorum device has said for which half it votes (corosync-qdevice(8), sync_timeout: 30 s), neither half has quorum, and none may reset itself yet.
DEVICE_DECIDES = 35
# What Corosync takes: corosync.conf(5), linknumber.
MOST_LINKS = 8


@dataclasses.dataclass(frozen=True)
class Member:
    """A server of the pool: its address on each heartbeat network, in their order, and what VMs may have of it, memory in bytes.

    `memory` and `cpus` are what may be promised (planning/capacity.py), less what its VMs without HA need. `evacuated`: it takes no VM now, and those on it go;
    `closed`: it takes none, and those on it stay.
    """

    name: str
    addresses: tuple[str, ...] = ()
    memory: int = 0
    cpus: int = 0
    tags: frozenset[str] = frozenset()
    cpu_group: Optional[str] = None
    evacuated: bool = False
    closed: bool = False


@dataclasses.dataclass(frozen=True)
class FenceDevice:
    """A device that cuts the power of servers: agent and options as fence-agents name them; `servers` maps each server to its plug there ("" for none).

    `secrets` names the options that are secret: their values lie in files of root's, see `secret_path`.
    """

    name: str
    agent: str
    servers: Mapping[str, str]
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    level: int = 1


@dataclasses.dataclass(frozen=True)
class QuorumDevice:
    """A corosync-qnetd that gives a vote to one half of a pool that has split."""

    host: str
    algorithm: str = "ffsplit"


@dataclasses.dataclass(frozen=True)
class Watchdog:
    """Each member's watchdog resets it after `timeout` seconds without quorum; after twice that the others take it for reset."""

    timeout: int = 10


@dataclasses.dataclass(frozen=True)
class HaVm:
    """A VM that Pacemaker keeps up; `server` is where it runs now, `last_server` where it ran, `wanted` whether it is to run (None: as it is)."""

    name: str
    uuid: str
    memory: int
    cpus: int
    server: Optional[str] = None
    last_server: Optional[str] = None
    wanted: Optional[bool] = None
    priority: int = 0
    start_after: tuple[str, ...] = ()
    start_delay: int = 0
    restart_limit: int = 3
    restart_window: int = 600
    preferred_servers: tuple[str, ...] = ()
    start_policy: Optional[str] = None
    anti_affinity: frozenset[str] = frozenset()
    server_tags: frozenset[str] = frozenset()
    cpu_group: Optional[str] = None
    stop_timeout: int = 120


@dataclasses.dataclass(frozen=True)
class Pool:
    """A clustered pool. `lock_patience` is how many seconds a VM's start waits for the locks of a dead server to fall."""

    name: str
    members: tuple[Member, ...]
    devices: tuple[FenceDevice, ...] = ()
    vms: tuple[HaVm, ...] = ()
    token: int = 3000
    quorum_device: Optional[QuorumDevice] = None
    watchdog: Optional[Watchdog] = None
    start_policy: str = BEST
    lock_patience: int = 30


def secret_path(device: str, option: str) -> str:
    """The script that prints a secret of a fence device, on every member."""
    return f"/etc/domus/fencing/{device}.{option}"


def check_pool(pool: Pool) -> list[DomusError]:
    """The ways in which a pool contradicts itself; nothing is written for one that does."""
    problems = [*_check_members(pool), *_check_devices(pool), *_check_watchdog(pool), *_check_vms(pool)]
    return [problem.located(f"server_pool {pool.name}") for problem in problems]


def _check_members(pool: Pool) -> Iterator[DomusError]:
    if not 1 <= len(pool.members) <= MOST_MEMBERS:
        yield InvalidSpec(f"has 1 to {MOST_MEMBERS} servers", field="servers", value=len(pool.members))
    for name in _twice(member.name for member in pool.members):
        yield InvalidSpec("is named twice", field="servers", value=name)
    links = {len(member.addresses) for member in pool.members}
    if len(links) > 1 or not links <= set(range(1, MOST_LINKS + 1)):
        yield InvalidSpec(f"each server needs one address on each heartbeat network, of which there are 1 to {MOST_LINKS}", field="heartbeat")
    for address in _twice(address for member in pool.members for address in member.addresses):
        yield InvalidSpec("two servers, or two heartbeat networks of one, have the same address", field="heartbeat", value=address)


def _check_devices(pool: Pool) -> Iterator[DomusError]:
    members = {member.name for member in pool.members}
    for name in _twice(device.name for device in pool.devices):
        yield InvalidSpec("is named twice", field="fencing", value=name)
    for device in pool.devices:
        where = f"fencing[{device.name}]"
        for server in sorted(set(device.servers) - members):
            yield InvalidSpec("is not a server of this pool", field=f"{where}.servers", value=server)
        for option in device.secrets:
            if option in device.options:
                yield InvalidSpec("is given as a secret and in clear", field=f"{where}.options", value=option)
        if not 1 <= device.level <= 9:
            yield InvalidSpec("is a level from 1 to 9", field=f"{where}.level", value=device.level)
        if any(set(f"{server}{plug}") & set(":;= \t\n") for server, plug in device.servers.items()):
            yield InvalidSpec("a server's plug has no colon, semicolon, equals sign or space in it", field=f"{where}.servers")


def _check_watchdog(pool: Pool) -> Iterator[DomusError]:
    """Two that decide between themselves both have quorum: none would reset itself, and each would start the other's VMs."""
    if pool.watchdog is None:
        return
    if len(pool.members) == 2 and pool.quorum_device is None:
        yield InvalidSpec("needs three servers, or a quorum device: of two alone none loses quorum", field="watchdog", remedy="Add a server or a quorum_device")
    if pool.quorum_device is not None and pool.watchdog.timeout < DEVICE_DECIDES:
        remedy = f"Write {DEVICE_DECIDES} or more"
        yield InvalidSpec(
            f"is shorter than a quorum device takes to decide ({DEVICE_DECIDES} s)", field="watchdog.timeout", value=pool.watchdog.timeout, remedy=remedy
        )


def _check_vms(pool: Pool) -> Iterator[DomusError]:
    members, names = {member.name for member in pool.members}, {vm.name for vm in pool.vms}
    for name in _twice(vm.name for vm in pool.vms):
        yield InvalidSpec("two VMs have this name", field="vms", value=name)
    for vm in pool.vms:
        for server in sorted(set(vm.preferred_servers) - members):
            yield InvalidSpec("is not a server of the pool", field=f"vms[{vm.name}].ha.preferred_servers", value=server)
        for other in sorted(set(vm.start_after) - names):
            yield InvalidSpec("is not an HA VM of the pool", field=f"vms[{vm.name}].ha.start_after", value=other)
    circle = _circle({vm.name: vm.start_after for vm in pool.vms})
    if circle:
        yield InvalidSpec(f"VMs wait for each other: {' -> '.join(circle)}", field="vms.ha.start_after", remedy="Take one of them out")


def fencing_problems(pool: Pool, tested: Iterable[str]) -> list[DomusError]:
    """Why this pool may have no HA VMs: each server must be cut by a device whose test (`tested`: names) has passed, or reset itself."""
    passed = set(tested)
    problems: list[DomusError] = []
    for member in pool.members:
        devices = [device for device in pool.devices if member.name in device.servers]
        untested = [device.name for device in devices if device.name not in passed]
        if not devices and pool.watchdog is None:
            problems.append(Conflict("no fence device can cut its power: HA would start its VMs on hope", field="fencing", value=member.name))
        elif untested:
            problems.append(
                Conflict(f"these fence devices of {member.name} have not passed a test: {', '.join(untested)}", field="fencing", remedy="domus pool fence-test")
            )
    return [problem.located(f"server_pool {pool.name}") for problem in problems]


def _twice(values: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({value for value in values if value in seen or seen.add(value)})  # type: ignore[func-returns-value]


def _circle(after: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names along which waiting goes in a circle, or nothing: whoever waits for nobody is taken away until nobody is left."""
    left = {name: set(others) & after.keys() for name, others in after.items()}
    while True:
        free = {name for name, others in left.items() if not others}
        if not free:
            break
        left = {name: others - free for name, others in left.items() if name not in free}
    path: list[str] = []
    name = min(left, default="")
    while name and name not in path:
        path.append(name)
        name = min(left[name])
    return [*path[path.index(name) :], name] if name else []
