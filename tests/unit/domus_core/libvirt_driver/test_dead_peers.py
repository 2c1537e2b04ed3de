"""Connections of another process are given keepalive, those to the other server and no others."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.libvirt_driver import dead_peers
from domus_core.libvirt_driver.dead_peers import COUNT, IDLE, INTERVAL, UNREAD, DeadPeers, watched

UUID = "0e3f5a9c-0000-4000-8000-0000000000aa"
# As QEMU: a name and a UUID among its arguments, one connection to each port it is told.
PROGRAM = """
import socket, sys
listens = socket.create_server(("127.0.0.2", 0))
made = [socket.create_connection((host, int(port))) for host, port in (word.split("/") for word in sys.argv[3:])]
print("ready", flush=True)
sys.stdin.readline()
names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *((socket.IPPROTO_TCP, getattr(socket, name)) for name in names)]
print([[one.getsockopt(*option) for option in options] for one in made], flush=True)
"""


def qemu(*words: str) -> subprocess.Popen[str]:
    """A process that looks like the domain's QEMU, with a connection to each place."""
    command = ["qemu-system-test", "-c", PROGRAM, "-uuid", UUID, *words]
    return subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def servers() -> Iterator[list[socket.socket]]:
    made = [socket.create_server((host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
    yield made
    for one in made:
        one.close()


def test_only_connections_to_the_other_server_end_when_it_is_gone(servers: list[socket.socket]) -> None:
    words = ["{}/{}".format(*server.getsockname()) for server in servers]
    with qemu(*words) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        peers = DeadPeers(UUID, "127.0.0.2")
        assert [peers.watch(), peers.watch()] == [1, 0]
        told, dummy = process.communicate("\n")
    other, armed = eval(told)
    assert other[0] == 0
    assert armed == [1, IDLE, INTERVAL, COUNT, UNREAD]


def test_they_are_seen_to_while_somebody_waits(servers: list[socket.socket]) -> None:
    with qemu("{}/{}".format(*servers[1].getsockname())) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
        with watched(UUID, "127.0.0.2"):
            time.sleep(5 * dead_peers.POLL)
        told, dummy = process.communicate("\n")
    assert eval(told) == [[1, IDLE, INTERVAL, COUNT, UNREAD]]


def test_what_may_not_be_taken_is_told(servers: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*dummy: Any) -> Any:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(dead_peers, "_taken", refused)
    with qemu("{}/{}".format(*servers[0].getsockname())) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        peers = DeadPeers(UUID, "127.0.0.1")
        assert peers.watch() == 0
        assert "Operation not permitted" in peers.problem
        process.communicate("\n")


def test_a_process_that_is_not_there_concerns_nobody() -> None:
    assert DeadPeers(UUID, "127.0.0.1").watch() == 0
    assert DeadPeers(UUID, "no-such-host.invalid").watch() == 0
