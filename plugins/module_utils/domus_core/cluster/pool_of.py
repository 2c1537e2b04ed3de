"""From what was asked of a pool and its VMs, and what is known of its servers, to what Corosync and Pacemaker are told."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..errors import Conflict
from ..model.fields import given
from ..model.secrets import Secret
from ..planning.capacity import Demand, demand_of
from .pool import FenceDevice, HaVm, Member, Pool, QuorumDevice

# Beyond the lease: until the server that holds the locks has noticed, and the next try has been made.
BEYOND_LEASE = 20
HA_FIELDS = ("priority", "start_after", "start_delay", "restart_limit", "restart_window", "preferred_servers", "start_policy")


@dataclasses.dataclass(frozen=True)
class ServerFacts:
    """What is known of a server: its addresses, what may be promised of it, and what its VMs without HA need."""

    addresses: tuple[str, ...]
    memory: int
    cpus: int
    tags: frozenset[str] = frozenset()
    cpu_group: Optional[str] = None
    evacuated: bool = False
    others: tuple[Demand, ...] = ()


def pool_of(spec: Any, facts: Mapping[str, ServerFacts], vms: Iterable[HaVm] = (), *, lease: Optional[int] = None) -> Pool:
    """The pool that a specification asks for; `lease` is that of its file system, in seconds. Raises Conflict when a server has no address for a link."""
    values: dict[str, Any] = {name: value for name, value in given(spec).items() if name in ("token", "start_policy")}
    if spec.quorum_device is not None:
        values["quorum_device"] = QuorumDevice(**given(spec.quorum_device))
    return Pool(
        spec.name,
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
        addresses=tuple(_address(name, facts.addresses, link) for link in heartbeat),
        memory=max(0, facts.memory - sum(vm.memory for vm in facts.others)),
        cpus=max(0, facts.cpus - sum(vm.cpus for vm in facts.others)),
        tags=facts.tags,
        cpu_group=facts.cpu_group,
        evacuated=facts.evacuated,
    )


def _address(server: str, addresses: Iterable[str], link: Any) -> str:
    subnet = ipaddress.ip_network(link.subnet)
    found = [one for one in addresses if ipaddress.ip_address(one) in subnet]
    if len(found) != 1:
        several = f"has several addresses in {link.subnet}: {', '.join(found)}" if found else f"has no address in {link.subnet}"
        raise Conflict(f"{server} {several}", field=f"heartbeat[{link.name}]", remedy="Each server needs one address on each heartbeat network")
    return found[0]


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


def secrets_of(spec: Any) -> dict[tuple[str, str], Secret]:
    """The secrets of a pool's fence devices by device and option: what goes into files of root's on each member."""
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
