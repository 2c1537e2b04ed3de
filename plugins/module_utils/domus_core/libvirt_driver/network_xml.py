"""A network's XML (https://libvirt.org/formatnetwork.html): read into a specification, and edited in place."""

from __future__ import annotations

import ipaddress
from typing import Any

from ..errors import Conflict
from ..model.fields import given, make
from ..model.network import DhcpSpec, DnsHostSpec, DnsSpec, NetworkSpec, ReservationSpec, gateway_of
from .xml_fields import add, ensure, get, put, read_fields, write_fields

NO_BRIDGE_MODE = ("dhcp", "dns", "gateway", "mtu", "subnet")
_MODES = {"nat": "nat", "route": "routed", None: "isolated"}
_FORWARD = {"nat": "nat", "routed": "route", "bridge": "bridge", "isolated": None}


def read_spec(root: Any, autostart: bool) -> NetworkSpec:
    """What the XML says of the table's fields. The mode is left out when it is none of ours, an entry when it has no name."""
    values = {"name": get(root, "./name"), "mode": _read_mode(root), "autostart": autostart, **read_fields(root, NetworkSpec)}
    values["dns"] = _read_dns(root)
    ip = ipv4_of(root)
    if ip is not None:
        interface = _interface(ip)
        values.update(subnet=str(interface.network), gateway=str(interface.ip), dhcp=_read_dhcp(ip))
    if values["mode"] == "bridge":
        values["switch"] = "openvswitch" if get(root, "./virtualport/@type") == "openvswitch" else "linux"
        for name in NO_BRIDGE_MODE:
            values.pop(name, None)
    return make(NetworkSpec, {name: value for name, value in values.items() if value is not None})


def write_spec(root: Any, wanted: NetworkSpec, before: NetworkSpec) -> None:
    """Write what `wanted` gives and `before` does not have; all else stays. Raises Conflict when two reservations contradict each other."""
    changed = _differing(wanted, before)
    write_fields(root, changed)
    if changed.mode is not None:
        _write_mode(root, changed.mode)
    if changed.switch is not None:
        _write_switch(root, changed.switch)
    if changed.subnet is not None or changed.gateway is not None:
        _write_subnet(root, wanted)
    if changed.dhcp is not None:
        _write_dhcp(root, changed.dhcp, before.dhcp or DhcpSpec())
    if changed.dns is not None:
        _write_dns(root, _differing(changed.dns, before.dns or DnsSpec()), before.dns or DnsSpec())


def new_entries(wanted: tuple[Any, ...] | None, before: tuple[Any, ...] | None) -> list[Any]:
    """The named entries that are not there, or not so."""
    known = {one.name: one for one in before or ()}
    return [one for one in wanted or () if known.get(one.name) != one]


def _differing(wanted: Any, before: Any) -> Any:
    return make(type(wanted), {name: value for name, value in given(wanted).items() if value != getattr(before, name)})


def ipv4_of(root: Any) -> Any | None:
    """The IPv4 address element: of several the one with DHCP, else the first; None when there is none."""
    own = [one for one in root.findall("ip") if one.get("family", "ipv4") == "ipv4" and one.get("address")]
    return next((one for one in own if one.find("dhcp") is not None), own[0] if own else None)


def _interface(ip: Any) -> ipaddress.IPv4Interface:
    address, mask = ip.get("address"), ip.get("prefix") or ip.get("netmask")
    first = int(address.split(".")[0])
    return ipaddress.IPv4Interface(f"{address}/{mask or (8 if first < 128 else 16 if first < 192 else 24)}")


def _address(text: str | None) -> str | None:
    try:
        return str(ipaddress.ip_address(text or ""))
    except ValueError:
        return text


def _read_mode(root: Any) -> str | None:
    forward = get(root, "./forward/@mode")
    if forward == "bridge":
        # Without a bridge of its own it hands out macvtap devices, which no mode of ours means.
        return "bridge" if get(root, "./bridge/@name") else None
    return _MODES.get(forward)


def _write_mode(root: Any, mode: str) -> None:
    nat = root.find("forward/nat")
    if nat is not None and mode != "nat":
        nat.getparent().remove(nat)
    put(root, "./forward/@mode" if _FORWARD[mode] else "./forward", _FORWARD[mode])


def _write_switch(root: Any, switch: str) -> None:
    if switch == "openvswitch":
        put(root, "./virtualport/@type", "openvswitch")
    elif get(root, "./virtualport/@type") == "openvswitch":
        put(root, "./virtualport", None)


def _write_subnet(root: Any, wanted: NetworkSpec) -> None:
    ip = ipv4_of(root)
    if ip is None:
        ip = add(root, "ip")
    ip.set("address", gateway_of(wanted))
    ip.set("netmask", str(ipaddress.IPv4Network(wanted.subnet or "").netmask))
    ip.attrib.pop("prefix", None)


def _read_dhcp(ip: Any) -> DhcpSpec | None:
    """None unless addresses are given out from a range."""
    start, end = _address(get(ip, "./dhcp/range/@start")), _address(get(ip, "./dhcp/range/@end"))
    if start is None or end is None:
        return None
    reservations: dict[str, ReservationSpec] = {}
    for host in ip.findall("dhcp/host"):
        values = read_fields(host, ReservationSpec)
        if "mac" in values:
            values["mac"] = values["mac"].lower()
        if "address" in values:
            values["address"] = _address(values["address"])
        if "name" in values:
            reservations.setdefault(values["name"], make(ReservationSpec, values))
    return make(DhcpSpec, {"start": start, "end": end, "reservations": tuple(reservations.values())})


def _write_dhcp(root: Any, dhcp: DhcpSpec, before: DhcpSpec) -> None:
    ip = ipv4_of(root)
    put(ip, "./dhcp/range/@start", dhcp.start)
    put(ip, "./dhcp/range/@end", dhcp.end)
    write_reservations(ip, new_entries(dhcp.reservations, before.reservations))


def write_reservations(ip: Any, wanted: list[ReservationSpec]) -> None:
    """Set these reservations; the others stay. Raises Conflict when one MAC address or address would be there twice."""
    hosts = ensure(ip, "dhcp").findall("host")
    for one in wanted:
        same = [host for host in hosts if host.get("name") == one.name]
        nameless = [host for host in hosts if host.get("name") is None and (host.get("mac") or "").lower() == one.mac]
        host = next(iter(same + nameless), None)
        write_fields(add(ip.find("dhcp"), "host") if host is None else host, one)
    _refuse_doubles(ip)


def _refuse_doubles(ip: Any) -> None:
    seen: dict[str, str] = {}
    for host in ip.findall("dhcp/host"):
        name = host.get("name") or "a reservation without a name"
        for attribute, field in (("mac", "mac"), ("ip", "address")):
            value = (host.get(attribute) or "").lower()
            if value and value in seen:
                place = f"dhcp.reservations[{name}].{field}"
                raise Conflict(f"{seen[value]} has the same one", field=place, value=value, remedy="Give every reservation its own")
            seen[value] = name


def _read_dns(root: Any) -> DnsSpec:
    values = {"enabled": True, **read_fields(root, DnsSpec)}
    values["forwarders"] = tuple(_address(one.get("addr")) for one in _forwarders(root))
    hosts: dict[str, DnsHostSpec] = {}
    for host in root.findall("dns/host"):
        for entry in host.findall("hostname"):
            hosts.setdefault(entry.text, make(DnsHostSpec, {"name": entry.text, "address": _address(host.get("ip"))}))
    return make(DnsSpec, {**values, "hosts": tuple(hosts.values())})


def _forwarders(root: Any) -> list[Any]:
    """Those asked for all names; libvirt also knows some that are asked for one domain only."""
    return [one for one in root.findall("dns/forwarder") if one.get("addr") and not one.get("domain")]


def _write_dns(root: Any, dns: DnsSpec, before: DnsSpec) -> None:
    write_fields(root, dns)
    if dns.forwarders is not None:
        for one in _forwarders(root):
            one.getparent().remove(one)
        for address in dns.forwarders:
            add(ensure(root, "dns"), "forwarder", addr=address)
    write_dns_hosts(root, new_entries(dns.hosts, before.hosts))


def write_dns_hosts(root: Any, wanted: list[DnsHostSpec]) -> None:
    """Let these names be answered with these addresses; the other names stay."""
    for one in wanted:
        for entry in root.findall("dns/host/hostname"):
            if entry.text == one.name:
                _remove_host_name(entry)
        same = [host for host in root.findall("dns/host") if _address(host.get("ip")) == one.address]
        add(same[0] if same else add(ensure(root, "dns"), "host", ip=one.address), "hostname", one.name)


def _remove_host_name(entry: Any) -> None:
    host = entry.getparent()
    host.remove(entry)
    if host.find("hostname") is None:
        host.getparent().remove(host)
