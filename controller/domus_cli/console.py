"""The serial console of a VM in this terminal: through the manager and the agent."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from domus_core.clients.manager import ManagerClient
from domus_core.errors import Unreachable
from simple_websocket import Client, ConnectionClosed, ConnectionError

ESCAPE = b"\x1d"  # Ctrl-], as virsh console and telnet


def attach(manager: ManagerClient, vm: str, *, force: bool) -> None:
    """Connect the terminal with the VM's serial console until Ctrl-], or until either side ends. Raises DomusError."""
    found = manager.get(f"/api/v1/vms/{vm}")
    path = f"/api/v1/vms/{found['id']}/console" + ("?force=true" if force else "")
    url = manager.url.replace("https:", "wss:", 1).replace("http:", "ws:", 1) + path
    try:
        socket = Client(url, headers={"Authorization": manager.authorization or ""}, ssl_context=manager.context)
    except (ConnectionError, ConnectionClosed, OSError) as error:
        raise Unreachable(f"its console can not be opened: {error}", object=f"vm {vm}", remedy="Does it run? domus vm show") from None
    print(f"Serial console of {found['name']}; Ctrl-] ends it.", file=sys.stderr)
    ends: list[ConnectionClosed] = []
    with _raw(sys.stdin.fileno()):
        reader = threading.Thread(target=_show, args=(socket, ends), daemon=True)
        reader.start()
        _type(socket, reader)
    with suppress(ConnectionClosed):
        socket.close()
    print("", file=sys.stderr)
    if ends and ends[0].message:
        raise Unreachable(f"its console was closed: {ends[0].message}", object=f"vm {vm}")


def _show(socket: Client, ends: list[ConnectionClosed]) -> None:
    """Show what the VM says; how the other side ended it goes into `ends`."""
    try:
        while True:
            received = socket.receive()
            os.write(sys.stdout.fileno(), received.encode() if isinstance(received, str) else received)
    except ConnectionClosed as end:
        ends.append(end)


def _type(socket: Client, reader: threading.Thread) -> None:
    """Send what is typed; input that ends (a pipe) leaves the console open until the other side ends."""
    with suppress(ConnectionClosed):
        while reader.is_alive():
            if not select.select([sys.stdin], [], [], 0.2)[0]:
                continue
            typed = os.read(sys.stdin.fileno(), 4096)
            before, escape, dummy = typed.partition(ESCAPE)
            if before:
                socket.send(before)
            if escape or not typed:
                return


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal hands on every key; a pipe is left as it is."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
