"""QEMU's connections to another server end when that server is gone.

QEMU waits for the answers of the other side without a limit, libvirt's peer-to-peer migration waits for QEMU, and neither of
them asks TCP for keepalive: after a cut at the wrong moment a VM would stand for ever, with its monitor hung (seen). So its
sockets are given keepalive and a limit for what stays unacknowledged, see tcp(7) and pidfd_getfd(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Iterator

from .qemu_processes import find_qemu

# Seconds until the first probe, between probes; how many may stay unanswered; ms that sent data may stay unacknowledged or unread.
IDLE, INTERVAL, COUNT, UNREAD = 5, 5, 3, 60_000
POLL = 0.1
_PIDFD_GETFD = 438  # the same on all architectures


class DeadPeers:
    """The process of a domain, and its connections to an address that have been seen to."""

    def __init__(self, uuid: str, address: str, proc: str = "/proc") -> None:
        self._proc = proc
        self._pid = next(iter(find_qemu(uuid, proc)[0]), None)
        self._addresses = _addresses(address)
        self._seen: set[str] = set()
        self.problem = ""

    def watch(self) -> int:
        """See to the connections that are new; return how many. What can not be done is left as it was, and `problem` says why: the migration goes on."""
        if self._pid is None:
            return 0
        armed = 0
        with contextlib.suppress(OSError):
            for descriptor, link in self._new_sockets():
                self._seen.add(link)
                try:
                    with _taken(self._pid, descriptor) as taken:
                        armed += self._arm(taken)
                except PermissionError as error:
                    self.problem = f"a server that is gone may be noticed late, QEMU's connections can not be taken: {error}"
                except OSError:  # closed meanwhile, or not connected
                    continue
        return armed

    def _new_sockets(self) -> Iterator[tuple[int, str]]:
        directory = f"{self._proc}/{self._pid}/fd"
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                link = os.readlink(f"{directory}/{name}")
                if link.startswith("socket:") and link not in self._seen:
                    yield int(name), link

    def _arm(self, taken: socket.socket) -> bool:
        if taken.family not in (socket.AF_INET, socket.AF_INET6) or taken.type != socket.SOCK_STREAM:
            return False
        if taken.getpeername()[0].removeprefix("::ffff:") not in self._addresses:
            return False
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, IDLE), (socket.TCP_KEEPINTVL, INTERVAL), (socket.TCP_KEEPCNT, COUNT), (socket.TCP_USER_TIMEOUT, UNREAD)):
            taken.setsockopt(socket.IPPROTO_TCP, option, value)
        return True


@contextlib.contextmanager
def watched(uuid: str, address: str) -> Iterator[None]:
    """See to the connections of a domain to an address, in a thread of its own, for as long as the block lasts."""
    peers, ended = DeadPeers(uuid, address), threading.Event()

    def watch() -> None:
        while not ended.wait(POLL):
            peers.watch()

    threading.Thread(target=watch, name="dead-peers", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def _taken(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """A socket of another process, as a second descriptor of ours. Raises OSError."""
    process = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        number = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(process)
    with socket.socket(fileno=number) as taken:
        yield taken


def _addresses(host: str) -> frozenset[str]:
    with contextlib.suppress(OSError):
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM))
    return frozenset()
