"""Silent servers are told once, and those that come back, and nobody is condemned by a manager that did not listen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from domus_controller.agents.watch import Watch
from domus_controller.store import callbacks, events, objects, server_states, servers
from domus_controller.store.database import Store
from domus_core.errors import DomusError, Forbidden, NoCapacity, Unreachable

LIMITS = server_states.Limits(disconnected=30, offline=120)
NETWORK = {"kind": "network", "key": "lan", "id": "n1", "name": "lan", "site": None, "generation": 0, "state": "active", "spec": {"name": "lan"}}
NETWORK |= {"recorded": None, "running": True, "measured": {}, "fingerprint": "f", "restart_required": []}


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Agents:
    """Agents that know nothing but their inventory; `failure` is raised instead of an answer."""

    def __init__(self) -> None:
        self.failure: DomusError | None = None
        self.asked: list[str] = []

    def call(self, server_id: str, method: str, parameters: Mapping[str, Any], timeout: float = 30) -> Any:
        """The inventory."""
        self.asked.append(method)
        if self.failure:
            raise self.failure
        return {"objects": [NETWORK], "server": {}}


class Room:
    """A store with one server, and what watches it."""

    def __init__(self, directory: Path) -> None:
        self.clock, self.uptime, self.agents = Clock(), Clock(), Agents()
        self.store = Store(directory, self.clock)
        servers.add(self.store, {"id": "s1", "name": "srv1", "address": "192.0.2.1", "port": 8899, "serial": "1"})
        self.start_manager()

    def start_manager(self) -> None:
        """A new manager on the same store."""
        self.watch = Watch(self.store, self.agents, LIMITS, "https://manager", self.uptime)  # type: ignore[arg-type]

    def hear(self) -> None:
        """A callback comes."""
        self.store.write(lambda connection: server_states.heard(connection, "s1", self.clock.now, "1", "up"))

    def wait(self, seconds: float) -> None:
        """Time passes, and the manager looks."""
        for dummy in range(round(seconds)):
            self.clock.now += 1
            self.uptime.now += 1
            self.watch.look()

    @property
    def state(self) -> Any:
        return servers.find(self.store, "s1")["state"]

    def told(self) -> list[str]:
        """The events since the last call, the oldest first."""
        found = events.page(self.store, since=self.seen)["items"]
        self.seen = found[-1]["id"] if found else self.seen
        return [one["kind"] for one in found]

    seen = 0


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def running(room: Room) -> Room:
    room.hear()
    room.watch.look()
    assert (room.state, room.told()) == ("running", ["server.running"])
    return room


def test_silence_and_return_are_told_once_each(running: Room) -> None:
    room = running
    room.wait(29)
    assert (room.state, room.told()) == ("running", [])
    room.wait(2)
    assert (room.state, room.told()) == ("disconnected", ["server.disconnected"])
    room.wait(120)
    assert (room.state, room.told()) == ("offline", ["server.offline"])
    room.wait(10)
    room.hear()
    room.wait(10)
    assert (room.state, room.told()) == ("running", ["server.running"])
    told = events.page(room.store, filters={"kind": "server.running"})["items"][0]
    assert (told["data"]["before"], told["data"]["silent_seconds"], told["severity"]) == ("offline", 161.0, "info")


def test_a_server_that_was_never_heard_is_not_told_as_gone(room: Room) -> None:
    room.wait(300)
    assert (room.state, room.told()) == ("unknown", [])


def test_a_restarted_manager_gives_everybody_time_to_report(running: Room) -> None:
    room = running
    room.clock.now += 3600
    room.start_manager()
    room.wait(29)
    assert (room.state, room.told()) == ("running", [])
    room.wait(3)
    assert (room.state, room.told()) == ("disconnected", ["server.disconnected"])


def test_what_was_offline_before_the_restart_stays_so_until_it_is_heard(running: Room) -> None:
    room = running
    room.wait(130)
    room.start_manager()
    room.wait(60)
    assert (room.state, room.told()) == ("offline", ["server.disconnected", "server.offline"])
    room.hear()
    assert (room.state, room.told()) == ("running", ["server.running"])


@pytest.mark.parametrize(
    ("wall", "uptime"),
    [(3600, 0), (3600, 3600), (-3600, 0)],
    ids=["the clock is set forward, or the machine was suspended", "the process was stopped", "the clock is set back"],
)
def test_a_manager_that_was_stopped_or_whose_clock_was_set_condemns_nobody(running: Room, wall: float, uptime: float) -> None:
    room = running
    room.clock.now += wall
    room.uptime.now += uptime
    room.wait(28)
    assert (room.state, room.told()) == ("running", [])
    room.wait(4)
    assert (room.state, room.told()) == ("disconnected", ["server.disconnected"])


def test_while_the_database_refuses_nobody_is_condemned(running: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room = running

    def refuse(*dummy: Any) -> Any:
        raise NoCapacity("no room")

    with monkeypatch.context() as patched:
        patched.setattr(server_states, "judge", refuse)
        for dummy in range(100):
            with pytest.raises(NoCapacity):
                room.wait(1)
    room.wait(25)
    assert (room.state, room.told()) == ("running", [])


def test_why_a_server_is_silent_is_found_out(running: Room) -> None:
    room = running
    room.wait(32)
    room.agents.failure = Unreachable("did not answer in time", object="agent 192.0.2.1:8899")
    room.watch.attend()
    room.watch.attend()
    assert room.agents.asked == ["hello"]
    assert any("did not answer in time" in problem for problem in servers.find(room.store, "s1")["problems"])
    room.agents.failure = None
    room.wait(61)
    room.watch.attend()
    assert any("does not report" in problem for problem in servers.find(room.store, "s1")["problems"])
    room.hear()
    assert servers.find(room.store, "s1")["problems"] == []


@pytest.mark.parametrize("failure", [Unreachable("not one of ours", field="certificate"), Forbidden("does not accept this certificate")])
def test_a_silent_server_that_is_not_to_be_trusted_is_unknown_and_says_why(running: Room, failure: DomusError) -> None:
    room = running
    room.agents.failure = failure
    room.wait(32)
    room.watch.attend()
    room.wait(2)
    assert (room.state, room.told()) == ("unknown", ["server.disconnected", "server.unknown"])
    assert failure.message in servers.find(room.store, "s1")["problems"][0]
    assert failure.message in events.page(room.store, filters={"kind": "server.unknown"})["items"][0]["data"]["problem"]
    room.agents.failure = Unreachable("did not answer in time")
    room.wait(120)
    room.watch.attend()
    room.wait(1)
    assert room.state == "offline"


def test_a_silent_server_whose_reports_are_refused_is_unknown(running: Room) -> None:
    room = running
    server_states.refused(room.store, "s1")
    assert servers.find(room.store, "s1")["problems"] == []
    room.wait(32)
    server_states.refused(room.store, "s1")
    room.wait(1)
    room.watch.attend()
    assert (room.state, room.told()) == ("unknown", ["server.disconnected", "server.unknown"])
    assert "not its current one" in servers.find(room.store, "s1")["problems"][0]
    room.hear()
    assert (room.state, servers.find(room.store, "s1")["problems"]) == ("running", [])


def test_a_server_in_maintenance_is_shown_so_while_it_is_there(running: Room) -> None:
    room = running
    for dummy in range(2):
        server_states.set_maintenance(room.store, "s1", True, "new memory", "ada")
    assert (room.state, room.told()) == ("maintenance", ["server.maintenance"])
    room.hear()
    room.wait(130)
    found = servers.find(room.store, "s1")
    assert (found["state"], found["maintenance"], found["maintenance_reason"]) == ("offline", True, "new memory")
    assert room.told() == ["server.disconnected", "server.offline"]
    room.hear()
    assert (room.state, room.told()) == ("maintenance", ["server.running"])
    server_states.set_maintenance(room.store, "s1", False, "", "ada")
    found = servers.find(room.store, "s1")
    assert (found["state"], found["maintenance"], found["maintenance_reason"]) == ("running", False, None)


def test_an_incomplete_copy_is_completed_once_the_server_answers(room: Room) -> None:
    room.hear()
    room.watch.look()
    callbacks.ingest(room.store, "s1", "e1", [{"seq": 5, "at": room.clock.now, "type": "event", "kind": "agent.started"}])
    if not callbacks.incomplete(room.store):
        pytest.fail("a jump in the numbers is expected to make the copy incomplete")
    room.agents.failure = Unreachable("gone")
    room.watch.attend()
    room.watch.attend()
    assert (callbacks.incomplete(room.store), room.agents.asked) == (["s1"], ["inventory"]), "a failing server is left alone for a while"
    room.agents.failure = None
    room.wait(6)
    room.watch.attend()
    assert callbacks.incomplete(room.store) == []
    assert objects.find(room.store, "network", "lan")["server"] == "srv1"
