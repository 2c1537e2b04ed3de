"""The way from a real agent to its manager: each record once and in order, kept while nobody listens, and only to whom it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from domus_core.clients.agent import AgentClient
from domus_core.errors import DomusError

from tests.support.agent_process import NETWORK, ListeningManager, RunningAgent, submit_apply, wait_until
from tests.support.small_authority import SmallAuthority, serial_of


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ListeningManager]:
    listening = ListeningManager(tmp_path / "manager")
    yield listening
    listening.close()


def sequence_numbers(manager: ListeningManager) -> list[int]:
    epoch = manager.messages[-1]["epoch"]
    return sorted(seq for one, seq in manager.records if one == epoch)


def test_the_manager_hears_of_everything_once_and_in_order(tmp_path: Path, agent: RunningAgent, manager: ListeningManager) -> None:
    manager.owner.take_over(agent)
    client = manager.owner.client(agent)
    status = submit_apply(client, NETWORK)
    wait_until(lambda: manager.messages and max(sequence_numbers(manager), default=0) >= status["mark"])
    assert sequence_numbers(manager) == list(range(1, max(sequence_numbers(manager)) + 1))
    (told,) = manager.events("operation.finished")
    assert (told["operation"], told["data"]) == (status["operation"], {"state": "succeeded", "changed": True})
    networks = [record for record in manager.records.values() if record["type"] == "object" and record["key"] == "lan"]
    assert networks[-1]["description"]["state"] == "active"
    assert manager.messages[-1]["server"] == agent.server_id
    before = len(manager.records)
    assert client.call("resync")["mark"] > status["mark"]
    wait_until(lambda: len(manager.records) > before)


def test_records_wait_for_a_manager_that_is_away(agent: RunningAgent, manager: ListeningManager) -> None:
    manager.owner.take_over(agent)
    client = manager.owner.client(agent)
    wait_until(lambda: manager.messages)
    manager.failing = True
    status = submit_apply(client, NETWORK)
    agent.kill()
    agent.start()
    assert status["operation"] not in [event["operation"] for event in manager.events("operation.finished")]
    manager.failing = False
    wait_until(lambda: manager.events("operation.finished"), 60)
    wait_until(lambda: sequence_numbers(manager) == list(range(1, max(sequence_numbers(manager)) + 1)))
    assert len({message["epoch"] for message in manager.messages}) == 1


def test_a_certificate_that_the_manager_revokes_in_its_answer_is_refused(agent: RunningAgent, manager: ListeningManager) -> None:
    manager.owner.take_over(agent)
    files = manager.owner.job("j", [agent.server_id])
    assert manager.owner.client(agent, files).call("hello")["owned"] is True
    manager.revoked = [{"serial": serial_of(files[0]), "until": 4e9}]
    submit_apply(manager.owner.client(agent), NETWORK)

    def refused() -> bool:
        try:
            manager.owner.client(agent, files).call("hello")
        except DomusError as error:
            return error.code == "forbidden"
        return False

    wait_until(refused)


def test_a_web_server_of_another_authority_is_told_nothing(agent: RunningAgent, manager: ListeningManager) -> None:
    manager.owner.web = SmallAuthority("somebody else")
    manager.owner.take_over(agent)
    submit_apply(manager.owner.client(agent), NETWORK)
    wait_until(lambda: re.search(r"can not be told: SSLCertVerificationError", agent.log.read_text()))
    assert manager.messages == []


def test_a_damaged_database_begins_a_new_epoch_and_trust_remains(agent: RunningAgent, manager: ListeningManager) -> None:
    manager.owner.take_over(agent)
    submit_apply(manager.owner.client(agent), NETWORK)
    wait_until(lambda: manager.events("operation.finished"))
    agent.end()
    first = manager.messages[-1]["epoch"]
    (agent.directory / "agent/agent.db").write_bytes(b"\0" * 8192)
    agent.start()
    wait_until(lambda: manager.messages[-1]["epoch"] != first)
    wait_until(lambda: manager.events("agent.database_recovered"))
    assert list((agent.directory / "agent").glob("agent.db.damaged-*"))
    assert manager.owner.client(agent).call("hello")["owned"] is True


def test_it_is_small_when_idle(agent: RunningAgent, client: AgentClient) -> None:
    agent.end()
    agent.start()
    assert agent.memory() <= 64 << 20
