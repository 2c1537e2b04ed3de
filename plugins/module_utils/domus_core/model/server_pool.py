"""Kind server pool: servers that keep each other's VMs up. Its table; `kinds.py` does not know it yet, since nothing realizes it yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Optional

from ..errors import InvalidSpec
from .field_types import Choice, Flag, HostAddress, Integer, ListOf, Name, SecretText, Subnet, Text
from .fields import CREATION, Object, Objects, attribute
from .ha import MOST_SERVERS, START_POLICIES
from .kind import SITE, Kind, is_absent, presence


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
        Text(64, pattern=r"[^\s:;=]+", noun="a plug"), "What the device calls it: an outlet, a slot, a name.", default="its name", example="4"
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
    start_policy: Optional[str] = attribute(Choice(*START_POLICIES), "Where its VMs start, unless they say so themselves.", default="best", example="best")
    state: Optional[str] = presence()

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        return [] if is_absent(self) else list(self._contradictions())

    def _contradictions(self) -> Iterator[InvalidSpec]:
        if self.clustered is False:
            for name in ("heartbeat", "fencing", "quorum_device", "file_system"):
                if getattr(self, name):
                    yield InvalidSpec("goes only with a clustered pool", field=name)
        for device in self.fencing or ():
            for server in device.servers or ():
                if self.servers is not None and server.name not in self.servers:
                    yield InvalidSpec("is not a server of this pool", field=f"fencing[{device.name}].servers", value=server.name)


@dataclasses.dataclass(frozen=True)
class ServerPoolState:
    """What was measured of a pool."""

    quorate: bool = False
    members: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


SERVER_POOL_KIND = Kind("server_pool", "server_pools", ServerPoolSpec, ServerPoolState, SITE, "Servers that keep each other's VMs up.")
