"""The network of a lab: a bridge per segment with a fixed address, a port per card of a host, and cuts in it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from .cgroups import Group
from .commands import LabError, require, run

Direction = Literal["both", "from", "to"]
# All labs live in 10.213.0.0/16, a lab in 10.213.NUMBER.0/24.
PREFIX = "10.213"
# A lab is an island, also where this machine forwards packets.
RULES = """
table inet {table} {{
    chain forward {{
        type filter hook forward priority -300;
        iifname {table} oifname != {table} drop
        oifname {table} iifname != {table} drop
    }}
}}
table bridge {table} {{
    set silent_from {{ type ifname; }}
    set silent_to {{ type ifname; }}
    set parted {{ type ifname . ifname; }}
    chain from_hosts {{ type filter hook prerouting priority -300; iifname @silent_from drop; }}
    chain between {{ type filter hook forward priority -300; iifname . oifname @parted drop; }}
    chain to_hosts {{ type filter hook postrouting priority 300; oifname @silent_to drop; }}
}}
"""


class Network:
    """What a lab with this number has on the machine. Interfaces are called dhNUMBER..., so that labs stand side by side."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"dh{number}"
        self.subnet = f"{PREFIX}.{number}.0/24"
        self.gateway = f"{PREFIX}.{number}.1"
        self._wires: list[subprocess.Popen[bytes]] = []

    def bridge(self, segment: int) -> str:
        """The bridge of a segment; segment 0 is where hosts have their address."""
        return self.name if segment == 0 else f"{self.name}s{segment}"

    def address(self, host: int) -> str:
        """The address of the host with this index (from 1)."""
        return f"{PREFIX}.{self.number}.{10 + host}"

    def port(self, host: int, card: int) -> str:
        """The machine's end of a host's card."""
        return f"{self.name}-{host}e{card}"

    def namespace(self, host: int) -> str:
        """The name of a container's network namespace."""
        return f"{self.name}-{host}"

    def mac(self, host: int, card: int) -> str:
        """The hardware address of a host's card."""
        return f"02:d0:57:{self.number:02x}:{host:02x}:{card:02x}"

    def ensure(self, segment: int) -> None:
        """Make the bridge of a segment, and the rules that cuts go into, when they are missing."""
        require("nft", "nftables")
        bridge = self.bridge(segment)
        if not Path("/sys/class/net", bridge).exists():
            # Without a fixed address it would take a port's, and change it when that host dies.
            ip("link", "add", bridge, "address", self.mac(0, segment), "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
            Path(f"/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6").write_text("1")
            if segment == 0:
                ip("address", "add", f"{self.gateway}/24", "dev", bridge)
            ip("link", "set", bridge, "up")
        if subprocess.run(["nft", "list", "table", "bridge", self.name], capture_output=True, check=False).returncode:
            run("nft", "-f", "-", text=RULES.format(table=self.name))

    def connect_container(self, host: int, segments: tuple[int, ...]) -> str:
        """A new network namespace with a card eth0, eth1... per segment; returns its path."""
        self.disconnect(host)
        namespace = self.namespace(host)
        ip("netns", "add", namespace)
        for card, segment in enumerate(segments):
            self.ensure(segment)
            port = self.port(host, card)
            ip("link", "add", port, "type", "veth", "peer", "name", f"eth{card}", "address", self.mac(host, card), "netns", namespace)
            self.attach(port, segment)
        return f"/run/netns/{namespace}"

    def connect_machine(self, host: int, segments: tuple[int, ...]) -> list[str]:
        """A tap per segment; returns their names."""
        self.disconnect(host)
        ports = []
        for card, segment in enumerate(segments):
            self.ensure(segment)
            ports.append(self.port(host, card))
            ip("tuntap", "add", ports[-1], "mode", "tap")
            self.attach(ports[-1], segment)
        return ports

    def attach(self, port: str, segment: int) -> None:
        """Plug a port into the bridge of its segment."""
        Path(f"/proc/sys/net/ipv6/conf/{port}/disable_ipv6").write_text("1")
        ip("link", "set", port, "master", self.bridge(segment), "up")

    def disconnect(self, host: int) -> None:
        """Remove the cards and the namespace of a host, and the cuts in its way, also those at ports that are gone already."""
        for port in {*self.ports(host), *self._cut_ports(host)}:
            self.restore(port)
        namespace = self.namespace(host)
        if Path("/run/netns", namespace).exists():
            ip("netns", "delete", namespace)
        for port in self.ports(host):
            with contextlib.suppress(LabError):  # the namespace took it along
                ip("link", "delete", port)

    def ports(self, host: int) -> list[str]:
        """The ports of a host that exist now."""
        return sorted(path.name for path in Path("/sys/class/net").glob(f"{self.name}-{host}e*"))

    def cut(self, port: str, direction: Direction) -> None:
        """Drop every frame from the host, to the host, or both; the host's card still shows a carrier."""
        for side in ("from", "to") if direction == "both" else (direction,):
            run("nft", "add", "element", "bridge", self.name, f"silent_{side}", "{", f'"{port}"', "}")

    def part(self, port: str, other: str) -> None:
        """Drop every frame between two ports, both ways."""
        pairs = f'{{ "{port}" . "{other}", "{other}" . "{port}" }}'
        run("nft", "add", "element", "bridge", self.name, "parted", pairs)

    def degrade(self, port: str, segment: int, settings: Mapping[str, Mapping[str, float]]) -> None:
        """Put a bad wire (wire.py) between the port and the bridge."""
        self._mend_wire(port)
        outer, inner = self._wire(port)
        ip("link", "add", inner, "type", "veth", "peer", "name", outer)
        for name in (port, outer):
            # The machine itself must not answer what passes here.
            ip("link", "set", name, "nomaster", "arp", "off")
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            ip("link", "set", name, "up")
        group = self._wire_group(port)
        group.make()
        command = group.command(sys.executable, str(Path(__file__).with_name("wire.py")), port, outer, json.dumps(settings))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise LabError(f"the bad wire at {port} did not start")
        process.stdout.close()
        self._wires.append(process)
        self.attach(inner, segment)

    def _wire(self, port: str) -> tuple[str, str]:
        """The interfaces of the wire at a port: the one that the process reads, and the one in the bridge."""
        return port.replace("e", "o"), port.replace("e", "i")

    def _wire_group(self, port: str) -> Group:
        return Group(f".{self.name}", port)

    def _mend_wire(self, port: str) -> None:
        outer, inner = self._wire(port)
        if not Path("/sys/class/net", inner).exists():
            return
        segment = Path("/sys/class/net", inner, "master").resolve().name.partition("s")[2]
        self._wire_group(port).remove()
        for process in self._wires:
            process.poll()
        ip("link", "delete", inner)
        if Path("/sys/class/net", port).exists():
            ip("link", "set", port, "arp", "on")
            self.attach(port, int(segment or 0))

    def restore(self, port: str) -> None:
        """Take back every cut at this port, and a bad wire."""
        self._mend_wire(port)
        for name in ("silent_from", "silent_to"):
            with contextlib.suppress(LabError):  # it was not in there
                run("nft", "delete", "element", "bridge", self.name, name, "{", f'"{port}"', "}")
        for pair in self._pairs_with(port):
            run("nft", "delete", "element", "bridge", self.name, "parted", "{", pair, "}")

    def _cut_ports(self, host: int) -> set[str]:
        """The ports of a host that a rule speaks of: the next host of its number would be cut as well."""
        told = subprocess.run(["nft", "list", "table", "bridge", self.name], capture_output=True, text=True, check=False).stdout
        return set(re.findall(rf'"({re.escape(self.name)}-{host}e\d+)"', told))

    def _pairs_with(self, port: str) -> list[str]:
        try:
            text = run("nft", "list", "set", "bridge", self.name, "parted")
        except LabError:
            return []
        inside = text.partition("elements = {")[2].partition("}")[0]
        return [pair.strip() for pair in inside.split(",") if f'"{port}"' in pair]

    def remove(self) -> None:
        """Remove everything that carries this lab's number."""
        for path in Path("/run/netns").glob(f"{self.name}-*"):
            run("ip", "netns", "delete", path.name)
        Group(f".{self.name}").remove()
        names = [path.name for path in Path("/sys/class/net").iterdir()]
        for name in names:
            if name.startswith(f"{self.name}-") or name == self.name or name.startswith(f"{self.name}s"):
                with contextlib.suppress(LabError):  # its other end went first
                    ip("link", "delete", name)
        for family in ("bridge", "inet"):
            subprocess.run(["nft", "delete", "table", family, self.name], capture_output=True, check=False)


def ip(*words: str) -> None:
    """ip(8)."""
    run("ip", *words)
