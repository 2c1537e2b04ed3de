"""Kind network: what VMs are connected to."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Optional

from ..errors import InvalidSpec
from .field_types import Choice, Flag, Integer, IpAddress, ListOf, MacAddress, Name, Subnet, Text
from .fields import IGNORE, RESTART, Object, Objects, attribute
from .kind import SITE, Kind, placement

HOST_NAME = Text(253, pattern=r"[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*", noun="a host name")
INTERFACE = Text(15, pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*", noun="the name of a network interface")


@dataclasses.dataclass(frozen=True)
class ReservationSpec:
    """A fixed address for one MAC address."""

    name: str = attribute(HOST_NAME, "Host name given with the address; also what the reservation is known by.", required=True, xpath="./@name", example="web1")
    mac: Optional[str] = attribute(MacAddress(), "The MAC address that gets it.", required=True, xpath="./@mac", example="52:54:00:00:00:01")
    address: Optional[str] = attribute(IpAddress(), "The address given.", required=True, xpath="./@ip", example="192.0.2.10")


@dataclasses.dataclass(frozen=True)
class DhcpSpec:
    """The addresses that are given out."""

    start: Optional[str] = attribute(IpAddress(), "First address given out.", effect=RESTART, required=True, example="192.0.2.100")
    end: Optional[str] = attribute(IpAddress(), "Last address given out.", effect=RESTART, required=True, example="192.0.2.200")
    reservations: Optional[tuple[ReservationSpec, ...]] = attribute(Objects(ReservationSpec, most=4096), "Fixed addresses; those not mentioned stay.")


@dataclasses.dataclass(frozen=True)
class DnsHostSpec:
    """A name that the network's own DNS answers."""

    name: str = attribute(HOST_NAME, "The host name answered; what the entry is known by.", required=True, example="db.example.org")
    address: Optional[str] = attribute(IpAddress(), "Its address.", required=True, example="192.0.2.11")


@dataclasses.dataclass(frozen=True)
class DnsSpec:
    """The name service of the network."""

    enabled: Optional[bool] = attribute(
        Flag(), "Answer DNS queries of the VMs.", effect=RESTART, xpath="./dns/@enable", words=("yes", "no"), default=True, example=True
    )
    domain: Optional[str] = attribute(HOST_NAME, "DNS domain of the VMs.", effect=RESTART, xpath="./domain/@name", example="lan.example.org")
    forwarders: Optional[tuple[str, ...]] = attribute(ListOf(IpAddress(), most=8), "DNS servers asked for other names.", effect=RESTART, example=["192.0.2.53"])
    hosts: Optional[tuple[DnsHostSpec, ...]] = attribute(Objects(DnsHostSpec, most=4096), "Names answered; those not mentioned stay.")


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What is wanted of a network; None means not managed."""

    name: str = attribute(Name(), "Name, unique in the site.", required=True, example="lan")
    mode: Optional[str] = attribute(
        Choice("nat", "routed", "isolated", "bridge"),
        "`nat`: VMs reach outside behind the server's address; `routed`: with their own; `isolated`: only each other; `bridge`: on a bridge of the server.",
        effect=RESTART,
        default="nat",
        example="nat",
    )
    bridge: Optional[str] = attribute(
        INTERFACE, "The server's bridge to use (mode bridge), or the name of the bridge to make.", effect=RESTART, xpath="./bridge/@name", example="br0"
    )
    subnet: Optional[str] = attribute(Subnet(), "IPv4 subnet of the network; the server takes its gateway address.", effect=RESTART, example="192.0.2.0/24")
    gateway: Optional[str] = attribute(IpAddress(), "The server's address in the subnet; the first one unless given.", effect=RESTART, example="192.0.2.1")
    dhcp: Optional[DhcpSpec] = attribute(Object(DhcpSpec), "Give addresses to the VMs.", effect=RESTART)
    dns: Optional[DnsSpec] = attribute(Object(DnsSpec), "Name service for the VMs.")
    mtu: Optional[int] = attribute(Integer(68, 65535), "Largest packet in bytes.", effect=RESTART, xpath="./mtu/@size", example=1500)
    switch: Optional[str] = attribute(
        Choice("linux", "openvswitch"),
        "What the bridge is (mode bridge); only Open vSwitch can tag VLANs here.",
        effect=RESTART,
        default="linux",
        example="openvswitch",
    )
    vlan: Optional[int] = attribute(
        Integer(1, 4094), "VLAN tag of the VMs' traffic; needs switch openvswitch.", effect=RESTART, xpath="./vlan/tag/@id", example=100
    )
    autostart: Optional[bool] = attribute(Flag(), "Start it with the server.", default=True, example=True)
    servers: Optional[tuple[str, ...]] = placement()
    adopted: Optional[bool] = attribute(Flag(), "It was not made by Domus and may be managed, and deleted, by it.", compare=IGNORE)
    state: Optional[str] = attribute(Choice("active", "inactive", "absent"), "`absent` deletes it. Left out: active, if Domus made it.", example="active")

    def check(self) -> list[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        problems: list[InvalidSpec] = []
        if self.mode == "bridge":
            for name in ("subnet", "gateway", "dhcp", "dns", "mtu"):
                if getattr(self, name) is not None:
                    problems.append(InvalidSpec("goes with another mode than bridge", field=name, remedy="Leave it out, or use mode nat, routed or isolated"))
            if self.bridge is None:
                problems.append(InvalidSpec("is missing", field="bridge", remedy="Mode bridge needs the name of the server's bridge"))
        if self.vlan is not None and (self.mode not in (None, "bridge") or self.switch == "linux" or (self.mode == "bridge" and self.switch is None)):
            problems.append(InvalidSpec("goes only with mode bridge and switch openvswitch", field="vlan", value=self.vlan))
        if self.switch is not None and self.mode not in (None, "bridge"):
            problems.append(InvalidSpec("goes only with mode bridge", field="switch", value=self.switch))
        problems += self._given_twice()
        return problems + (self._outside() if self.subnet else self._needs_subnet())

    def _given_twice(self) -> list[InvalidSpec]:
        problems: list[InvalidSpec] = []
        for name in ("mac", "address"):
            owners: dict[str, str] = {}
            for one in (self.dhcp and self.dhcp.reservations) or ():
                value = getattr(one, name)
                if value in owners:
                    place = f"dhcp.reservations[{one.name}].{name}"
                    problems.append(InvalidSpec(f"{owners[value]} has the same one", field=place, value=value, remedy="Give every reservation its own"))
                owners.setdefault(value, one.name)
        return problems

    def _needs_subnet(self) -> list[InvalidSpec]:
        needing = [name for name in ("dhcp", "gateway") if getattr(self, name) is not None]
        return [InvalidSpec("needs a subnet", field=name, remedy="Give subnet as well") for name in needing]

    def _outside(self) -> list[InvalidSpec]:
        subnet = ipaddress.IPv4Network(self.subnet or "")
        named = [("gateway", self.gateway)]
        if self.dhcp:
            named += [("dhcp.start", self.dhcp.start), ("dhcp.end", self.dhcp.end)]
            named += [(f"dhcp.reservations[{one.name}].address", one.address) for one in self.dhcp.reservations or ()]
        problems = [
            InvalidSpec(f"is not a host address of {subnet}", field=field, value=address)
            for field, address in named
            if address and (ipaddress.ip_address(address) not in subnet or ipaddress.ip_address(address) in (subnet.network_address, subnet.broadcast_address))
        ]
        if self.dhcp and not problems:
            start, end, gateway = (ipaddress.IPv4Address(text) for text in (self.dhcp.start or "", self.dhcp.end or "", gateway_of(self)))
            if start > end:
                problems.append(InvalidSpec("comes after dhcp.end", field="dhcp.start", value=self.dhcp.start))
            elif start <= gateway <= end:
                problems.append(InvalidSpec(f"the range holds the gateway {gateway}", field="dhcp", remedy="Start the range after it"))
        return problems


@dataclasses.dataclass(frozen=True)
class NetworkState:
    """What was measured of a network."""

    uuid: str = ""
    active: bool = False
    bridge: Optional[str] = None
    leases: int = 0
    made_by_domus: bool = False


def gateway_of(spec: NetworkSpec) -> str:
    """The server's own address in the network's subnet: the given one, else the first."""
    return spec.gateway or str(next(ipaddress.IPv4Network(spec.subnet or "").hosts()))


NETWORK_KIND = Kind("network", "networks", NetworkSpec, NetworkState, SITE, "A network that VMs are connected to.")
