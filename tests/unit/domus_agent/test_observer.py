"""What happens on libvirt's test driver shows in the outbox: the event first, then the object."""

from __future__ import annotations

import json
import os
import pwd
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from domus_agent import forced_changes, observer
from domus_agent.addresses import AddressBook
from domus_agent.config import AgentConfig
from domus_agent.domain_states import Domain, differences
from domus_agent.libvirt_events import RESIZED, Seen
from domus_agent.observer import OBJECTS_AT_ONCE, UNTOLD_FACTS, Observer
from domus_agent.store import AgentStore
from domus_core import description
from domus_core.libvirt_driver.connection import connect
from domus_core.libvirt_driver.registry import Registry
from domus_core.owner import FORCED_CHANGES, write_down_forced

PATIENCE = 20
SERVER = "5c1b5e8e-0000-4000-8000-000000000001"
DOMAIN = "<domain type='test'><name>{}</name><memory unit='MiB'>8</memory><os><type>hvm</type></os></domain>"
Records = list[dict[str, Any]]


def wait_for(question: Callable[[], Any]) -> Any:
    """The answer, once it is one."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return answer


class Watched:
    """A server on the test driver, with its agent's database, and an observer that can be stopped and started."""

    def __init__(self, directory: Path) -> None:
        self.config = AgentConfig(directory=str(directory / "agent"), state_directory=str(directory / "state"), uri="test:///default")
        (directory / "state").mkdir()
        self.store = AgentStore(self.config.directory)
        self.working: set[tuple[str, str]] = set()
        self.observer: Observer
        self.start()
        self.connection = connect("test:///default")

    def start(self) -> None:
        """Observe until everything there is is known and acknowledged."""
        self.observer = Observer(self.config, self.store, SERVER, lambda kind, key: (kind, key) in self.working)
        self.observer.start()
        wait_for(lambda: {"vm", "network"} <= {one["kind"] for one in self.store.objects()} and not self.observer._later and self.observer._domains is not None)

    def stop(self) -> None:
        """See nothing."""
        self.observer.stop()

    def acknowledge(self) -> None:
        """The manager has heard everything."""
        self.store.acknowledged(self.store.mark(), self.store.epoch)

    def records(self) -> Records:
        """What the manager has not heard, without what is void."""
        return [record for record in self.store.unsent() if record["type"] != "void"]

    def kinds(self) -> list[tuple[str, Any]]:
        """The same in short."""
        return [(record["type"], record["kind"]) for record in self.records()]

    def description(self, kind: str, key: str) -> Any:
        """An object as last told, or None."""
        return next((one for one in self.store.objects(kind) if one["key"] == key), None)

    def close(self) -> None:
        """End it."""
        self.stop()
        self.connection.close()
        self.store.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    made.acknowledge()
    yield made
    made.close()


def test_what_was_there_before_is_known_and_not_managed(watched: Watched) -> None:
    vm = watched.description("vm", "test")
    assert vm is not None and vm["state"] == "running" and vm["measured"]["managed"] is False
    assert watched.records() == []


def test_what_the_server_is_is_known(watched: Watched) -> None:
    facts = wait_for(lambda: watched.observer.facts)
    assert facts["hypervisor"] == "TEST" and facts["cpus"] > 0 and facts["memory"] > 0 and facts["hostname"] and facts["libvirt_version"]
    assert not UNTOLD_FACTS & facts.keys()


def test_what_the_server_is_is_read_again_when_it_is_described_anew(watched: Watched) -> None:
    before = wait_for(lambda: watched.observer.facts)
    Registry(f"{watched.config.state_directory}/objects").write("server", "srv1", {"name": "srv1", "virtualization": "qemu"})
    watched.observer.touched([("server", "srv1")])
    after = wait_for(lambda: watched.observer.facts is not before and watched.observer.facts)
    assert after["hypervisor"] == "TEST"


def test_the_event_comes_first_and_then_the_object(watched: Watched) -> None:
    domain = watched.connection.lookupByName("test")
    domain.destroy()
    wait_for(lambda: len(watched.records()) == 2)
    event, changed = watched.records()
    assert (event["type"], event["kind"], event["severity"], event["data"]) == ("event", "vm.stopped", "info", {"reason": "destroyed"})
    assert event["object"] == {"kind": "vm", "key": "test", "id": domain.UUIDString()}
    assert (changed["type"], changed["id"], changed["description"]["state"]) == ("object", domain.UUIDString(), "stopped")


def test_a_vm_that_was_resized_is_looked_at_and_no_event_is_told(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "RESIZED_SECONDS", 0.1)
    domain = watched.connection.lookupByName("test")
    looks: list[str] = []
    describe = watched.observer._description
    monkeypatch.setattr(watched.observer, "_description", lambda driver, target: looks.append(target[1]) or describe(driver, target))
    watched.observer.resized([domain.UUIDString(), "unknown"])
    wait_for(lambda: looks == ["test"])
    for dummy in range(10):
        watched.observer._seen.put(Seen(RESIZED, object_kind="vm", name="test", uuid=domain.UUIDString()))
    wait_for(lambda: looks == ["test", "test"])
    assert watched.records() == [], "nothing of it is new, and steps of a balloon are no events"


def test_an_object_that_is_gone_is_told_as_gone(watched: Watched) -> None:
    domain = watched.connection.defineXML(DOMAIN.format("short"))
    uuid = domain.UUIDString()
    wait_for(lambda: watched.description("vm", "short"))
    domain.undefine()
    wait_for(lambda: watched.description("vm", "short") is None)
    last = watched.records()[-1]
    assert (last["type"], last["key"], last["id"], last["description"]) == ("object", "short", uuid, None)


def test_a_network_has_an_identity_of_its_server(watched: Watched) -> None:
    watched.connection.networkLookupByName("default").destroy()
    wait_for(lambda: len(watched.records()) == 2)
    event, changed = watched.records()
    assert event["kind"] == "network.stopped" and event["object"]["id"] == changed["id"]
    assert changed["description"]["state"] == "inactive"


def test_what_an_operation_works_on_is_left_to_its_end(watched: Watched) -> None:
    watched.working.add(("vm", "test"))
    watched.connection.lookupByName("test").destroy()
    wait_for(lambda: ("event", "vm.stopped") in watched.kinds())
    other = watched.connection.defineXML(DOMAIN.format("other"))
    wait_for(lambda: watched.description("vm", "other"))
    assert watched.description("vm", "test")["state"] == "running"
    watched.working.clear()
    watched.observer.touched([("vm", "test")])
    wait_for(lambda: watched.description("vm", "test")["state"] == "stopped")
    other.undefine()


def test_what_a_large_operation_has_told_is_looked_at_later_and_what_happens_goes_before(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domus_agent.observer.REST_SECONDS", 600.0)
    others = [watched.connection.defineXML(DOMAIN.format(f"other{number}")) for number in range(OBJECTS_AT_ONCE + 1)]
    wait_for(lambda: len(watched.store.objects("vm")) == len(others) + 1)
    watched.observer.touched(("vm", other.name()) for other in others)
    watched.connection.lookupByName("test").destroy()
    wait_for(lambda: watched.description("vm", "test")["state"] == "stopped")
    assert len(watched.observer._later) == len(others)
    watched.observer._rest_until = 0.0
    watched.observer._look_at([])
    wait_for(lambda: not watched.observer._later)
    for other in others:
        other.undefine()


def test_a_start_of_the_agent_tells_nothing_that_the_manager_knows(watched: Watched) -> None:
    watched.stop()
    watched.start()
    assert watched.records() == []


def test_what_happened_while_the_agent_was_away_is_told(watched: Watched) -> None:
    gone = watched.connection.defineXML(DOMAIN.format("gone"))
    wait_for(lambda: watched.description("vm", "gone"))
    watched.acknowledge()
    watched.stop()
    watched.connection.lookupByName("test").destroy()
    gone.undefine()
    watched.connection.defineXML(DOMAIN.format("new")).create()
    watched.start()
    wait_for(lambda: len([record for record in watched.records() if record["type"] == "event"]) == 4)
    events = {(record["kind"], record["object"]["key"]): record["data"] for record in watched.records() if record["type"] == "event"}
    assert events == dict.fromkeys([("vm.stopped", "test"), ("vm.undefined", "gone"), ("vm.defined", "new"), ("vm.started", "new")], {"meanwhile": True})
    wait_for(lambda: (watched.description("vm", "new") or {}).get("state") == "running" and watched.description("vm", "gone") is None)
    watched.connection.lookupByName("new").destroy()
    watched.connection.lookupByName("new").undefine()


def test_a_change_that_no_event_told_is_found_by_looking(watched: Watched) -> None:
    watched.connection.lookupByName("test").setAutostart(1)  # libvirt has no event for it
    watched.observer.resync()
    wait_for(lambda: watched.description("vm", "test")["spec"]["autostart"])
    assert [record["type"] for record in watched.records()] == ["object"]
    watched.connection.lookupByName("test").setAutostart(0)


def test_one_odd_object_hides_no_other(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    real = description.describe

    def describe(kind: str, key: str, *rest: Any) -> Any:
        if key == "test":
            raise RuntimeError("odd")
        return real(kind, key, *rest)

    other = watched.connection.defineXML(DOMAIN.format("other"))
    wait_for(lambda: watched.description("vm", "other"))
    monkeypatch.setattr(observer, "describe", describe)
    watched.connection.lookupByName("test").setAutostart(1)
    other.setAutostart(1)
    watched.observer._look_at([("vm", "test"), ("vm", "other")])
    wait_for(lambda: watched.description("vm", "other")["spec"]["autostart"])
    assert not watched.description("vm", "test")["spec"]["autostart"]
    watched.connection.lookupByName("test").setAutostart(0)
    other.undefine()


def test_what_was_forgotten_without_an_event_is_found_by_looking(watched: Watched) -> None:
    registry = Registry(f"{watched.config.state_directory}/objects")
    registry.write("repository", "main", {"name": "main", "path": watched.config.state_directory})
    watched.observer.resync()
    wait_for(lambda: watched.description("repository", "main"))
    registry.remove("repository", "main")
    watched.observer.resync()
    wait_for(lambda: watched.description("repository", "main") is None)
    assert watched.records()[-1]["description"] is None


def test_forced_changes_become_events_once(watched: Watched) -> None:
    write_down_forced(watched.config.state_directory, "paris", ["stop vm a"])
    path = Path(watched.config.state_directory, FORCED_CHANGES)
    with path.open("a") as file:
        file.write("nonsense\n")
    watched.observer._next[watched.observer._take_forced_changes] = 0.0
    watched.observer.resync()
    wait_for(lambda: path.read_text() == "")
    first, second = watched.records()
    assert first["kind"] == second["kind"] == "server.forced_local_change" and first["severity"] == "warning"
    assert (first["data"]["site"], first["data"]["actions"], second["data"]) == ("paris", "stop vm a", {"unreadable": "nonsense"})
    assert first["data"]["user"] == pwd.getpwuid(os.getuid()).pw_name and first["data"]["at"].endswith("Z")


def test_of_many_forced_changes_the_first_are_named(tmp_path: Path) -> None:
    write_down_forced(str(tmp_path), "paris", [f"start vm {number}" for number in range(13)])
    heard: Records = []
    forced_changes.take_forced_changes(str(tmp_path), lambda changes: not heard.extend(changes))
    assert heard[0]["actions"].startswith("start vm 0, start vm 1, ") and heard[0]["actions"].endswith("start vm 9 and 3 more")


def test_a_guest_that_reboots_in_a_loop_is_told_once(watched: Watched) -> None:
    for dummy in range(5):
        watched.observer._seen.put(Seen("vm.rebooted", object_kind="vm", name="test"))
    watched.connection.lookupByName("test").destroy()
    wait_for(lambda: ("event", "vm.stopped") in watched.kinds())
    assert watched.kinds().count(("event", "vm.rebooted")) == 1


def test_forced_changes_stay_until_they_could_be_reported(tmp_path: Path) -> None:
    write_down_forced(str(tmp_path), "paris", ["stop vm a"])
    forced_changes.take_forced_changes(str(tmp_path), lambda changes: False)
    heard: Records = []

    def report(changes: Records) -> bool:
        heard.extend(changes)
        forced_changes_path = tmp_path / FORCED_CHANGES
        with forced_changes_path.open("a") as file:  # another change, just now
            file.write(json.dumps({"late": True}) + "\n")
        return True

    forced_changes.take_forced_changes(str(tmp_path), report)
    assert [change["actions"] for change in heard] == ["stop vm a"]
    assert (tmp_path / FORCED_CHANGES).read_text() == '{"late": true}\n'


A, B = "a" * 8, "b" * 8


@pytest.mark.parametrize(
    "before, now, kinds",
    [
        (None, None, []),
        (Domain(A, "running"), Domain(A, "running"), []),
        (Domain(A, "running"), Domain(A, "stopped"), ["vm.stopped"]),
        (Domain(A, "running"), Domain(A, "stopped", crashed=True), ["vm.crashed"]),
        (Domain(A, "stopped"), Domain(A, "paused"), ["vm.started"]),
        (Domain(A, "paused"), Domain(A, "running"), ["vm.resumed"]),
        (Domain(A, "running"), Domain(A, "paused"), ["vm.suspended"]),
        (Domain(A, "running"), None, ["vm.stopped", "vm.undefined"]),
        (Domain(A, "stopped"), None, ["vm.undefined"]),
        (None, Domain(A, "running"), ["vm.defined", "vm.started"]),
        (Domain(A, "stopped"), Domain(B, "stopped"), ["vm.undefined", "vm.defined"]),
    ],
)
def test_what_must_have_happened(before: Optional[Domain], now: Optional[Domain], kinds: list[str]) -> None:
    found = differences({"a": before} if before else {}, {"a": now} if now else {})
    assert [event.kind for event in found.get("a", ())] == kinds
    assert all(event.data == {"meanwhile": True} and event.name == "a" for event in found.get("a", ()))


def test_addresses_are_asked_for_until_they_come_and_told_when_they_change() -> None:
    answers = iter([(), None, ("10.0.0.1",), ("10.0.0.1",), ("10.0.0.2",)])
    asked, changed = threading.Semaphore(0), []

    def look(vm: str) -> Optional[tuple[str, ...]]:
        asked.release()
        return next(answers)

    book = AddressBook(look, lambda vm: changed.append(book.known(vm)), delays=(0.0,) * 5)
    book.start()
    book.started("a")
    for dummy in range(5):
        assert asked.acquire(timeout=PATIENCE)
    wait_for(lambda: len(changed) == 2)
    book.stop()
    assert changed == [("10.0.0.1",), ("10.0.0.2",)]
    book.forget("a")
    assert book.known("a") == ()
