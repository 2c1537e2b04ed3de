"""Servers that are off are woken: by their pool's fence devices, or by a magic packet (wake-on-LAN) to their network cards."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import struct
from collections.abc import Iterable
from typing import Any, Optional

from ..errors import DomusError, DriverError, InvalidSpec, NotFound
from ..libvirt_driver.tools import run
from .fence_tests import Question, questions
from .pacemaker import Pacemaker

# Devices wait until the power is on; some take a minute.
SECONDS = 90.0
# Discard: whoever listens there throws it away. The card itself looks at every frame.
PORT, COPIES = 9, 3
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SIOCGIFBRDADDR = 0x8919
_AGENT = re.compile(r"fence_[\w-]+")


@dataclasses.dataclass(frozen=True)
class SwitchedOn:
    """What a fence device did about the power of a server; `problem` is why it could not."""

    device: str
    problem: Optional[str] = None


def power_on(own: str, server: str, cib: Any = None) -> list[SwitchedOn]:
    """Have every fence device of a pool's member switch it on: one with two power supplies may need both. `own` is the server that asks.

    Raises NotFound when no device can switch it, DriverError when each of them has failed.
    """
    wanted = [one for one in questions(Pacemaker().read() if cib is None else cib, own, "on") if one.server == server]
    if not wanted:
        raise NotFound("its pool has no fence device that can switch it on", object=f"server {server}", remedy="Switch it on by hand")
    done = [_switch_on(one) for one in wanted]
    failed = "; ".join(f"{one.device}: {one.problem}" for one in done if one.problem)
    if all(one.problem for one in done):
        raise DriverError(f"can not be switched on: {failed}", object=f"server {server}", remedy="See which device answers: domus pool fence-test")
    return done


def _switch_on(question: Question) -> SwitchedOn:
    if not _AGENT.fullmatch(question.agent):
        return SwitchedOn(question.device, f"{question.agent} is no fence agent that can be asked")
    text = "".join(f"{name}={value}\n" for name, value in question.options)
    try:
        run([question.agent], timeout=SECONDS, input=text.encode(), what=f"switching {question.server} on by {question.device}")
    except DomusError as error:
        return SwitchedOn(question.device, str(error))
    return SwitchedOn(question.device)


def send_magic_packets(macs: Iterable[str], port: int = PORT) -> list[str]:
    """Send the packets that wake these network cards into every network of this server; returns the broadcast addresses that they went to.

    Nobody answers such a packet: that the server is heard is the only proof. Raises InvalidSpec for what is no MAC address, DriverError
    when there is no network to send into.
    """
    packets = [magic_packet(mac) for mac in macs]
    sent = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in broadcast_addresses(door):
            with contextlib.suppress(OSError):
                for packet in packets * COPIES:
                    door.sendto(packet, (address, port))
                sent.append(address)
    if not sent:
        raise DriverError("this server has no network into which it could send a packet to all", remedy="Ask another server, or switch it on by hand")
    return sent


def magic_packet(mac: str) -> bytes:
    """What a sleeping network card waits for. Raises InvalidSpec."""
    if not MAC.fullmatch(mac.lower()):
        raise InvalidSpec("is not a MAC address", field="macs", value=mac)
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16


def broadcast_addresses(door: socket.socket) -> list[str]:
    """The broadcast address of each network that this server has an address in, without those of itself alone."""
    import fcntl

    found = []
    for dummy, name in socket.if_nameindex():
        with contextlib.suppress(OSError):
            answer = fcntl.ioctl(door.fileno(), _SIOCGIFBRDADDR, struct.pack("256s", name.encode()[:15]))
            found.append(socket.inet_ntoa(answer[20:24]))
    return sorted({address for address in found if address != "0.0.0.0" and not address.startswith("127.")})
