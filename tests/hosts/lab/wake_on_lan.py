"""The network cards of hosts that are off: whoever sends them a magic packet in their lab's network switches them on."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from .commands import LabError
from .host import Host
from .lab import Lab

PORT = 9
SYNC = b"\xff" * 6


class WakeOnLan:
    """Listens on the bridge for magic packets; `woken` are the names of the hosts that were switched on."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.woken = lab, list[str]()
        self._door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, lab.network.bridge(0).encode())
        self._door.bind(("", PORT))
        self._door.settimeout(0.5)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> WakeOnLan:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(10)
        self._door.close()

    def _listen(self) -> None:
        while not self._end.is_set():
            with suppress(socket.timeout, LabError):
                self._take(self._door.recv(2000))

    def _take(self, packet: bytes) -> None:
        for host in self.lab.hosts():
            mac = bytes.fromhex(self.lab.network.mac(host.traits.index, 0).replace(":", ""))
            if packet == SYNC + mac * 16 and not host.is_running:
                self.woken.append(host.name)
                _start(host)


def _start(host: Host) -> None:
    host.power_off()  # what is left of one that has switched itself off
    host.start()
