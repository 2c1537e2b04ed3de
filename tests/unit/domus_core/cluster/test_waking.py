"""Servers are woken: by each fence device that can, as Pacemaker would, and by packets to all."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from domus_core.cluster import waking
from domus_core.cluster.waking import magic_packet, power_on, send_magic_packets
from domus_core.errors import DriverError, InvalidSpec, NotFound
from domus_core.libvirt_driver import tools
from domus_core.libvirt_driver.xml_fields import etree

MAC = "52:54:00:ab:cd:ef"


def pool(*devices: tuple[str, str]) -> object:
    """A pool of a, b and c with these devices: name and the servers it can cut."""
    made = "".join(
        f'<primitive id="domus-fence-{name}" class="stonith" type="fence_test"><instance_attributes>'
        f'<nvpair name="pcmk_host_map" value="{plugs}"/><nvpair name="ip" value="192.0.2.9"/></instance_attributes></primitive>'
        for name, plugs in devices
    )
    nodes = "".join(f'<node uname="{name}"/>' for name in "abc")
    return etree.fromstring(f"<cib><configuration><nodes>{nodes}</nodes><resources>{made}</resources></configuration></cib>")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tools, "SEARCH_PATH", f"{tmp_path}:{tools.SEARCH_PATH}")
    made = tmp_path / "fence_test"
    made.write_text(f'#!/bin/sh\ninput=$(cat)\necho "$input" >>{tmp_path}/asked\necho "$input" | grep -q plug=bad && exit 1\nexit 0\n')
    made.chmod(0o755)
    return tmp_path / "asked"


def test_each_device_of_the_server_switches_it_on(agent: Path) -> None:
    done = power_on("a", "b", pool(("one", "b:1;c:2"), ("two", "b:bad")))
    assert [(one.device, one.problem is None) for one in done] == [("one", True), ("two", False)]
    told = agent.read_text()
    assert "action=on" in told and "plug=1" in told and "ip=192.0.2.9" in told and "plug=2" not in told


def test_without_a_device_that_can_it_says_so(agent: Path) -> None:
    with pytest.raises(NotFound, match="no fence device that can switch it on"):
        power_on("a", "b", pool(("one", "c:1")))
    with pytest.raises(DriverError, match="can not be switched on: one: "):
        power_on("a", "b", pool(("one", "b:bad")))


def test_a_magic_packet_is_six_ff_and_sixteen_times_the_card() -> None:
    packet = magic_packet(MAC.upper())
    assert len(packet) == 102 and packet == b"\xff" * 6 + bytes.fromhex("525400abcdef") * 16
    for wrong in ("", "52:54:00:ab:cd", "525400abcdef", f"{MAC};x"):
        with pytest.raises(InvalidSpec):
            magic_packet(wrong)


def test_packets_go_to_all_in_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(5)
        monkeypatch.setattr(waking, "broadcast_addresses", lambda door: ["127.0.0.1"])
        assert send_magic_packets([MAC], card.getsockname()[1]) == ["127.0.0.1"]
        assert card.recv(2000) == magic_packet(MAC)
    monkeypatch.setattr(waking, "broadcast_addresses", lambda door: [])
    with pytest.raises(DriverError, match="no network"):
        send_magic_packets([MAC])


def test_the_broadcast_addresses_are_of_networks_and_not_of_the_server_itself() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        found = waking.broadcast_addresses(door)
    assert not any(address.startswith("127.") or address == "0.0.0.0" for address in found)
