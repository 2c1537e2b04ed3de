"""Networks on the real libvirt of this machine: bridges, dnsmasq's answers, leases, and what waits for a restart."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import Conflict, DomusError, DriverError, NotFound
from domus_core.libvirt_driver.connection import connect, libvirt
from domus_core.libvirt_driver.network import carry_out, leases, read_network, read_networks
from domus_core.libvirt_driver.registry import Registry
from domus_core.model.document import parse_document
from domus_core.model.server import ServerState
from domus_core.model.snapshot import Found, Snapshot
from domus_core.planning.comparison import waiting
from domus_core.planning.reconcile import plan
from domus_core.planning.steps import Step

pytestmark = pytest.mark.libvirt

NAME = f"domus-test-{os.getpid()}"
BRIDGE = f"dt{os.getpid()}"
# From the range for benchmarks of network devices (RFC 2544), which no real network uses.
SUBNET = f"198.18.{os.getpid() % 250}"
OTHER = f"198.19.{os.getpid() % 250}"
DNSMASQ = Path("/var/lib/libvirt/dnsmasq")
MAC = "52:54:00:d0:00:01"
PATIENCE = 20.0


FOREIGN = f"""
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>{NAME}</name>
  <forward mode='nat'><nat><port start='5000' end='6000'/></nat></forward>
  <bridge name='{BRIDGE}' stp='off' delay='2'/>
  <ip address='{SUBNET}.1' prefix='24'>
    <tftp root='/srv'/>
    <dhcp><range start='{SUBNET}.100' end='{SUBNET}.200'/><host mac='52:54:00:d0:00:07' ip='{SUBNET}.7'/></dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8::1' prefix='64'/>
  <portgroup name='slow'><bandwidth><inbound average='10'/></bandwidth></portgroup>
  <dnsmasq:options><dnsmasq:option value='no-poll'/></dnsmasq:options>
</network>"""


class Killed(BaseException):
    """Stands for the end of the process."""


class Server:
    """The engine's way, without the engine: plan, take the steps, read."""

    def __init__(self, connection: Any, registry: Registry) -> None:
        self.connection, self.registry = connection, registry

    def steps(self, **document: Any) -> tuple[Step, ...]:
        site = parse_document({"site": "paris", "networks": [{"name": NAME, **document}]})
        snapshot = Snapshot(ServerState(virtualization="qemu"), {"network": read_networks(self.connection, self.registry)})
        return plan(site, snapshot).steps

    def apply(self, **document: Any) -> Found:
        for step in self.steps(**document):
            carry_out(self.connection, self.registry, step, "paris")
        assert self.steps(**document) == (), "a second apply would change something"
        return self.found()

    def found(self) -> Found:
        found = read_network(self.connection, self.registry, NAME)
        assert found is not None
        return found

    def waiting(self) -> set[str]:
        found = self.found()
        return set(waiting(found.spec, found.running))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    try:
        connection = connect("qemu:///system")
    except DomusError as error:
        pytest.fail(f"{error}\nStart libvirt on this machine: scripts/local-server up")
    yield Server(connection, Registry(str(tmp_path)))
    for one in connection.listAllNetworks():
        if one.name().startswith(NAME):
            persistent = one.isPersistent()
            if one.isActive():
                one.destroy()
            if persistent:
                one.undefine()
    connection.close()


def with_dhcp(*reservations: tuple[str, str, str], **rest: Any) -> dict[str, Any]:
    entries = [{"name": name, "mac": mac, "address": address} for name, mac, address in reservations]
    return {"subnet": f"{SUBNET}.0/24", "dhcp": {"start": f"{SUBNET}.100", "end": f"{SUBNET}.200", "reservations": entries}, **rest}


def sh(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def dumped() -> str:
    return sh("virsh", "-c", "qemu:///system", "net-dumpxml", NAME)


def eventually(question: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def asked(name: str, address: str) -> str | None:
    """What the DNS server at an address answers for the A record of a name."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\x01\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.connect((address, 53))
        try:
            asking.send(struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question)
            answer = asking.recv(512)
        except OSError:
            return None
    return socket.inet_ntoa(answer[-4:]) if struct.unpack(">H", answer[6:8])[0] else None


def test_a_network_with_dhcp_runs_and_is_left_alone(server: Server) -> None:
    document = with_dhcp(("web1", MAC, f"{SUBNET}.10"), state="active", dns={"enabled": True, "domain": "lan.example.org"}, gateway=f"{SUBNET}.1")
    found = server.apply(**document)
    assert found.state.active and found.state.made_by_domus and found.spec.autostart is True and found.spec.mode == "nat"
    assert found.running is found.spec and server.waiting() == set()
    # libvirt chose the bridge: what it added is read, and makes no difference.
    assert found.state.bridge and Path(f"/sys/class/net/{found.state.bridge}/bridge").is_dir()
    assert sh("ip", "-4", "-brief", "address", "show", found.state.bridge).split()[-1] == f"{SUBNET}.1/24"
    assert "-j MASQUERADE" in sh("iptables", "-t", "nat", "-S", "LIBVIRT_PRT") and SUBNET in sh("iptables", "-t", "nat", "-S", "LIBVIRT_PRT")
    assert f"dhcp-range={SUBNET}.100,{SUBNET}.200" in (DNSMASQ / f"{NAME}.conf").read_text()


@pytest.mark.parametrize("mode", ["nat", "routed", "isolated"])
def test_every_mode_with_a_subnet_starts(mode: str, server: Server) -> None:
    found = server.apply(mode=mode, bridge=BRIDGE, subnet=f"{SUBNET}.0/25", gateway=f"{SUBNET}.126", mtu=1400, state="active")
    assert found.running is found.spec and (found.spec.mode, found.spec.bridge, found.spec.gateway) == (mode, BRIDGE, f"{SUBNET}.126")
    assert Path(f"/sys/class/net/{BRIDGE}/mtu").read_text() == "1400\n"
    assert (SUBNET in sh("iptables", "-t", "nat", "-S", "LIBVIRT_PRT")) == (mode == "nat")


def test_reservations_take_effect_live(server: Server) -> None:
    server.apply(**with_dhcp(state="active"))
    hosts = DNSMASQ / f"{NAME}.hostsfile"
    for entries in (
        [("web1", MAC, ".10")],
        [("web1", "52:54:00:d0:00:09", ".10"), ("web2", MAC, ".11")],
        [("web1", MAC, ".11"), ("web2", "52:54:00:d0:00:09", ".10")],
    ):
        server.apply(**with_dhcp(*((name, mac, SUBNET + end) for name, mac, end in entries)))
        assert server.waiting() == set()
        assert {f"{mac},{SUBNET}{end},{name}" for name, mac, end in entries} == set(hosts.read_text().split())
        assert all(f"<host mac='{mac}' name='{name}' ip='{SUBNET}{end}'/>" in dumped() for name, mac, end in entries)
        assert dumped().count("<host ") == len(entries)


def test_names_are_answered_live(server: Server) -> None:
    server.apply(subnet=f"{SUBNET}.0/24", dns={"hosts": [{"name": "db.example.org", "address": f"{SUBNET}.12"}]}, state="active")
    assert eventually(lambda: asked("db.example.org", f"{SUBNET}.1") == f"{SUBNET}.12")
    server.apply(dns={"hosts": [{"name": "db.example.org", "address": f"{SUBNET}.13"}, {"name": "www.example.org", "address": f"{SUBNET}.13"}]})
    assert server.waiting() == set()
    for name in ("db.example.org", "www.example.org"):
        assert eventually(lambda name=name: asked(name, f"{SUBNET}.1") == f"{SUBNET}.13")  # type: ignore[misc]


@pytest.fixture
def guest(server: Server) -> Iterator[Callable[[], str]]:
    """A network namespace with one cable to the bridge, which asks for an address; it stands for a guest."""
    if not Path("/usr/bin/busybox").exists():
        pytest.fail("busybox with udhcpc is missing: apt-get install busybox-static")
    space, inner, outer = NAME, f"di{os.getpid()}", f"do{os.getpid()}"
    sh("ip", "netns", "add", space)

    def ask() -> str:
        sh("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "address", MAC, "netns", space)
        sh("ip", "link", "set", outer, "master", BRIDGE, "up")
        sh("ip", "-n", space, "link", "set", inner, "up")
        return sh("ip", "netns", "exec", space, "busybox", "udhcpc", "-i", inner, "-q", "-n", "-t", "10", "-T", "2", "-s", "/bin/true")

    try:
        yield ask
    finally:
        sh("ip", "netns", "delete", space)


def test_a_reserved_address_is_given_out_and_seen(server: Server, guest: Callable[[], str]) -> None:
    server.apply(**with_dhcp(bridge=BRIDGE, state="active"))
    server.apply(**with_dhcp(("web1", MAC, f"{SUBNET}.10")))
    guest()
    assert eventually(lambda: leases(server.connection, NAME) == [(MAC, f"{SUBNET}.10")])
    assert server.found().state.leases == 1


def test_what_needs_a_restart_waits_for_it(server: Server) -> None:
    server.apply(**with_dhcp(("web1", MAC, f"{SUBNET}.10"), state="active", bridge=BRIDGE))
    changed: dict[str, Any] = {
        "mode": "routed",
        "bridge": f"{BRIDGE}x",
        "subnet": f"{OTHER}.0/24",
        "gateway": f"{OTHER}.1",
        "mtu": 1300,
        "dhcp": {"start": f"{OTHER}.50", "end": f"{OTHER}.60", "reservations": [{"name": "web1", "mac": MAC, "address": f"{OTHER}.10"}]},
        "dns": {"enabled": True, "domain": "new.example.org", "forwarders": ["192.0.2.53"]},
    }
    found = server.apply(**changed)
    expected = {"mode", "bridge", "subnet", "gateway", "mtu", "dhcp.start", "dhcp.end", "dhcp.reservations[web1].address", "dns.domain", "dns.forwarders"}
    assert server.waiting() == expected
    assert found.running.subnet == f"{SUBNET}.0/24" and found.state.bridge == BRIDGE and f"{SUBNET}.1" in dumped()
    server.apply(state="inactive")
    assert not Path(f"/sys/class/net/{BRIDGE}").exists() and server.found().running is None
    found = server.apply(**changed, state="active")
    assert server.waiting() == set() and found.running is found.spec and found.state.bridge == f"{BRIDGE}x"


def test_services_that_begin_later_wait_too(server: Server) -> None:
    server.apply(mode="isolated", state="active")
    server.apply(**with_dhcp(("web1", MAC, f"{SUBNET}.10"), mode="isolated", dns={"hosts": [{"name": "db", "address": f"{SUBNET}.12"}]}))
    assert server.waiting() == {"subnet", "gateway", "dhcp", "dns.hosts[db]"}
    server.apply(state="inactive")
    server.apply(state="active")
    assert server.waiting() == set() and eventually(lambda: asked("db", f"{SUBNET}.1") == f"{SUBNET}.12")


def test_autostart_is_switched_without_touching_what_runs(server: Server) -> None:
    server.apply(mode="isolated", state="active")
    link = Path(f"/etc/libvirt/qemu/networks/autostart/{NAME}.xml")
    assert link.is_symlink()
    server.apply(autostart=False)
    assert not link.is_symlink() and server.waiting() == set() and server.found().state.active


@pytest.mark.parametrize("running", [True, False])
def test_deletion_leaves_nothing(running: bool, server: Server) -> None:
    server.apply(**with_dhcp(("web1", MAC, f"{SUBNET}.10"), bridge=BRIDGE, state="active" if running else "inactive"))
    for step in server.steps(state="absent"):
        carry_out(server.connection, server.registry, step, "paris")
    assert not Path(f"/sys/class/net/{BRIDGE}").exists() and not list(DNSMASQ.glob(f"{NAME}.*"))
    assert read_network(server.connection, server.registry, NAME) is None and server.registry.names("network") == []
    assert SUBNET not in sh("iptables-save") and server.steps(state="absent") == ()


def test_what_others_made_is_changed_only_when_adopted_and_keeps_the_rest(server: Server) -> None:
    server.connection.networkDefineXML(FOREIGN)
    before = dumped()
    assert server.steps(subnet=f"{SUBNET}.0/24", bridge=BRIDGE, mode="nat") == ()
    for document in ({"mtu": 1400}, {"state": "active"}, {"state": "absent"}):
        with pytest.raises(Conflict, match="not made by Domus"):
            server.steps(**document)
    server.apply(**with_dhcp(("web1", MAC, f"{SUBNET}.10"), adopted=True, mtu=1400, state="active"))
    after = sh("virsh", "-c", "qemu:///system", "net-dumpxml", "--inactive", NAME)
    added = {"  <mtu size='1400'/>", f"      <host mac='{MAC}' name='web1' ip='{SUBNET}.10'/>"}
    assert set(after.splitlines()) - set(before.splitlines()) == added
    assert set(before.splitlines()) - set(after.splitlines()) == set()
    with pytest.raises(Conflict, match="not made by Domus"):
        server.steps(state="absent")
    carry_out(server.connection, server.registry, server.steps(state="absent", adopted=True)[0], "paris")
    assert read_network(server.connection, server.registry, NAME) is None


def test_a_network_without_a_definition_is_deleted_too(server: Server) -> None:
    server.connection.networkCreateXML(f"<network><name>{NAME}</name><bridge name='{BRIDGE}'/></network>")
    for _ in range(2):
        for step in server.steps(state="absent", adopted=True):
            carry_out(server.connection, server.registry, step, "paris")
    assert read_network(server.connection, server.registry, NAME) is None and not Path(f"/sys/class/net/{BRIDGE}").exists()


def test_an_update_broken_off_is_taken_again(server: Server) -> None:
    server.apply(**with_dhcp(("web1", MAC, f"{SUBNET}.10"), state="active"))
    changed = with_dhcp(("web1", "52:54:00:d0:00:02", f"{SUBNET}.10"), ("web2", MAC, f"{SUBNET}.11"))

    class Dying:
        def __init__(self, inner: Any, calls: list[str], last: int) -> None:
            self.inner, self.calls, self.last = inner, calls, last

        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any) -> Any:
                if name in ("update", "networkDefineXML"):
                    if len(self.calls) == self.last:
                        raise Killed
                    self.calls.append(name)
                result = getattr(self.inner, name)(*arguments)
                return Dying(result, self.calls, self.last) if isinstance(result, libvirt.virNetwork) else result

            return call

    for last in (0, 1, 1, 1):  # each time a call further: delete, add, add; the definition is still missing
        with pytest.raises(Killed):
            for step in server.steps(**changed):
                carry_out(Dying(server.connection, [], last), server.registry, step, "paris")
        assert [step.action for step in server.steps(**changed)] == ["update"]
    server.apply(**changed)
    assert server.waiting() == set() and dumped().count("<host ") == 2


def test_why_a_network_does_not_start_is_told(server: Server) -> None:
    server.apply(mode="isolated", subnet=f"{SUBNET}.0/24", bridge=BRIDGE, state="active")
    for rest, field in (
        ({"subnet": f"{SUBNET}.0/24"}, "subnet"),
        ({"subnet": f"{SUBNET}.0/25"}, "gateway"),
        ({"bridge": "lo"}, "bridge"),
        ({"bridge": BRIDGE}, "bridge"),
    ):
        with pytest.raises(Conflict) as caught:
            server.apply(name=f"{NAME}-b", state="active", **{"mode": "isolated", **rest})
        assert caught.value.field == field and caught.value.remedy
        assert [step.action for step in server.steps(name=f"{NAME}-b", mode="isolated", state="active")][-1] == "start"
        for step in server.steps(name=f"{NAME}-b", state="absent"):
            carry_out(server.connection, server.registry, step, "paris")


@pytest.fixture
def occupy() -> Iterator[Callable[[str], None]]:
    """Makes bridges outside libvirt; one that is there already does as well, and stays."""
    made = []

    def make(name: str) -> None:
        if subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False).returncode == 0:
            made.append(name)
        assert Path(f"/sys/class/net/{name}").exists()

    try:
        yield make
    finally:
        for name in made:
            sh("ip", "link", "delete", name)


def test_a_network_whose_chosen_bridge_is_taken_starts_with_another(server: Server, occupy: Callable[[str], None]) -> None:
    document = {"mode": "isolated", "subnet": f"{SUBNET}.0/24"}
    for _ in range(2):
        taken = server.apply(**document, state="inactive").state.bridge
        assert taken and taken.startswith("virbr")
        occupy(taken)
        found = server.apply(**document, state="active")
        assert found.state.active and found.state.bridge not in (None, taken) and found.spec.bridge is None
        assert found.running is found.spec and found.spec.autostart is True and server.waiting() == set()
        assert f"{SUBNET}.1/24" in sh("ip", "-4", "-brief", "address", "show", found.state.bridge) and Path(f"/sys/class/net/{taken}").exists()


def test_a_bridge_that_was_named_is_not_renamed(server: Server, occupy: Callable[[str], None]) -> None:
    name = f"virbr{os.getpid()}"
    server.apply(mode="isolated", bridge=name, state="inactive")
    occupy(name)
    for document in ({"bridge": name}, {}):
        with pytest.raises(Conflict) as caught:
            server.apply(state="active", **document)
        assert caught.value.field == "bridge" and "File exists" in caught.value.message and caught.value.remedy
    assert server.found().spec.bridge == name and not server.found().state.active


def test_networks_that_are_made_at_once_all_start(server: Server) -> None:
    def make(number: int) -> list[Found | None]:
        own = Server(connect("qemu:///system"), server.registry)
        try:
            names = [f"{NAME}-{number}-{one}" for one in range(6)]
            for name in names:
                for step in own.steps(name=name, mode="isolated", autostart=False, state="active"):
                    carry_out(own.connection, own.registry, step, "paris")
            return [read_network(own.connection, own.registry, name) for name in names]
        finally:
            own.connection.close()

    with ThreadPoolExecutor(4) as pool:
        found = [one for networks in pool.map(make, range(4)) for one in networks]
    bridges = {one.state.bridge for one in found if one and one.state.active}
    assert len(bridges) == len(found) == 24


def test_what_dnsmasq_says_is_passed_on(server: Server) -> None:
    server.connection.networkDefineXML(
        f"<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>{NAME}</name><ip address='{SUBNET}.1' prefix='24'/>"
        "<dnsmasq:options><dnsmasq:option value='nonsense'/></dnsmasq:options></network>"
    )
    with pytest.raises(DriverError, match="bad option") as caught:
        server.apply(adopted=True, state="active")
    assert "dnsmasq-base" in caught.value.remedy and not server.found().state.active


def test_a_bridge_of_the_server_is_used_and_stays(server: Server) -> None:
    with pytest.raises(NotFound) as caught:
        server.apply(mode="bridge", bridge=BRIDGE, state="active")
    assert caught.value.value == BRIDGE and read_network(server.connection, server.registry, NAME) is None
    sh("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        found = server.apply(mode="bridge", bridge=BRIDGE, switch="linux", state="active")
        assert found.state.active and found.running is found.spec and found.state.leases == 0
        server.apply(state="inactive")
        # For the kernel a bridge of Open vSwitch is a plain interface; this one stands for it.
        found = server.apply(mode="bridge", switch="openvswitch", bridge=BRIDGE, vlan=100, state="active")
        assert found.running is found.spec and "<virtualport type='openvswitch'/>" in dumped() and "<tag id='100'/>" in dumped()
        for step in server.steps(state="absent"):
            carry_out(server.connection, server.registry, step, "paris")
        assert Path(f"/sys/class/net/{BRIDGE}").exists()
    finally:
        sh("ip", "link", "delete", BRIDGE)
