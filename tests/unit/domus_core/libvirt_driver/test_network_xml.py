"""A network's XML is read whoever wrote it, and text stays text."""

from __future__ import annotations

from typing import Any

import pytest
from domus_core.errors import InvalidSpec
from domus_core.libvirt_driver.network_xml import read_spec, write_spec
from domus_core.libvirt_driver.xml_fields import parse, serialize
from domus_core.model.field_types import Name, Text
from domus_core.model.fields import fields_of, make
from domus_core.model.network import DhcpSpec, DnsHostSpec, DnsSpec, NetworkSpec, ReservationSpec

SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("<ip address='198.51.100.1' netmask='255.255.255.128'/>", {"mode": "isolated", "subnet": "198.51.100.0/25", "gateway": "198.51.100.1"}),
    ("<ip address='198.51.100.70' prefix='26' family='ipv4'/>", {"subnet": "198.51.100.64/26", "gateway": "198.51.100.70"}),
    ("<ip address='10.1.2.3'/>", {"subnet": "10.0.0.0/8"}),
    ("<ip address='172.16.1.1'/>", {"subnet": "172.16.0.0/16"}),
    ("<ip address='192.168.1.1'/>", {"subnet": "192.168.1.0/24"}),
    ("<ip family='ipv6' address='2001:db8::1' prefix='64'/>", {"subnet": None, "gateway": None, "dhcp": None}),
    ("<ip address='192.0.2.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' name='a' ip='192.0.2.2'/></dhcp></ip>", {"dhcp": None}),
    ("<ip address='192.0.2.1' prefix='24'/><ip address='198.51.100.1' prefix='24'><dhcp/></ip>", {"subnet": "198.51.100.0/24"}),
    ("<forward mode='open'/><ip address='192.0.2.1' prefix='24'/>", {"mode": None, "subnet": "192.0.2.0/24"}),
    ("<forward mode='bridge'><interface dev='eth0'/></forward>", {"mode": None, "switch": None}),
    ("<forward mode='bridge'/><bridge name='b'/><dns enable='no'/><mtu size='9000'/>", {"mode": "bridge", "switch": "linux", "dns": None, "mtu": None}),
    ("<forward mode='passthrough'><interface dev='eth0'/></forward><vlan><tag id='7'/></vlan>", {"mode": None, "vlan": 7}),
    ("<dns enable='no'/>", {"dns": DnsSpec(enabled=False, forwarders=(), hosts=())}),
    ("", {"dns": DnsSpec(enabled=True, forwarders=(), hosts=()), "bridge": None, "mtu": None, "vlan": None}),
    ("<dns><forwarder domain='a.org'/><forwarder addr='2001:DB8:0::1'/></dns>", {"dns": DnsSpec(enabled=True, forwarders=("2001:db8::1",), hosts=())}),
    (
        "<dns><host ip='192.0.2.1'><hostname>a</hostname><hostname>b</hostname></host><host ip='192.0.2.2'><hostname>a</hostname></host></dns>",
        {"dns": DnsSpec(enabled=True, forwarders=(), hosts=(DnsHostSpec("a", "192.0.2.1"), DnsHostSpec("b", "192.0.2.1")))},
    ),
    (
        "<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.2' end='192.0.2.3'/><host mac='52:54:00:AA:00:01' name='a' ip='192.0.2.4'/>"
        "<host name='b' ip='192.0.2.5'/><host mac='52:54:00:AA:00:02' ip='192.0.2.6'/></dhcp></ip>",
        {"dhcp": DhcpSpec("192.0.2.2", "192.0.2.3", (ReservationSpec("a", "52:54:00:aa:00:01", "192.0.2.4"), ReservationSpec("b", None, "192.0.2.5")))},
    ),
]


@pytest.mark.parametrize(("inner", "expected"), SHAPES, ids=range(len(SHAPES)))
def test_what_others_write_is_read_and_contradicts_nothing(inner: str, expected: dict[str, Any]) -> None:
    spec = read_spec(parse(f"<network><name>n</name>{inner}</network>"), False)
    assert {name: getattr(spec, name) for name in expected} == expected
    assert spec.check() == []


def test_no_text_of_the_table_takes_xml_characters() -> None:
    specs = (NetworkSpec, DhcpSpec, ReservationSpec, DnsSpec, DnsHostSpec)
    texts = [(spec, field) for spec in specs for field in fields_of(spec) if isinstance(field.type, (Text, Name))]
    assert [(spec.__name__[:-4], field.name) for spec, field in texts] == [
        ("Network", "name"),
        ("Network", "bridge"),
        ("Reservation", "name"),
        ("Dns", "domain"),
        ("DnsHost", "name"),
    ]
    for _, field in texts:
        for text in ("a<b", "a>b", "a&b", "a'b", 'a"b', "a]]>b", "a\nb", "a\0b"):
            with pytest.raises(InvalidSpec):
                field.type.parse(text)


def test_xml_characters_are_escaped_in_what_libvirt_is_given() -> None:
    """libvirt 9.0.0 itself writes these two without escaping, so its answer would prove nothing."""
    hostile = "a<b>&'\"</x>"
    root = parse("<network><ip address='192.0.2.1' prefix='24'/></network>")
    dhcp = DhcpSpec("192.0.2.2", "192.0.2.3", (ReservationSpec(hostile, "52:54:00:00:00:01", "192.0.2.4"),))
    write_spec(root, make(NetworkSpec, {"dhcp": dhcp, "dns": make(DnsSpec, {"domain": hostile})}), NetworkSpec())
    read = read_spec(parse(serialize(root)), False)
    assert read.dns is not None and read.dns.domain == hostile and read.dhcp == dhcp
