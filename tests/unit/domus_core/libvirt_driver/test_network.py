"""Networks are written, read and changed in place, on libvirt's test driver; tests/integration has the truth of running ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import Conflict, DomusError, DriverError, InvalidSpec, NotFound, Unsupported
from domus_core.libvirt_driver import network
from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.network import carry_out, leases, read_network, read_networks
from domus_core.libvirt_driver.registry import Registry
from domus_core.libvirt_driver.xml_fields import get, parse, put, serialize
from domus_core.model.document import parse_document
from domus_core.model.fields import IGNORE, Object, Objects, fields_of, make, merge
from domus_core.model.network import DhcpSpec, DnsHostSpec, DnsSpec, NetworkSpec
from domus_core.model.server import ServerState
from domus_core.model.snapshot import Found, Snapshot
from domus_core.planning.comparison import compare, waiting
from domus_core.planning.reconcile import plan
from domus_core.planning.steps import CREATE, DELETE, START, STOP, Step, step

UUID = "11111111-2222-3333-4444-555555555555"
ROUTED = {
    "name": "lan",
    "mode": "nat",
    "bridge": "br-lan",
    "subnet": "198.51.100.0/24",
    "gateway": "198.51.100.9",
    "dhcp": {
        "start": "198.51.100.100",
        "end": "198.51.100.200",
        "reservations": [
            {"name": "web1", "mac": "52:54:00:00:00:01", "address": "198.51.100.10"},
            {"name": "web2", "mac": "52:54:00:00:00:02", "address": "198.51.100.11"},
        ],
    },
    "dns": {
        "enabled": True,
        "domain": "lan.example.org",
        "forwarders": ["192.0.2.53", "2001:db8::53"],
        "hosts": [
            {"name": "db.example.org", "address": "198.51.100.12"},
            {"name": "db", "address": "198.51.100.12"},
            {"name": "six", "address": "2001:db8::1"},
        ],
    },
    "mtu": 1400,
    "autostart": True,
    "state": "inactive",
}
BRIDGED = {"name": "lan", "mode": "bridge", "bridge": "br0", "switch": "openvswitch", "vlan": 100, "autostart": False, "state": "inactive"}
FOREIGN = """
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' ipv6='yes' trustGuestRxFilters='no'>
  <name>old</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <forward dev='eth9' mode='nat'>
    <nat ipv6='yes'><address start='192.0.2.7' end='192.0.2.8'/><port start='500' end='1000'/></nat><interface dev='eth9'/>
  </forward>
  <bridge name='virbr9' zone='public' stp='off' delay='3' macTableManager='libvirt'/>
  <mac address='52:54:00:12:34:56'/>
  <domain name='old.example.org' localOnly='yes'/>
  <dns forwardPlainNames='no'>
    <forwarder addr='192.0.2.1'/><forwarder domain='example.net' addr='192.0.2.2'/>
    <txt name='example' value='a &lt; b &amp; c'/><srv service='ldap' protocol='tcp' domain='example.org' target='x' port='389' priority='1' weight='2'/>
    <host ip='198.51.100.4'><hostname>four</hostname><hostname>vier</hostname></host>
  </dns>
  <bandwidth><inbound average='1000' peak='5000' burst='5120'/></bandwidth>
  <ip address='198.51.100.1' prefix='25' localPtr='yes'>
    <tftp root='/srv/tftp'/>
    <dhcp>
      <range start='198.51.100.2' end='198.51.100.20'><lease expiry='1' unit='hours'/></range><range start='198.51.100.40' end='198.51.100.50'/>
      <host mac='52:54:00:AB:CD:EF' ip='198.51.100.60'/>
      <host mac='52:54:00:AB:CD:01' name='kept' ip='198.51.100.61'><lease expiry='2' unit='hours'/></host>
      <bootp file='pxelinux.0' server='192.0.2.9'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8:ca2:2::1' prefix='64'/>
  <route address='192.0.2.64' prefix='26' gateway='198.51.100.3'/>
  <portgroup name='slow' default='yes'><bandwidth><inbound average='10'/></bandwidth></portgroup>
  <dnsmasq:options><dnsmasq:option value='dhcp-no-override'/></dnsmasq:options>
</network>"""


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


class Watched:
    """libvirt's connection or network: counts the calls that change something, and ends the process after some of them."""

    CHANGING = ("networkDefineXML", "create", "destroy", "undefine", "setAutostart", "update")

    def __init__(self, inner: Any, answers: dict[str, Any] | None = None, calls: list[str] | None = None, last: int = 10**6) -> None:
        self.inner, self.answers, self.last = inner, answers or {}, last
        self.calls: list[str] = [] if calls is None else calls

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name in self.answers:
                return self.answers[name]
            if name in self.CHANGING:
                if len(self.calls) == self.last:
                    raise Killed
                self.calls.append(name)
            result = getattr(self.inner, name)(*arguments)
            return Watched(result, self.answers, self.calls, self.last) if isinstance(result, libvirt.virNetwork) else result

        return call


@pytest.fixture
def connection() -> Iterator[Any]:
    assert libvirt is not None, "python3-libvirt is missing: apt-get install python3-libvirt"
    libvirt.registerErrorHandler(lambda context, error: None, None)
    opened = libvirt.open("test:///default")
    before = {one.name() for one in opened.listAllNetworks()}
    yield opened
    for one in opened.listAllNetworks():
        if one.name() not in before:
            if one.isActive():
                one.destroy()
            one.undefine()
    opened.close()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path))


def planned(connection: Any, registry: Registry, *documents: dict[str, Any]) -> tuple[Step, ...]:
    site = parse_document({"site": "paris", "networks": list(documents)})
    return plan(site, Snapshot(ServerState(virtualization="qemu"), {"network": read_networks(connection, registry)})).steps


def applied(connection: Any, registry: Registry, document: dict[str, Any]) -> Found:
    for one in planned(connection, registry, document):
        carry_out(connection, registry, one, "paris")
    found = read_network(connection, registry, document["name"])
    assert found is not None
    return found


def wanted_of(document: dict[str, Any]) -> NetworkSpec:
    wanted = parse_document({"networks": [document]}).wanted("network")[document["name"]]
    assert isinstance(wanted, NetworkSpec)
    return wanted


def places(spec: Any, path: str = "") -> set[str]:
    """The places of the table that a specification gives."""
    found: set[str] = set()
    for field in fields_of(type(spec)):
        value = getattr(spec, field.name)
        if value is not None:
            found.add(path + field.name)
        for inner in (value,) if isinstance(field.type, Object) and value is not None else value if isinstance(field.type, Objects) and value else ():
            found |= places(inner, f"{path}{field.name}.")
    return found


def table(spec: type, path: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields_of(spec):
        yield path + field.name, field
        if isinstance(field.type, (Object, Objects)):
            yield from table(field.type.spec, f"{path}{field.name}.")


@pytest.mark.parametrize("document", [ROUTED, BRIDGED], ids=["nat", "bridge"])
def test_every_field_is_written_and_read_back(document: dict[str, Any], connection: Any, registry: Registry) -> None:
    found, wanted = applied(connection, registry, document), wanted_of(document)
    assert compare(wanted, found.spec, skip=frozenset({"state"})) == []
    measured = {place for place in places(wanted) if place != "state"}
    assert measured <= places(found.spec)
    assert planned(connection, registry, document) == ()
    assert found.running is None and not found.state.active


def test_the_documents_above_hold_every_field_of_the_table() -> None:
    tested = places(wanted_of(ROUTED)) | places(wanted_of(BRIDGED))
    assert {place for place, field in table(NetworkSpec) if field.compare != IGNORE} - tested == set()


@pytest.mark.parametrize(
    ("mode", "forward", "rest"),
    [
        ("nat", "nat", {"subnet": "198.51.100.0/24"}),
        ("routed", "route", {"subnet": "198.51.100.0/24"}),
        ("isolated", None, {"subnet": "198.51.100.0/24"}),
        ("isolated", None, {}),
        ("bridge", "bridge", {"bridge": "br0"}),
        ("bridge", "bridge", {"bridge": "br0", "switch": "linux"}),
    ],
)
def test_every_mode(mode: str, forward: str | None, rest: dict[str, Any], connection: Any, registry: Registry) -> None:
    document = {"name": "lan", "mode": mode, **rest, "state": "active"}
    found = applied(connection, registry, document)
    assert found.state.active and found.state.made_by_domus and found.running is found.spec
    assert found.spec.mode == mode and found.spec.autostart is True
    assert found.spec.gateway == ("198.51.100.1" if "subnet" in rest else None)
    assert get(parse(connection.networkLookupByName("lan").XMLDesc(0)), "./forward/@mode") == forward
    assert planned(connection, registry, document) == ()


RANGE = {"start": "198.51.100.100", "end": "198.51.100.200"}
PLACE = {"name": "lan", "subnet": "198.51.100.0/24", "gateway": "198.51.100.9"}
CHANGES: list[dict[str, Any]] = [
    {"mode": "routed"},
    {"mode": "isolated"},
    {"bridge": "br-new"},
    {"subnet": "198.51.100.0/25", "dhcp": {"start": "198.51.100.20", "end": "198.51.100.30"}},
    {"gateway": "198.51.100.8"},
    {"dhcp": {"start": "198.51.100.101", "end": "198.51.100.150"}},
    {"dhcp": {**RANGE, "reservations": [{"name": "web1", "mac": "52:54:00:00:00:09", "address": "198.51.100.19"}]}},
    {"dhcp": {**RANGE, "reservations": [{"name": "web3", "mac": "52:54:00:00:00:03", "address": "198.51.100.13"}]}},
    {"dns": {"domain": "other.example.org"}},
    {"dns": {"forwarders": []}},
    {"dns": {"forwarders": ["2001:db8::53", "192.0.2.54"]}},
    {"dns": {"hosts": [{"name": "db", "address": "198.51.100.13"}]}},
    {"dns": {"hosts": [{"name": "six", "address": "198.51.100.12"}]}},
    {"dns": {"hosts": [{"name": "new", "address": "198.51.100.12"}]}},
    {"mtu": 9000},
    {"autostart": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_every_change_is_made_and_leaves_the_rest(change: dict[str, Any], connection: Any, registry: Registry) -> None:
    before = applied(connection, registry, ROUTED).spec
    document = {**PLACE, **change}
    after = applied(connection, registry, document).spec
    assert after != before
    assert planned(connection, registry, document) == ()
    assert _sorted(after) == _sorted(merge(before, wanted_of(document)))


def _sorted(spec: NetworkSpec) -> tuple[Any, ...]:
    """The order of named entries says nothing."""
    plain = {name: value for name, value in vars(spec).items() if name not in ("dhcp", "dns")}
    dns, dhcp = spec.dns or DnsSpec(), spec.dhcp or DhcpSpec()
    hosts = (sorted(dns.hosts or (), key=lambda one: one.name), sorted(dhcp.reservations or (), key=lambda one: one.name))
    return plain, hosts, (dns.enabled, dns.domain, dns.forwarders), (dhcp.start, dhcp.end)


def test_a_bridge_can_stop_being_one_of_open_vswitch(connection: Any, registry: Registry) -> None:
    applied(connection, registry, {"name": "lan", "mode": "bridge", "bridge": "br0", "switch": "openvswitch", "state": "inactive"})
    document = {"name": "lan", "mode": "bridge", "bridge": "br0", "switch": "linux"}
    assert applied(connection, registry, document).spec.switch == "linux" and planned(connection, registry, document) == ()


def test_two_reservations_can_swap_their_addresses(connection: Any, registry: Registry) -> None:
    applied(connection, registry, ROUTED)
    swapped = [
        {"name": "web1", "mac": "52:54:00:00:00:02", "address": "198.51.100.11"},
        {"name": "web2", "mac": "52:54:00:00:00:01", "address": "198.51.100.10"},
    ]
    document = {**PLACE, "dhcp": {**RANGE, "reservations": swapped}}
    found = applied(connection, registry, document)
    assert {(one.name, one.mac, one.address) for one in found.spec.dhcp.reservations} == {tuple(one.values()) for one in swapped}


@pytest.mark.parametrize(("field", "other"), [("mac", {"address": "198.51.100.14"}), ("address", {"mac": "52:54:00:00:00:04"})])
@pytest.mark.parametrize("exists", [True, False], ids=["update", "create"])
def test_a_reservation_that_repeats_another_is_refused(field: str, other: dict[str, str], exists: bool, connection: Any, registry: Registry) -> None:
    if exists:
        applied(connection, registry, ROUTED)
    double = {"name": "web9", "mac": "52:54:00:00:00:01", "address": "198.51.100.10", **other}
    dhcp: dict[str, Any] = ROUTED["dhcp"]  # type: ignore[assignment]
    before = registry.read("network", "lan")
    watched = Watched(connection)
    with pytest.raises(InvalidSpec) as caught:
        applied(watched, registry, {**ROUTED, "dhcp": {**dhcp, "reservations": [*dhcp["reservations"], double]}})
    assert caught.value.field == f"dhcp.reservations[web9].{field}" and caught.value.value == double[field]
    assert watched.calls == [] and registry.read("network", "lan") == before


def test_what_domus_does_not_know_survives_every_change(connection: Any, registry: Registry) -> None:
    connection.networkDefineXML(FOREIGN)
    old = connection.networkLookupByName("old").XMLDesc(0)
    document = {
        **ROUTED,
        "name": "old",
        "adopted": True,
        "mode": "nat",
        "subnet": "198.51.100.0/24",
        "gateway": "198.51.100.9",
    }
    found = applied(connection, registry, document)
    assert compare(wanted_of(document), found.spec, skip=frozenset({"state"})) == []
    new = connection.networkLookupByName("old").XMLDesc(0)
    changed = {
        "<bridge name='virbr9'": "<bridge name='br-lan'",
        "<domain name='old.example.org'": "<domain name='lan.example.org'",
        "address='198.51.100.1' prefix='25'": "address='198.51.100.9' netmask='255.255.255.0'",
        "start='198.51.100.2' end='198.51.100.20'": "start='198.51.100.100' end='198.51.100.200'",
    }
    for before, after in changed.items():
        assert before in old
        old = old.replace(before, after)
    lost = [line for line in old.splitlines() if line not in new.splitlines()]
    assert lost == ["    <forwarder addr='192.0.2.1'/>"]


def test_a_name_service_that_is_switched_off_keeps_nothing(connection: Any, registry: Registry) -> None:
    applied(connection, registry, ROUTED)
    with pytest.raises(Conflict) as caught:
        applied(connection, registry, {"name": "lan", "dns": {"enabled": False}})
    assert caught.value.field == "dns.enabled"
    document = {"name": "empty", "mode": "isolated", "subnet": "198.51.100.0/24", "dns": {"forwarders": ["192.0.2.1"]}, "state": "inactive"}
    applied(connection, registry, document)
    off = {"name": "empty", "dns": {"enabled": False, "forwarders": []}}
    assert applied(connection, registry, off).spec.dns == DnsSpec(enabled=False, forwarders=(), hosts=())
    assert planned(connection, registry, off) == ()


def test_a_mode_without_address_translation_drops_its_settings(connection: Any, registry: Registry) -> None:
    connection.networkDefineXML(FOREIGN)
    applied(connection, registry, {"name": "old", "mode": "routed", "adopted": True})
    text = connection.networkLookupByName("old").XMLDesc(0)
    assert "mode='route'" in text and "<nat" not in text and "<interface dev='eth9'/>" in text


def test_a_reservation_without_a_name_is_taken_over_by_its_mac(connection: Any, registry: Registry) -> None:
    connection.networkDefineXML(FOREIGN)
    reservation = {"name": "named", "mac": "52:54:00:ab:cd:ef", "address": "198.51.100.62"}
    dhcp = {"start": "198.51.100.2", "end": "198.51.100.20", "reservations": [reservation]}
    applied(connection, registry, {"name": "old", "adopted": True, "subnet": "198.51.100.0/25", "dhcp": dhcp})
    text = connection.networkLookupByName("old").XMLDesc(0)
    assert text.lower().count("52:54:00:ab:cd:ef") == 1 and "198.51.100.60" not in text


def test_xml_characters_stay_text_even_if_they_came_so_far(connection: Any, registry: Registry) -> None:
    hostile = "a<b>&'\"</x>"
    values = {"name": "x", "mode": "isolated", "bridge": hostile, "dns": make(DnsSpec, {"hosts": (DnsHostSpec(hostile, "192.0.2.1"),)})}
    carry_out(connection, registry, _create_step(values), "paris")
    found = read_network(connection, registry, "x")
    assert found is not None and found.spec.bridge == hostile and found.spec.dns.hosts[0].name == hostile


def test_a_network_that_libvirt_can_not_write_down_is_named(connection: Any, registry: Registry) -> None:
    connection.networkDefineXML("<network><name>odd</name><domain name='a&lt;b'/></network>")
    with pytest.raises(DriverError, match="malformed") as caught:
        read_networks(connection, registry)
    assert caught.value.object == "network odd"


def _create_step(values: dict[str, Any], action: str = CREATE) -> Step:
    return step(action, "network", make(NetworkSpec, values), reason="a test", uuid=UUID)


def test_creation_is_registered_before_it_is_defined_and_completes_a_broken_one(connection: Any, registry: Registry) -> None:
    create = _create_step({"name": "lan", "mode": "isolated", "autostart": True})
    with pytest.raises(Killed):
        carry_out(Watched(connection, last=0), registry, create, "paris")
    assert registry.read("network", "lan") == {"uuid": UUID, "site": "paris", **network.CHOSEN}
    assert read_network(connection, registry, "lan") is None
    for _ in range(2):
        carry_out(connection, registry, create, "paris")
        found = read_network(connection, registry, "lan")
        assert found is not None and found.state.made_by_domus and found.state.uuid == UUID and found.spec.autostart is True


def test_broken_off_anywhere_the_next_apply_mends_it(connection: Any, registry: Registry) -> None:
    broken = []
    for last in range(4):
        for document in ({**ROUTED, "state": "active"}, {**ROUTED, "mtu": 1300, "autostart": False}, {"name": "lan", "state": "absent"}):
            watched = Watched(connection, last=last)
            try:
                for one in planned(connection, registry, document):
                    carry_out(watched, registry, one, "paris")
            except Killed:
                broken.append(watched.calls)
            for one in planned(connection, registry, document):
                carry_out(connection, registry, one, "paris")
            assert planned(connection, registry, document) == ()
            existing = connection.networkLookupByName("lan") if document["state"] != "absent" else None
            # The test driver shows no definition beside what runs, so the update comes while nothing does.
            if existing is not None:
                existing.create() if document["state"] == "inactive" else existing.destroy()
    assert [len(calls) for calls in broken] == [0, 0, 0, 1, 1, 1, 2]
    assert read_network(connection, registry, "lan") is None and registry.read("network", "lan") is None


def test_every_action_may_be_taken_twice(connection: Any, registry: Registry) -> None:
    values = {"name": "lan", "mode": "isolated"}
    for action, active in ((CREATE, False), (START, True), (STOP, False), (START, True)):
        for _ in range(2):
            carry_out(connection, registry, _create_step(values, action), "paris")
            found = read_network(connection, registry, "lan")
            assert found is not None and found.state.active is active
    for _ in range(2):
        carry_out(connection, registry, _create_step(values, DELETE), "paris")
        assert read_network(connection, registry, "lan") is None and registry.read("network", "lan") is None


@pytest.mark.parametrize("action", [CREATE, "update", START, STOP, DELETE])
def test_another_network_of_the_name_is_not_touched(action: str, connection: Any, registry: Registry) -> None:
    watched = Watched(connection)
    with pytest.raises(Conflict, match="another network"):
        carry_out(watched, registry, _create_step({"name": "default", "mode": "isolated"}, action), "paris")
    assert watched.calls == [] and registry.read("network", "default") is None


@pytest.mark.parametrize("action", ["update", START, STOP])
def test_a_network_that_has_gone_is_told(action: str, connection: Any, registry: Registry) -> None:
    with pytest.raises(NotFound):
        carry_out(connection, registry, _create_step({"name": "gone", "mode": "isolated"}, action), "paris")


def test_others_networks_are_seen_as_theirs(connection: Any, registry: Registry) -> None:
    registry.write("network", "default", {"uuid": UUID, "site": "paris"})
    found = read_networks(connection, registry)["default"]
    assert not found.state.made_by_domus and found.state.active and found.state.leases == 0
    assert found.state.uuid == connection.networkLookupByName("default").UUIDString() and found.state.bridge == found.spec.bridge
    with pytest.raises(Conflict, match="not made by Domus"):
        planned(connection, registry, {"name": "default", "state": "absent"})


def test_a_network_that_vanishes_while_it_is_read_is_left_out(connection: Any, registry: Registry) -> None:
    applied(connection, registry, ROUTED)
    listed = connection.listAllNetworks()
    connection.networkLookupByName("lan").undefine()
    watched = Watched(connection, {"listAllNetworks": listed})
    assert set(read_networks(watched, registry)) == {one.name() for one in connection.listAllNetworks()}


@pytest.mark.parametrize(
    "change",
    [
        lambda one, connection: one.create(),
        lambda one, connection: one.setAutostart(0),
        lambda one, connection: connection.networkDefineXML(one.XMLDesc(0).replace("stp='on'", "stp='off'")),
    ],
    ids=["active", "autostart", "definition"],
)
def test_the_fingerprint_changes_with_the_network_only(change: Callable[[Any, Any], Any], connection: Any, registry: Registry) -> None:
    before = applied(connection, registry, ROUTED).fingerprint
    assert len(before) == 64 and read_networks(connection, registry)["lan"].fingerprint == before
    change(connection.networkLookupByName("lan"), connection)
    assert read_networks(connection, registry)["lan"].fingerprint != before


def test_reading_changes_nothing(connection: Any, registry: Registry) -> None:
    applied(connection, registry, ROUTED)
    watched = Watched(connection)
    read_networks(watched, registry)
    assert read_network(watched, registry, "lan") is not None and read_network(watched, registry, "none") is None
    assert watched.calls == []


def test_reservations_and_names_change_live(connection: Any, registry: Registry) -> None:
    """The test driver keeps no definition beside what runs, but knows the call."""
    applied(connection, registry, {**ROUTED, "state": "active"})
    dhcp = {**RANGE, "reservations": [{"name": "web1", "mac": "52:54:00:00:00:09", "address": "198.51.100.10"}]}
    document = {**PLACE, "dhcp": dhcp, "dns": {"hosts": [{"name": "db", "address": "198.51.100.13"}]}}
    watched = Watched(connection)
    for one in planned(connection, registry, document):
        carry_out(watched, registry, one, "paris")
    assert watched.calls == ["update"] * 5 + ["networkDefineXML"]
    found = read_network(connection, registry, "lan")
    assert found is not None and planned(connection, registry, document) == () and waiting(found.spec, found.running) == ()


def test_a_restarting_change_touches_nothing_that_runs(connection: Any, registry: Registry) -> None:
    applied(connection, registry, {**ROUTED, "state": "active"})
    watched = Watched(connection)
    for one in planned(connection, registry, {"name": "lan", "mtu": 1300}):
        carry_out(watched, registry, one, "paris")
    assert watched.calls == ["networkDefineXML"]


def test_only_what_differs_is_called(connection: Any, registry: Registry) -> None:
    applied(connection, registry, ROUTED)
    watched = Watched(connection)
    for one in planned(connection, registry, {"name": "lan", "autostart": False, "state": "inactive"}):
        carry_out(watched, registry, one, "paris")
    assert watched.calls == ["setAutostart"]


def _local(connection: Any, uri: str = "qemu:///system") -> Watched:
    return Watched(connection, {"getURI": uri, "getType": "QEMU"})


@pytest.mark.parametrize("action", [CREATE, START, "update"])
def test_a_bridge_that_the_server_lacks_is_named(action: str, connection: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    monkeypatch.setattr(network, "INTERFACES", str(tmp_path))
    if action != CREATE:
        carry_out(connection, registry, _create_step({"name": "lan", "mode": "bridge", "bridge": "br0" if action == "update" else "eth0"}), "paris")
    with pytest.raises(NotFound) as caught:
        carry_out(_local(connection), registry, _create_step({"name": "lan", "mode": "bridge", "bridge": "eth0"}, action), "paris")
    assert (caught.value.field, caught.value.value) == ("bridge", "eth0") and caught.value.remedy.endswith("br0")
    found = read_network(connection, registry, "lan")
    assert found is None if action == CREATE else found is not None and not found.state.active


@pytest.mark.parametrize(
    ("bridge", "switch", "uri", "fits"),
    [
        ("br0", "linux", "qemu:///system", True),
        ("eth0", "openvswitch", "qemu:///system", True),
        ("none", "openvswitch", "qemu:///system", False),
        ("none", "linux", "qemu+ssh://far/system", True),
        ("none", "linux", "qemu+unix:///system?socket=/run/s", False),
        ("none", "linux", "qemu:///embed?root=/tmp/x", False),
    ],
)
def test_where_a_bridge_is_looked_for(
    bridge: str, switch: str, uri: str, fits: bool, connection: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    monkeypatch.setattr(network, "INTERFACES", str(tmp_path))
    create = _create_step({"name": "lan", "mode": "bridge", "bridge": bridge, "switch": switch})
    if fits:
        carry_out(_local(connection, uri), registry, create, "paris")
        assert read_network(connection, registry, "lan") is not None
    else:
        with pytest.raises(NotFound):
            carry_out(_local(connection, uri), registry, create, "paris")


TAKEN = "error creating bridge interface virbr0: File exists"


class Occupied:
    """libvirt's connection or network, where the first `refusals` calls of a method fail; a bridge without a name gets one."""

    def __init__(self, inner: Any, method: str = "", refusals: int = 0, reason: str = TAKEN, owner: Occupied | None = None) -> None:
        self.inner, self.method, self.refusals, self.reason, self.owner = inner, method, refusals, reason, owner or self
        self.defined: list[str | None] = []

    def __getattr__(self, name: str) -> Any:
        owner = self.owner

        def call(*arguments: Any) -> Any:
            if name == owner.method and owner.refusals:
                owner.refusals -= 1
                libvirt.virResetLastError()  # else the error would be the last real one of this thread
                raise libvirt.libvirtError(owner.reason)
            if name == "networkDefineXML":
                root = parse(arguments[0])
                owner.defined.append(get(root, "./bridge/@name"))
                put(root, "./bridge/@name", owner.defined[-1] or f"virbr{len(owner.defined) - 1}")
                arguments = (serialize(root),)
            result = getattr(self.inner, name)(*arguments)
            return Occupied(result, owner=owner) if isinstance(result, libvirt.virNetwork) else result

        return call


AUTOMATIC = {"name": "lan", "mode": "isolated", "state": "active"}


def test_a_bridge_that_libvirt_named_gets_another_name_when_it_is_taken(connection: Any, registry: Registry) -> None:
    occupied = Occupied(connection, "create", 2)
    for one in planned(connection, registry, AUTOMATIC):
        carry_out(occupied, registry, one, "paris")
    found = read_network(connection, registry, "lan")
    assert found is not None and found.state.active and found.state.bridge == "virbr2" and occupied.defined == [None, None, None]
    assert found.spec.bridge is None and found.running is found.spec and planned(connection, registry, AUTOMATIC) == ()
    # The same at a later start, and after another change.
    for document in ({**AUTOMATIC, "state": "inactive"}, {**AUTOMATIC, "state": "inactive", "mtu": 1300}, AUTOMATIC):
        occupied.refusals = 1
        for one in planned(connection, registry, document):
            carry_out(occupied, registry, one, "paris")
    assert occupied.defined[-1] is None and read_network(connection, registry, "lan").state.active  # type: ignore[union-attr]


def test_a_name_that_two_networks_got_is_changed_with_the_next_change(connection: Any, registry: Registry) -> None:
    occupied = Occupied(connection, "networkDefineXML", 0, "internal error: bridge name 'virbr0' already in use.")
    for document in ({**AUTOMATIC, "state": "inactive"}, {**AUTOMATIC, "state": "inactive", "mtu": 1300}):
        for one in planned(connection, registry, document):
            carry_out(occupied, registry, one, "paris")
        occupied.refusals = 1
    found = read_network(connection, registry, "lan")
    assert found is not None and found.spec.mtu == 1300 and (occupied.defined, found.state.bridge) == ([None, None], "virbr1")


@pytest.mark.parametrize("later", [False, True], ids=["at first", "later"])
def test_a_bridge_that_was_named_keeps_its_name(later: bool, connection: Any, registry: Registry) -> None:
    named = {**AUTOMATIC, "bridge": "virbr0"}
    occupied = Occupied(connection, "create", network.TRIES)
    for document in ({**AUTOMATIC, "state": "inactive"}, {**named, "state": "inactive"}) if later else ({**named, "state": "inactive"},):
        for one in planned(connection, registry, document):
            carry_out(occupied, registry, one, "paris")
    defined = list(occupied.defined)
    for document in (named, AUTOMATIC):
        with pytest.raises(Conflict) as caught:
            for one in planned(connection, registry, document):
                carry_out(occupied, registry, one, "paris")
        assert caught.value.field == "bridge" and caught.value.remedy == "Choose another name for the bridge"
    found = read_network(connection, registry, "lan")
    assert found is not None and found.spec.bridge == "virbr0" and occupied.defined == defined


@pytest.mark.parametrize(("refusals", "reason"), [(network.TRIES, TAKEN), (1, "error creating bridge interface virbr0: Operation not permitted")])
def test_why_no_name_can_be_had_is_told(refusals: int, reason: str, connection: Any, registry: Registry) -> None:
    occupied = Occupied(connection, "create", refusals, reason)
    with pytest.raises(Conflict, match=reason):
        for one in planned(connection, registry, AUTOMATIC):
            carry_out(occupied, registry, one, "paris")
    assert occupied.refusals == 0


def test_leases_are_read_in_one_form(connection: Any) -> None:
    with pytest.raises(Unsupported):
        leases(connection, "default")
    with pytest.raises(NotFound):
        leases(connection, "none")
    told = [{"mac": "52:54:00:AA:00:01", "ipaddr": "192.0.2.7"}, {"mac": None, "ipaddr": "2001:db8::7"}]
    assert leases(Watched(connection, {"DHCPLeases": told}), "default") == [("52:54:00:aa:00:01", "192.0.2.7")]


def test_a_lost_connection_is_told_as_ours(registry: Registry) -> None:
    gone = libvirt.open("test:///default")
    gone.close()
    with pytest.raises(DomusError):
        read_networks(gone, registry)
