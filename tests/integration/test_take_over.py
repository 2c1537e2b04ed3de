"""The manager's first contact with a real agent, and the calls after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from domus_controller.agents.pool import Agents
from domus_controller.config import ManagerConfig
from domus_controller.security.authority import Authority
from domus_controller.store import servers
from domus_controller.store.database import Store
from domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Unauthorized, Unreachable

from tests.support.agent_process import RunningAgent


class Manager:
    """A manager's store, authorities and agents, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.authority = Authority(directory)
        self.authority.ensure()
        self.agents = Agents(self.store, self.authority, ManagerConfig(directory=directory, url="https://127.0.0.1:9"))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "manager")
    yield made
    made.store.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    (tmp_path / "server").mkdir()
    made = RunningAgent(tmp_path / "server")
    made.start()
    yield made
    made.close()


def secret_of(agent: RunningAgent) -> str:
    return ":".join(agent.invitation())


def test_a_server_that_was_taken_over_obeys(manager: Manager, agent: RunningAgent) -> None:
    server = manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))
    assert (server["name"], server["id"]) == ("srv1", agent.server_id)
    told = manager.agents.call(server["id"], "hello", {})
    assert told["manager"] == manager.store.manager_id
    assert servers.serial(manager.store, server["id"])


def test_another_fingerprint_is_told_and_no_secret_is_sent(manager: Manager, agent: RunningAgent) -> None:
    wrong = "0" * 64 + ":" + agent.invitation()[1]
    with pytest.raises(Conflict, match="nothing was sent"):
        manager.agents.take_over("srv1", "127.0.0.1", agent.port, wrong)
    assert servers.all(manager.store) == []
    assert manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))


def test_a_wrong_secret_leaves_everything_as_it_was(manager: Manager, agent: RunningAgent) -> None:
    with pytest.raises(Unauthorized):
        manager.agents.take_over("srv1", "127.0.0.1", agent.port, agent.invitation()[0] + ":" + "0" * 32)
    assert servers.all(manager.store) == []


def test_a_secret_that_is_none_and_a_name_in_use_are_refused_first(manager: Manager, agent: RunningAgent) -> None:
    with pytest.raises(InvalidSpec):
        manager.agents.take_over("srv1", "127.0.0.1", agent.port, "hello")
    servers.add(manager.store, {"id": "other", "name": "srv1", "address": "192.0.2.1", "port": 1, "serial": None})
    with pytest.raises(Conflict, match="name of another server"):
        manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))
    assert manager.agents.take_over("srv2", "127.0.0.1", agent.port, secret_of(agent))["name"] == "srv2"


def test_nobody_takes_over_what_belongs_to_another_manager(manager: Manager, agent: RunningAgent, tmp_path: Path) -> None:
    secret = secret_of(agent)
    manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret)
    other = Manager(tmp_path / "other")
    try:
        with pytest.raises(DomusError):
            other.agents.take_over("srv1", "127.0.0.1", agent.port, secret)
        assert servers.all(other.store) == []
        servers.add(other.store, {"id": agent.server_id, "name": "srv1", "address": "127.0.0.1", "port": agent.port, "serial": None})
        with pytest.raises(Unreachable):
            other.agents.call(agent.server_id, "hello", {})
    finally:
        other.store.close()


def test_a_released_server_is_forgotten_and_can_be_taken_over_again(manager: Manager, agent: RunningAgent) -> None:
    first = manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))
    manager.agents.release(first["id"])
    assert servers.all(manager.store) == []
    with pytest.raises(NotFound):
        manager.agents.call(first["id"], "hello", {})
    again = manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))
    assert manager.agents.call(again["id"], "hello", {})["owned"] is True


def test_a_server_that_does_not_answer_is_not_forgotten(manager: Manager, agent: RunningAgent) -> None:
    server = manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))
    agent.kill()
    with pytest.raises(Unreachable):
        manager.agents.release(server["id"])
    assert servers.find(manager.store, "srv1")["id"] == server["id"]


def test_the_console_of_a_vm_that_is_not_there_is_refused(manager: Manager, agent: RunningAgent) -> None:
    server = manager.agents.take_over("srv1", "127.0.0.1", agent.port, secret_of(agent))
    with pytest.raises(Unreachable):
        manager.agents.console(server["id"], "00000000-0000-4000-8000-000000000000").receive(timeout=5)
