"""A bad wire: frames between a host's port and its bridge pass through a process that delays, drops and slows them down.

Not every kernel has netem (the one of the machine that tests this has not), and a process can do it for both directions alike:
`wire.py OUTER INNER SETTINGS` passes frames between two interfaces, with SETTINGS = {"from": {"delay": ..}, "to": {..}} as JSON.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import sys
import time
from dataclasses import dataclass

ETH_P_ALL = 3
SOL_PACKET = 263
# With each frame comes what the kernel still wants to do to it (checksum, segments), and goes out again unchanged.
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
LARGEST = 10 + 14 + 65536
# Frames under way in one direction; more are dropped, as a full queue of a switch does.
QUEUE = 2000


@dataclass
class Quality:
    """How one direction is: seconds of delay, share of frames lost (0 to 1), bytes per second (0: no limit)."""

    delay: float = 0.0
    loss: float = 0.0
    rate: float = 0.0


class Pipe:
    """One direction."""

    def __init__(self, source: socket.socket, target: socket.socket, quality: Quality) -> None:
        self.source, self.target, self.quality = source, target, quality
        self._under_way: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._free_at = 0.0

    def take(self) -> None:
        """Take a frame in, or lose it."""
        frame = self.source.recv(LARGEST)
        if random.random() < self.quality.loss or len(self._under_way) >= QUEUE:
            return
        now = time.monotonic()
        if self.quality.rate:
            now = self._free_at = max(now, self._free_at) + len(frame) / self.quality.rate
        self._count += 1
        heapq.heappush(self._under_way, (now + self.quality.delay, self._count, frame))

    def deliver(self) -> float:
        """Send what is due; returns the seconds until the next one is."""
        while self._under_way:
            wait = self._under_way[0][0] - time.monotonic()
            if wait > 0:
                return wait
            try:
                self.target.send(heapq.heappop(self._under_way)[2])
            except OSError:
                pass  # the other end is down: the frame is lost
        return 1.0


def main() -> None:
    """Pass frames until killed."""
    outer, inner = (_listen(name) for name in sys.argv[1:3])
    settings = json.loads(sys.argv[3])
    pipes = [Pipe(outer, inner, Quality(**settings.get("from", {}))), Pipe(inner, outer, Quality(**settings.get("to", {})))]
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([outer, inner], [], [], min(pipe.deliver() for pipe in pipes))
        for pipe in pipes:
            if pipe.source in ready:
                pipe.take()


def _listen(name: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    for option in (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
        found.setsockopt(SOL_PACKET, option, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    found.bind((name, ETH_P_ALL))
    return found


if __name__ == "__main__":
    main()
