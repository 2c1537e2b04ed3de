"""Kind server pool: servers that belong together; clustered, they keep each other's VMs up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

from ..errors import InvalidSpec
from .field_types import Choice, Flag, HostAddress, Integer, IpAddress, ListOf, Name, SecretText, Size, Subnet, Text
from .fields import CREATION, IGNORE, Object, Objects, attribute, fields_of, given, make, merge
from .ha import MOST_SERVERS, START_POLICIES
from .kind import SITE, Kind, is_absent, presence
from .policy import PolicySpec

# What a pool keeps on its file system: records of its VMs, and locks of their disks, which virtlockd begins before anybody.
POOL_FOLDERS = RECORDS, LOCKS = ("records", "lockspace")


@dataclasses.dataclass(frozen=True)
class HeartbeatSpec:
    """A network on which the servers of a pool hear each other; None means not managed."""

    name: str = attribute(Name(), "Name of the link.", required=True, example="storage")
    subnet: Optional[str] = attribute(Subnet(), "Each server's address in this subnet is used; it must have one.", required=True, example="192.0.2.0/24")


@dataclasses.dataclass(frozen=True)
class FencedServerSpec:
    """A server that a fence device can cut; None means not managed."""

    name: str = attribute(Name(), "The server.", required=True, example="srv1")
    plug: Optional[str] = attribute(
        Text(64, pattern=r"[A-Za-z0-9_][A-Za-z0-9_.,+@-]*", noun="a plug"),
        "What the device calls it: an outlet, a slot, a name.",
        default="its name",
        example="4",
    )


@dataclasses.dataclass(frozen=True)
class FenceOptionSpec:
    """An option of a fence agent, as its metadata names it; None means not managed."""

    name: str = attribute(Text(63, pattern=r"[a-z][a-z0-9_]*", noun="an option"), "Name of the option.", required=True, example="ip")
    value: Optional[str] = attribute(Text(1000), "Its value, in clear.", example="192.0.2.101")
    secret: Optional[str] = attribute(
        SecretText(1000), "Its value, kept in a file of root's: for options that have a twin NAME_script, as password has.", secret=True, example="s3cret"
    )

    def check(self) -> list[InvalidSpec]:
        """A value is in clear or secret."""
        if (self.value is None) == (self.secret is None):
            return [InvalidSpec("needs a value or a secret, and not both", field="value")]
        return []


@dataclasses.dataclass(frozen=True)
class FenceDeviceSpec:
    """A device that cuts the power of servers; None means not managed."""

    name: str = attribute(Name(), "Name of the device.", required=True, example="bmc-srv1")
    agent: Optional[str] = attribute(
        Text(63, pattern=r"fence_[a-z0-9_]+", noun="a fence agent"), "The agent, of Debian's package fence-agents.", required=True, example="fence_ipmilan"
    )
    servers: Optional[tuple[FencedServerSpec, ...]] = attribute(Objects(FencedServerSpec, most=MOST_SERVERS), "The servers that it can cut.", required=True)
    options: Optional[tuple[FenceOptionSpec, ...]] = attribute(Objects(FenceOptionSpec), "Options of the agent.")
    level: Optional[int] = attribute(
        Integer(1, 9), "Devices of level 2 are tried where those of level 1 have failed; all of a level must succeed.", default=1, example=1
    )


@dataclasses.dataclass(frozen=True)
class QuorumDeviceSpec:
    """A corosync-qnetd outside of the pool that has a vote; None means not managed."""

    host: Optional[str] = attribute(HostAddress(), "Where it runs.", required=True, example="quorum.example.org")
    algorithm: Optional[str] = attribute(
        Choice("ffsplit", "lms"), "`ffsplit` for an even number of servers; `lms` lets the last server go on.", default="ffsplit", example="ffsplit"
    )
    state: Optional[str] = presence("Whether it has a vote in the pool.")


@dataclasses.dataclass(frozen=True)
class WatchdogSpec:
    """The watchdog of each server, which resets it when it has lost the others; None means not managed."""

    timeout: Optional[int] = attribute(
        Integer(5, 300),
        "Seconds without quorum after which a server resets itself; the others wait twice as long before they start its VMs.",
        effect=CREATION,
        default=10,
        example=10,
    )
    state: Optional[str] = presence("Whether servers reset themselves.")


@dataclasses.dataclass(frozen=True)
class PoolMemberSpec:
    """What the members of a pool are told of one of them; sizes in bytes. None means not managed."""

    name: str = attribute(Name(), "The server.", required=True, example="srv1")
    host: Optional[str] = attribute(
        Text(64, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", noun="a host name"), "What it calls itself, and Corosync and Pacemaker call it.", example="srv1"
    )
    node_id: Optional[int] = attribute(Integer(1, 2**31 - 1), "Its number, which it keeps.", example=1)
    addresses: Optional[tuple[str, ...]] = attribute(ListOf(IpAddress(), most=8), "Its address on each heartbeat network.", example=["192.0.2.11"])
    memory: Optional[int] = attribute(Size(), "What VMs may have of it.", compare=IGNORE, example="60GiB")
    cpus: Optional[int] = attribute(Integer(0, 1_000_000), "How many virtual CPUs may be placed on it.", compare=IGNORE, example=32)
    tags: Optional[tuple[str, ...]] = attribute(ListOf(Name()), "Its tags.", compare=IGNORE, example=["ssd"])
    cpu_group: Optional[str] = attribute(Text(), "Its CPU compatibility group.", compare=IGNORE, example="rack1-cpus")


@dataclasses.dataclass(frozen=True)
class ClusterSpec:
    """What the manager tells the members of a clustered pool of each other; None means not managed."""

    members: Optional[tuple[PoolMemberSpec, ...]] = attribute(Objects(PoolMemberSpec, most=MOST_SERVERS), "All members, in the order of `servers`.")
    authkey: Optional[str] = attribute(SecretText(2000), "Corosync's key, in base64.", secret=True, example="bm90IGEga2V5")


@dataclasses.dataclass(frozen=True)
class ServerPoolSpec:
    """What is wanted of a server pool; None means not managed."""

    name: str = attribute(Name(), "Name, unique in the site.", required=True, example="rack1")
    description: Optional[str] = attribute(Text(4000, multiline=True), "Free text.", example="the rack at the door")
    servers: Optional[tuple[str, ...]] = attribute(ListOf(Name(), most=MOST_SERVERS), "Its members.", example=["srv1", "srv2", "srv3"])
    clustered: Optional[bool] = attribute(
        Flag(), "Corosync and Pacemaker run on its servers: HA, records of its VMs, disk locks.", effect=CREATION, default=True, example=True
    )
    heartbeat: Optional[tuple[HeartbeatSpec, ...]] = attribute(Objects(HeartbeatSpec, most=8), "The networks on which its servers hear each other.")
    token: Optional[int] = attribute(Integer(1000, 30000), "Milliseconds of silence after which a server counts as lost.", default=3000, example=3000)
    file_system: Optional[str] = attribute(
        Name(),
        "The repository that holds the records of its VMs and their disk locks: on NFS version 4, or one that says `shared`. Best one of its own.",
        effect=CREATION,
        example="rack1-pool",
    )
    fencing: Optional[tuple[FenceDeviceSpec, ...]] = attribute(Objects(FenceDeviceSpec, most=128), "The devices that cut the power of its servers.")
    quorum_device: Optional[QuorumDeviceSpec] = attribute(Object(QuorumDeviceSpec), "A vote from outside, for two or another even number of servers.")
    watchdog: Optional[WatchdogSpec] = attribute(
        Object(WatchdogSpec),
        "Each server resets itself when it has no quorum: for servers whose power nobody can cut. When nobody has quorum all reset themselves. Needs three "
        "servers or a quorum device.",
    )
    untested_fencing: Optional[bool] = attribute(
        Flag(),
        "HA is allowed although a fence device has not passed a test: when that device fails, the VMs of a server that died stay down. Shown as a problem.",
        default=False,
        example=False,
    )
    start_policy: Optional[str] = attribute(Choice(*START_POLICIES), "Where its VMs start, unless they say so themselves.", default="best", example="best")
    policy: Optional[PolicySpec] = attribute(Object(PolicySpec), "How the manager keeps its servers balanced, or few of them on; nothing is done without.")
    cluster: Optional[ClusterSpec] = attribute(Object(ClusterSpec), "What the manager tells its members of each other.", compare=IGNORE, internal=True)
    state: Optional[str] = presence("Whether it is to exist. `absent` ends it; it is refused while HA VMs run in it.")

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        return [] if is_absent(self) else list(self._contradictions())

    def _contradictions(self) -> Iterator[InvalidSpec]:
        if self.clustered is False:
            for name in ("heartbeat", "fencing", "quorum_device", "watchdog", "file_system", "untested_fencing"):
                if getattr(self, name):
                    yield InvalidSpec("goes only with a clustered pool", field=name)
        if self.servers == ():
            yield InvalidSpec("names no server", field="servers", remedy="Name one; to end the pool write state: absent")
        for device in self.fencing or ():
            for server in device.servers or ():
                if self.servers is not None and server.name not in self.servers:
                    yield InvalidSpec("is not a server of this pool", field=f"fencing[{device.name}].servers", value=server.name)


@dataclasses.dataclass(frozen=True)
class ServerPoolState:
    """What was measured of a pool on one of its servers; `lease` in seconds.

    `registered` is False for a cluster that a role has made and no document has named yet. `members` are those that are online, and `vms` the HA VMs
    that run here. `amiss` is what is not as it was written here: files, services, Pacemaker's configuration. `lease` is after how long the locks of
    a server that died fall, None when the pool file system does not tell.
    """

    registered: bool = True
    joined: bool = False
    quorate: bool = False
    members: tuple[str, ...] = ()
    vms: tuple[str, ...] = ()
    amiss: tuple[str, ...] = ()
    lease: Optional[int] = None


def is_clustered(spec: Any) -> bool:
    """Do Corosync and Pacemaker run on the servers of this pool?"""
    return spec.clustered is not False


def host_of(member: Any) -> str:
    """What Corosync and Pacemaker call a member."""
    return str(member.host or member.name)


def has_quorum_device(spec: Any) -> bool:
    """Is there a vote from outside?"""
    return spec.quorum_device is not None and not is_absent(spec.quorum_device)


def has_watchdog(spec: Any) -> bool:
    """Do its servers reset themselves?"""
    return spec.watchdog is not None and not is_absent(spec.watchdog)


def completed_pool(wanted: Any, found: Any = None) -> Any:
    """The specification of a pool after what is `wanted`: a list that is given is the whole list, what is left out stays."""
    values = {**({"clustered": True} if found is None else given(found))}
    for field in fields_of(ServerPoolSpec):
        before, value = values.get(field.name), getattr(wanted, field.name)
        if value is not None and field.name != "state":
            is_part = isinstance(field.type, Object) and not field.internal and before is not None
            values[field.name] = merge(before, value) if is_part else value
    for name in ("quorum_device", "watchdog"):
        if values.get(name) is not None and is_absent(values[name]):
            del values[name]
    return make(ServerPoolSpec, values)


SERVER_POOL_KIND = Kind("server_pool", "server_pools", ServerPoolSpec, ServerPoolState, SITE, "Servers that belong together; clustered, they keep VMs up.")
