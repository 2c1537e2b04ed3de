"""What is sent to the manager, when, and what becomes of its answers; real TLS is in tests/integration/test_agent_callbacks.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import pytest
from domus_agent.callbacks import LONGEST_PAUSE, Callbacks, LatestStatistics, Refused
from domus_agent.config import AgentConfig
from domus_agent.contact import last_heard
from domus_agent.store import AgentStore


class FakeOwnership:
    """A server with a manager, or without."""

    owned, server_id, url = True, "6a1f4e0e-0000-4000-8000-000000000002", "https://manager:7002"


class Sending(Callbacks):
    """Callbacks whose manager is `answer`: what it says to a message, or raises."""

    answer: Any = None
    sent: list[dict[str, Any]]

    def _exchange(self, body: bytes) -> Mapping[str, Any]:
        message = json.loads(body)
        self.sent.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return dict(self.answer)
        return {"acknowledged": message["records"][-1]["seq"] if message["records"] else 0}


class Bench:
    """Callbacks with a database in a directory; `step` is what the thread does in each turn."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = AgentStore(str(directory))
        self.ownership = FakeOwnership()
        self.facts: Optional[dict[str, Any]] = None
        self.statistics: list[dict[str, Any]] = []
        self.revoked: list[tuple[str, float]] = []
        self.callbacks = Sending(
            self.ownership,  # type: ignore[arg-type]
            self.store,
            "1.2.3",
            AgentConfig(directory=str(directory), heartbeat=0.1),
            lambda: "up",
            lambda: self.facts,
            lambda: self.statistics.pop() if self.statistics else None,
            lambda serial, until: self.revoked.append((serial, until)),
        )
        self.callbacks.sent = []

    @property
    def sent(self) -> list[dict[str, Any]]:
        return self.callbacks.sent

    def step(self) -> float:
        return self.callbacks._step()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def test_a_message_holds_what_the_contract_says(bench: Bench) -> None:
    bench.store.add_event("vm.started")
    bench.statistics.append({"at": 1})
    assert bench.step() == 0.0
    (message,) = bench.sent
    assert message.pop("sent_at") > 0
    assert [record["seq"] for record in message.pop("records")] == [1]
    told = {"protocol": 1, "server": FakeOwnership.server_id, "epoch": bench.store.epoch, "version": "1.2.3", "libvirt": "up"}
    assert message == {**told, "facts": None, "statistics": {"at": 1}, "problem": None, "tls": None}
    assert bench.store.unsent() == []
    assert last_heard(str(bench.directory)) is not None


def test_a_heartbeat_comes_without_records(bench: Bench) -> None:
    bench.step()
    assert [message["records"] for message in bench.sent] == [[]]


def test_facts_are_told_once_on_each_connection_and_when_they_have_changed(bench: Bench) -> None:
    def told() -> Any:
        bench.step()
        return bench.sent[-1]["facts"]

    assert told() is None
    bench.facts = {"cpus": 2}
    bench.callbacks.answer = Refused("HTTP status 503")
    assert told() == {"cpus": 2}
    bench.callbacks.answer = None
    assert [told(), told()] == [{"cpus": 2}, None]
    bench.facts = {"cpus": 4}
    assert [told(), told()] == [{"cpus": 4}, None]
    bench.callbacks._disconnect()
    assert [told(), told()] == [{"cpus": 4}, None]


def test_many_records_go_in_several_messages_in_order(bench: Bench) -> None:
    with bench.store.transaction():
        for dummy in range(1200):
            bench.store.add_event("vm.started")
    for dummy in range(3):
        bench.step()
    assert [len(message["records"]) for message in bench.sent] == [500, 500, 200]
    assert [record["seq"] for message in bench.sent for record in message["records"]] == list(range(1, 1201))


def test_a_free_server_sends_nothing(bench: Bench) -> None:
    bench.ownership.owned = False  # type: ignore[misc]
    bench.store.add_event("vm.started")
    bench.step()
    assert bench.sent == []


WRONG: list[Any] = [ConnectionRefusedError(), Refused("HTTP status 503"), {}, {"acknowledged": "1"}, {"acknowledged": True}, {"acknowledged": 0}]


@pytest.mark.parametrize("answer", WRONG, ids=str)
def test_what_was_not_acknowledged_is_sent_again_later_and_later(bench: Bench, answer: Any) -> None:
    bench.store.add_event("vm.started")
    bench.callbacks.answer = answer
    pauses = [bench.step() for dummy in range(8)]
    assert all(0.8 * 2**turn <= pause <= 2**turn for turn, pause in enumerate(pauses[:5]))
    assert all(pause <= LONGEST_PAUSE for pause in pauses)
    assert len({json.dumps(message["records"]) for message in bench.sent}) == 1
    bench.callbacks.answer = None
    assert bench.step() == 0.0
    assert bench.store.unsent() == []


def test_certificates_that_the_answer_revokes_are_passed_on(bench: Bench) -> None:
    bench.callbacks.answer = {"acknowledged": 0, "revoked": [{"serial": "ab", "until": 5}]}
    bench.step()
    assert bench.revoked == [("ab", 5.0)]


@pytest.mark.parametrize("revoked", [[{}], ["ab"], [{"serial": "ab", "until": "x"}], 7], ids=str)
def test_an_answer_that_is_none_does_not_end_the_thread(bench: Bench, revoked: Any) -> None:
    bench.callbacks.answer = {"acknowledged": 0, "revoked": revoked}
    assert bench.step() > 0.0


def test_an_acknowledgement_for_a_database_that_is_gone_acknowledges_nothing(bench: Bench) -> None:
    bench.store.add_event("vm.started")
    epoch, dummy = bench.store.batch(500)
    bench.store.begin_epoch()
    bench.store.add_event("vm.stopped")
    bench.store.acknowledged(1, epoch)
    assert [record["kind"] for record in bench.store.unsent()] == ["vm.stopped"]


def test_statistics_are_given_once_and_their_failure_is_survived() -> None:
    answers: list[Optional[dict[str, Any]]] = [{"at": 2}, None, {"at": 1}]

    def collect() -> dict[str, Any]:
        answer = answers.pop() if answers else {"at": 3}
        if answer is None:
            raise OSError
        return answer

    statistics = LatestStatistics(collect, 0.01)
    assert statistics.take() is None
    statistics.start()
    seen: list[int] = []
    while 3 not in seen:
        told = statistics.take()
        seen.extend([told["at"]] if told else [])
    statistics.stop()
    assert seen == sorted(seen)
