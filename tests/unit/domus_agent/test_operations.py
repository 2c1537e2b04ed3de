"""Operations: idempotent by id, in threads, kept; on a server in memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from domus_agent.connections import Connections
from domus_agent.operations import Operations
from domus_agent.store import AgentStore
from domus_core.driver import Target
from domus_core.errors import Busy, Conflict, DomusError, InvalidSpec, NotFound
from domus_core.fake_driver.driver import FakeDriver
from domus_core.planning.steps import Step

SERVER = "6a1f4e0e-0000-4000-8000-000000000002"
MANAGER = "manager:1"


class HeldDriver(FakeDriver):
    """A server on which steps wait until `free` is set, and fail with `failure`."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.failure: Optional[Exception] = None

    def carry_out(self, step: Step, site: str) -> None:
        """Take one step."""
        if not self.free.wait(30):
            raise AssertionError("nobody set the step free")
        if self.failure is not None:
            raise self.failure
        super().carry_out(step, site)


class OneServer(Connections):
    """Connections that all lead to the server in memory."""

    def __init__(self, driver: HeldDriver) -> None:
        super().__init__("test:///unused", "")
        self.memory = driver

    @contextlib.contextmanager
    def driver(self) -> Iterator[Any]:
        """The server in memory."""
        yield self.memory


class Bench:
    """Operations on a server in memory, with a database in a directory; `again` is what a restarted agent has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.driver = HeldDriver()
        self.now = 1000.0
        self.touched: list[Target] = []
        self.again()

    def again(self) -> None:
        self.store = AgentStore(str(self.directory), lambda: self.now)
        self.operations = Operations(self.store, OneServer(self.driver), lambda: SERVER, lambda: self.now)
        self.operations.touched = self.touched.extend

    def apply(self, operation: str, who: str = MANAGER, serial: str = "ab", **changes: Any) -> dict[str, Any]:
        return self.operations.submit(operation, "apply", content(**changes), who, serial)

    def end(self, operation: str) -> dict[str, Any]:
        self.operations.status(operation, wait=30, since=1 << 30)  # not before its end: there is never so much progress
        return self.operations.status(operation)


def content(name: str = "lan", **changes: Any) -> dict[str, Any]:
    document = {"networks": [{"name": name, "mode": "isolated"}]}
    return {"document": document, "server": None, "expected": None, "existing": None, "check": False, "wait_for_address": 0.0, "patience": 1.0, **changes}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.driver.free.set()
    made.operations.stop(10.0)
    made.store.close()


def test_its_end_its_objects_and_its_mark_are_kept_together(bench: Bench) -> None:
    assert bench.apply("op")["state"] in ("queued", "running", "succeeded")
    told = bench.end("op")
    assert (told["state"], told["error"], told["mark"]) == ("succeeded", None, bench.store.mark())
    assert [one["key"] for one in bench.store.objects("network")] == ["lan"]
    records = bench.store.unsent()
    assert [(record["type"], record["kind"]) for record in records] == [("object", "network"), ("event", "operation.finished")]
    assert [line["n"] for line in told["progress"]] == [1, 2]
    assert bench.operations.status("op", since=1)["progress"] == told["progress"][1:]
    bench.operations.stop(1)
    assert bench.touched == [("network", "lan")]


def test_the_same_id_runs_once(bench: Bench) -> None:
    bench.apply("op")
    told = bench.end("op")
    taken = len(bench.driver.taken)
    assert bench.apply("op") == told
    assert len(bench.driver.taken) == taken
    for other in ({"name": "wan"}, {"check": True}):
        with pytest.raises(Conflict):
            bench.apply("op", **other)
    with pytest.raises(Conflict):
        bench.apply("op", who="job:7")


def test_what_can_not_be_is_refused_and_not_kept(bench: Bench) -> None:
    with pytest.raises(InvalidSpec):
        bench.apply("op", document={"networks": [{"name": "lan", "mode": "sideways"}]})
    with pytest.raises(InvalidSpec):
        bench.operations.submit("op", "verb", {"vm": "v", "verb": "explode", "site": None}, MANAGER, "ab")
    with pytest.raises(NotFound):
        bench.operations.status("op")
    assert bench.store.counts()["operations"] == 0


def test_a_check_changes_nothing(bench: Bench) -> None:
    bench.apply("op", check=True)
    told = bench.end("op")
    assert (told["state"], told["result"]["changed"], bench.driver.taken) == ("succeeded", True, [])
    assert [record["kind"] for record in bench.store.unsent()] == ["operation.finished"]


@pytest.mark.parametrize("failure", [Conflict("no"), ValueError("odd")], ids=["ours", "surprise"])
def test_a_failure_is_told_and_ends_only_its_operation(bench: Bench, failure: Exception) -> None:
    bench.driver.failure = failure
    bench.apply("op")
    told = bench.end("op")
    assert told["state"] == "failed"
    assert told["error"]["code"] == ("conflict" if isinstance(failure, DomusError) else "driver_error")
    bench.driver.failure = None
    bench.apply("op2")
    assert bench.end("op2")["state"] == "succeeded"


def test_a_cancelled_operation_stops_before_its_next_step(bench: Bench) -> None:
    bench.driver.free.clear()
    bench.apply("op")
    wait_for_state(bench, "op", "running")
    assert bench.operations.busy("network", "lan")
    bench.operations.cancel("op")
    bench.driver.free.set()
    told = bench.end("op")
    assert (told["state"], told["error"]["code"]) == ("cancelled", "cancelled")
    assert len(bench.driver.taken) <= 1
    assert not bench.operations.busy("network", "lan")
    assert bench.operations.cancel("op")["state"] == "cancelled"


def test_what_waits_for_a_thread_is_cancelled_at_once(bench: Bench) -> None:
    bench.driver.free.clear()
    for number in range(6):
        bench.apply(f"op{number}", name=f"lan{number}")
    assert bench.operations.unfinished() == 6
    assert bench.operations.cancel("op5")["state"] == "cancelled"
    bench.driver.free.set()
    assert [bench.end(f"op{number}")["state"] for number in range(5)] == ["succeeded"] * 5


def test_a_revoked_certificate_takes_its_operations_along(bench: Bench) -> None:
    bench.driver.free.clear()
    bench.apply("mine", serial="ab")
    bench.apply("yours", serial="cd", name="wan")
    bench.operations.cancel_all_of("ab")
    bench.driver.free.set()
    assert [bench.end(one)["state"] for one in ("mine", "yours")] == ["cancelled", "succeeded"]


def test_somebody_elses_operation_is_not_there(bench: Bench) -> None:
    bench.apply("op", who="job:1")
    for call in (bench.operations.status, bench.operations.cancel):
        with pytest.raises(NotFound):
            call("op", "job:2")
    assert bench.operations.status("op", "job:1", wait=30)["state"] == "succeeded"


def test_what_a_killed_agent_left_runs_again_under_the_same_id(bench: Bench, tmp_path: Path) -> None:
    bench.driver.free.clear()
    bench.apply("op")
    killed, bench.now = bench.operations, 1001.0
    bench.again()
    told = bench.end("op")
    assert (told["state"], told["error"]["code"], told["error"]["remedy"]) == ("failed", "interrupted", "Apply again")
    assert [record["kind"] for record in bench.store.unsent()] == ["operation.finished"]
    with pytest.raises(Conflict):
        bench.apply("op", name="wan")
    bench.driver.free.set()
    killed.stop(10.0)
    bench.apply("op")
    assert bench.end("op")["state"] == "succeeded"


def test_ended_operations_are_known_for_a_week(bench: Bench) -> None:
    bench.apply("op")
    bench.end("op")
    bench.now += 7 * 86400 - 1
    bench.again()
    assert bench.end("op")["state"] == "succeeded"
    bench.now += 2
    bench.again()
    with pytest.raises(NotFound):
        bench.end("op")


def test_stopping_lets_work_end_and_interrupts_what_did_not_begin(bench: Bench) -> None:
    bench.driver.free.clear()
    for number in range(5):
        bench.apply(f"op{number}", name=f"lan{number}")
    threading.Timer(0.2, bench.driver.free.set).start()
    bench.operations.stop(30.0)
    assert [bench.end(f"op{number}")["state"] for number in range(5)] == ["succeeded"] * 4 + ["failed"]
    assert bench.end("op4")["error"]["code"] == "interrupted"
    with pytest.raises(Busy):
        bench.apply("late")


def test_a_database_that_fails_stops_no_operation(bench: Bench) -> None:
    pages = bench.store._connection.execute("PRAGMA page_count").fetchone()[0]
    bench.store._connection.execute(f"PRAGMA max_page_count = {pages}")
    while bench.store.problem is None:
        bench.store.put_object("vm", str(bench.store.mark()), "1", {"text": "x" * 1000})
    bench.apply("op")
    told = bench.end("op")
    assert (told["state"], told["result"]["changed"]) == ("succeeded", True)
    assert bench.apply("op")["state"] == "succeeded"


def wait_for_state(bench: Bench, operation: str, state: str) -> None:
    while bench.operations.status(operation, wait=0.01)["state"] != state:
        pass
