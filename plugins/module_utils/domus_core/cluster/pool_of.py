"""From what was asked of a pool and its VMs, and what is known of its servers, to what Corosync and Pacemaker are told."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..errors import Conflict
from ..model.fields import given
from ..model.secrets import Secret
from ..model.server_pool import has_quorum_device, has_watchdog, host_of
from ..planning.capacity import Demand, demand_of
from .pool import FenceDevice, HaVm, Member, Pool, QuorumDevice, Watchdog
from .pool_document import PoolDocument

# Beyond the lease: until the server that holds the locks has noticed, and the next try has been made.
BEYOND_LEASE = 20
HA_FIELDS = ("priority", "start_after", "start_delay", "restart_limit", "restart_window", "preferred_servers", "start_policy")


@dataclasses.dataclass(frozen=True)
class ServerFacts:
    """What is known of a server: its addresses, what may be promised of it, and what its VMs without HA need.

    `address` is where its manager reaches it: its only link in a pool that names no heartbeat networks.
    `known` are its addresses as a member so far: they decide where it has several, for a service's address is on it for a while.
    """

    addresses: tuple[str, ...]
    memory: int
    cpus: int
    tags: frozenset[str] = frozenset()
    cpu_group: Optional[str] = None
    evacuated: bool = False
    others: tuple[Demand, ...] = ()
    address: Optional[str] = None
    known: tuple[str, ...] = ()


def pool_of(spec: Any, facts: Mapping[str, ServerFacts], vms: Iterable[HaVm] = (), *, lease: Optional[int] = None) -> Pool:
    """The pool that a specification asks for; `lease` is that of its file system, in seconds. Raises Conflict when a server has no address for a link."""
    values: dict[str, Any] = {name: value for name, value in given(spec).items() if name in ("token", "start_policy")}
    return Pool(
        spec.name,
        quorum_device=_quorum_device(spec),
        watchdog=_watchdog(spec),
        members=tuple(member_of(name, facts[name], spec.heartbeat or ()) for name in spec.servers or ()),
        devices=tuple(map(device_of, spec.fencing or ())),
        vms=tuple(vms),
        lock_patience=(lease or 0) + BEYOND_LEASE,
        **values,
    )


def member_of(name: str, facts: ServerFacts, heartbeat: Iterable[Any]) -> Member:
    """A server as a member: its address on each link, and its room without what VMs without HA need."""
    return Member(
        name,
        addresses=tuple(_address(name, facts, link) for link in heartbeat) or _only_address(name, facts),
        memory=max(0, facts.memory - sum(vm.memory for vm in facts.others)),
        cpus=max(0, facts.cpus - sum(vm.cpus for vm in facts.others)),
        tags=facts.tags,
        cpu_group=facts.cpu_group,
        evacuated=facts.evacuated,
    )


def _address(server: str, facts: ServerFacts, link: Any) -> str:
    subnet = ipaddress.ip_network(link.subnet)
    found = [one for one in facts.addresses if ipaddress.ip_address(one) in subnet]
    if len(found) == 1:
        return found[0]
    for own in (*facts.known, facts.address):
        if own in found:
            return str(own)
    several = f"has several addresses in {link.subnet}: {', '.join(found)}" if found else f"has no address in {link.subnet}"
    raise Conflict(f"{server} {several}", field=f"heartbeat[{link.name}]", remedy="Each server needs one address on each heartbeat network")


def _only_address(server: str, facts: ServerFacts) -> tuple[str, ...]:
    if facts.address is None:
        raise Conflict(f"{server} is known by a name, not by an address", field="heartbeat", remedy="Name the networks on which the servers hear each other")
    return (facts.address,)


def device_of(spec: Any) -> FenceDevice:
    """A fence device; of its secrets only the names."""
    options = spec.options or ()
    return FenceDevice(
        spec.name,
        spec.agent,
        servers={server.name: server.plug or "" for server in spec.servers or ()},
        options={option.name: option.value for option in options if option.value is not None},
        secrets=tuple(option.name for option in options if option.secret is not None),
        level=spec.level or 1,
    )


def pool_on_member(spec: Any) -> Pool:
    """The pool as its members run it, by what the manager told them; servers have the names there that they have for themselves."""
    members = spec.cluster.members or ()
    hosts = {member.name: host_of(member) for member in members}
    values: dict[str, Any] = {name: value for name, value in given(spec).items() if name in ("token", "start_policy")}
    return Pool(
        spec.name,
        members=tuple(
            Member(host_of(one), one.addresses or (), one.memory or 0, one.cpus or 0, frozenset(one.tags or ()), one.cpu_group or None) for one in members
        ),
        devices=tuple(_called(device_of(device), hosts) for device in spec.fencing or ()),
        quorum_device=_quorum_device(spec),
        watchdog=_watchdog(spec),
        **values,
    )


def _called(device: FenceDevice, hosts: Mapping[str, str]) -> FenceDevice:
    """The device with the names that servers have for themselves; the plug of one is its name in the document."""
    servers = {hosts.get(name, name): plug or ("" if hosts.get(name, name) == name else name) for name, plug in device.servers.items()}
    return dataclasses.replace(device, servers=servers)


def _quorum_device(spec: Any) -> Optional[QuorumDevice]:
    if not has_quorum_device(spec):
        return None
    return QuorumDevice(**{name: value for name, value in given(spec.quorum_device).items() if name != "state"})


def _watchdog(spec: Any) -> Optional[Watchdog]:
    if not has_watchdog(spec):
        return None
    return Watchdog() if spec.watchdog.timeout is None else Watchdog(spec.watchdog.timeout)


def member_document(spec: Any, settings: Mapping[str, Any]) -> PoolDocument:
    """What this member is told of its pool, with the secrets that the specification has; of the others only that there is one."""
    secrets: dict[str, dict[str, Optional[str]]] = {}
    for (device, option), secret in secrets_of(spec).items():
        secrets.setdefault(device, {})[option] = secret.reveal() if isinstance(secret, Secret) else None
    key = spec.cluster.authkey
    members = spec.cluster.members or ()
    ids = {host_of(member): int(member.node_id) for member in members}
    hosts = {member.name: host_of(member) for member in members if host_of(member) != member.name}
    more: dict[str, Any] = {**({"untested_fencing": True} if spec.untested_fencing else {}), **({"hosts": hosts} if hosts else {})}
    return PoolDocument(pool_on_member(spec), ids, key.reveal() if isinstance(key, Secret) else "", secrets, {**settings, **more}, keeps_vms=True)


def secrets_of(spec: Any) -> dict[tuple[str, str], Any]:
    """The secrets of a pool's fence devices (or what is kept of them) by device and option: what goes into files of root's on each member."""
    return {(device.name, option.name): option.secret for device in spec.fencing or () for option in device.options or () if option.secret is not None}


def ha_vm_of(
    spec: Any,
    ha: Any,
    uuid: str,
    *,
    server: Optional[str] = None,
    last_server: Optional[str] = None,
    wanted: Optional[bool] = None,
    stop_timeout: int = 120,
) -> HaVm:
    """A VM as Pacemaker is to keep it up, of its specification and its HA fields; `stop_timeout`: the seconds that its guest gets to shut down."""
    demand = demand_of(spec)
    return HaVm(
        spec.name,
        uuid,
        memory=demand.memory,
        cpus=demand.cpus,
        server=server,
        last_server=last_server,
        wanted=wanted,
        anti_affinity=demand.anti_affinity,
        server_tags=demand.server_tags,
        cpu_group=demand.cpu_group,
        stop_timeout=stop_timeout if spec.stop_timeout is None else spec.stop_timeout,
        **{name: value for name, value in given(ha).items() if name in HA_FIELDS},
    )
