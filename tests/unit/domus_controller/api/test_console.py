"""The serial console: bytes both ways, and an end that says why."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import simple_websocket
from domus_controller.console import _bound_sending
from domus_core.errors import Unreachable
from werkzeug.serving import make_server

from tests.unit.domus_controller.api.fakes import Manager, basic


class FakeConsole:
    """The agent's side of a console: what is typed comes back in upper case."""

    def __init__(self) -> None:
        self.output: queue.Queue[bytes | None] = queue.Queue()
        self.closed: Any = None

    def receive(self, timeout: float | None = None) -> bytes | None:
        if self.closed:
            raise simple_websocket.ConnectionClosed(*self.closed)
        try:
            data = self.output.get(timeout=min(timeout or 0.1, 0.1))
        except queue.Empty:
            return None
        if data is None:
            raise simple_websocket.ConnectionClosed(1000, "the VM has ended")
        return data

    def send(self, data: bytes) -> None:
        self.output.put(data.upper())

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        self.closed = (reason, message)


@pytest.fixture
def address(manager: Manager) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, manager.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}/api/v1/vms"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def console(manager: Manager) -> FakeConsole:
    made = FakeConsole()
    manager.agents.consoles[manager.report("vm", "web1")] = made
    return made


def connect(manager: Manager, address: str, vm: str = "web1", role: str = "operator") -> Any:
    return simple_websocket.Client(f"ws://{address}/{vm}/console", headers={"Authorization": f"Bearer {manager.tokens[role]}"})


def end_of(client: Any) -> simple_websocket.ConnectionClosed:
    with pytest.raises(simple_websocket.ConnectionClosed) as raised:
        while True:
            client.receive(timeout=20)
    return raised.value


def wait_until_free(manager: Manager) -> None:
    for dummy in range(500):
        if not manager.parts.consoles.taken:
            return
        threading.Event().wait(0.02)
    raise AssertionError("the place was not given back")


def test_bytes_go_both_ways_until_the_caller_leaves(manager: Manager, address: str, console: FakeConsole) -> None:
    client = connect(manager, address)
    client.send(b"login\r")
    assert client.receive(timeout=20) == b"LOGIN\r"
    client.send("text, too")
    assert client.receive(timeout=20) == b"TEXT, TOO"
    assert manager.parts.consoles.taken == 1
    client.close()
    wait_until_free(manager)
    assert console.closed is not None


def test_the_end_of_the_vm_is_the_end_of_the_console(manager: Manager, address: str, console: FakeConsole) -> None:
    client = connect(manager, address)
    console.output.put(b"bye")
    console.output.put(None)
    assert client.receive(timeout=20) == b"bye"
    assert end_of(client).message == "the VM has ended"
    wait_until_free(manager)


def test_what_goes_wrong_is_the_reason_of_the_close(manager: Manager, address: str, console: FakeConsole) -> None:
    assert "is not there" in str(end_of(connect(manager, address, "nothing")).message)
    manager.agents.failure = Unreachable("does not answer", object="server srv1")
    assert "does not answer" in str(end_of(connect(manager, address)).message)
    manager.agents.failure = None
    held = [manager.parts.consoles.take() for dummy in range(manager.parts.consoles.most)]
    assert "in use" in str(end_of(connect(manager, address)).message)
    for give_back in held:
        give_back()


def test_the_gate_stands_before_the_console(manager: Manager, address: str, console: FakeConsole) -> None:
    with pytest.raises(simple_websocket.ConnectionError) as raised:
        connect(manager, address, role="viewer")
    assert raised.value.status_code == 403
    with pytest.raises(simple_websocket.ConnectionError) as raised:
        simple_websocket.Client(f"ws://{address}/web1/console", headers={**basic("operator"), "Origin": "https://evil.example"})
    assert raised.value.status_code == 403


def test_who_loses_a_console_hears_who_took_it(manager: Manager, address: str, console: FakeConsole) -> None:
    first = connect(manager, address)
    first.send(b"a")
    assert first.receive(timeout=20) == b"A"
    second = FakeConsole()
    manager.agents.consoles[next(iter(manager.agents.consoles))] = second
    taking = simple_websocket.Client(f"ws://{address}/web1/console?force=true", headers={"Authorization": f"Bearer {manager.tokens['administrator']}"})
    taking.send(b"b")
    assert taking.receive(timeout=20) == b"B"
    console.output.put(None)  # the agent ends the console of the first
    end = end_of(first)
    assert "administrator took this console over" in str(end.message)
    taking.close()
    wait_until_free(manager)
    assert manager.parts.relays._sides == {}


def test_a_console_that_can_not_be_taken_stays_with_its_owner(manager: Manager, address: str, console: FakeConsole) -> None:
    first = connect(manager, address)
    first.send(b"a")
    assert first.receive(timeout=20) == b"A"
    manager.agents.failure = Unreachable("does not answer", object="server srv1")
    assert "does not answer" in str(end_of(simple_websocket.Client(f"ws://{address}/web1/console?force=true", headers=basic("operator"))).message)
    manager.agents.failure = None
    console.output.put(None)
    assert end_of(first).message == "the VM has ended"


def test_a_side_that_is_gone_already_is_no_surprise() -> None:
    one, other = socket.socketpair()
    one.close()
    other.close()
    _bound_sending(SimpleNamespace(sock=one))
