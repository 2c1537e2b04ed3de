"""What a rebuild says of each server, with real agents: ours, somebody else's, free ones, and those that are away."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from domus_controller.agents.notes import Notes
from domus_controller.agents.pool import Agents
from domus_controller.agents.rebuild import ADDED, FAILED, FOREIGN, FREE, KNOWN, REVOKED, SILENT, TAKEN_OVER, UPDATED, Outcome, Rebuild
from domus_controller.config import ManagerConfig
from domus_controller.rebuild_command import table
from domus_controller.rebuild_places import Place
from domus_controller.security.authority import Authority
from domus_controller.store import events, objects, server_states, servers, trust
from domus_controller.store.database import Store

from tests.support.agent_process import RunningAgent

WEB = "https://127.0.0.1:7002"


class Manager:
    """A manager that does not serve: its database, authorities and clients."""

    def __init__(self, directory: Path, keys: Path | None = None, id: str | None = None, url: str = WEB) -> None:
        self.config = ManagerConfig(directory=directory, url=url)
        directory.mkdir()
        if keys is not None:
            for path in keys.glob("*"):
                if path.suffix in (".crt", ".key", ".crl") and path.stem in ("servers", "web", "people", "libvirt"):
                    (directory / path.name).write_bytes(path.read_bytes())
        self.store = Store(directory)
        if id is not None:
            self.store.write(lambda connection: connection.execute("UPDATE about SET value = ? WHERE name = 'manager_id'", (id,)).rowcount)
        self.authority = Authority(directory)
        self.authority.ensure()
        self.agents = Agents(self.store, self.authority, self.config)

    def take_over(self, agent: RunningAgent, name: str) -> str:
        return str(self.agents.take_over(name, "127.0.0.1", agent.port, ":".join(agent.invitation()))["id"])

    def rebuild(self, *places: Place) -> list[Outcome]:
        return Rebuild(self.store, self.authority, self.config, timeout=5).run(places)

    def ask(self, *agents: RunningAgent) -> list[Outcome]:
        return self.rebuild(*(Place("127.0.0.1", agent.port) for agent in agents))

    def heir(self, directory: Path, **more: str) -> Manager:
        """A new manager with the keys and the id of this one, and nothing else."""
        return Manager(directory, self.config.directory, self.store.manager_id, **more)

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def managers(tmp_path: Path) -> Iterator[Callable[..., Manager]]:
    made: list[Manager] = []

    def make(name: str, of: Manager | None = None, **more: str) -> Manager:
        made.append(Manager(tmp_path / name, **more) if of is None else of.heir(tmp_path / name, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[RunningAgent]]:
    made = []
    for number in range(2):
        (tmp_path / f"agent{number}").mkdir()
        made.append(RunningAgent(tmp_path / f"agent{number}"))
        made[-1].start()
    yield made
    for one in made:
        one.close()


def test_ours_comes_back_as_it_was_and_a_second_run_finds_it(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    ids = [old.take_over(agent, f"srv{number}") for number, agent in enumerate(agents)]
    new = managers("new", old)
    told = new.ask(*agents)
    assert [(one.result, one.name, one.server) for one in told] == [(ADDED, "srv0", ids[0]), (ADDED, "srv1", ids[1])]
    assert told[0].objects["vm"] == 1 and told[0].note is None
    assert [server["name"] for server in servers.all(new.store)] == ["srv0", "srv1"]
    assert [servers.serial(new.store, id) for id in ids] == [servers.serial(old.store, id) for id in ids]
    assert sorted(vm["server"] for vm in objects.page(new.store, "vm")["items"]) == ["srv0", "srv1"]
    assert [one.result for one in new.ask(*agents)] == [KNOWN, KNOWN]
    assert [event["kind"] for event in events.page(new.store, 500)["items"]].count("server.rebuilt") == 2


def test_a_server_that_is_away_is_added_later_and_one_that_moved_is_found(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    for number, agent in enumerate(agents):
        old.take_over(agent, f"srv{number}")
    new = managers("new", old)
    agents[1].end()
    told = new.ask(*agents)
    assert [one.result for one in told] == [ADDED, SILENT] and told[1].remedy
    agents[1].start()  # on another port
    assert [one.result for one in new.ask(*agents)] == [KNOWN, ADDED]
    agents[1].end()
    agents[1].start()
    assert [one.result for one in new.ask(*agents)] == [KNOWN, UPDATED]
    assert servers.find(new.store, "srv1")["port"] == agents[1].port


def test_on_top_of_an_old_backup_only_what_is_missing_is_added(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    first = old.take_over(agents[0], "srv0")
    backup = managers("backup", old)
    servers.add(backup.store, {"id": first, "name": "srv0", "address": "127.0.0.1", "port": agents[0].port, "serial": servers.serial(old.store, first)})
    servers.add(backup.store, {"id": "00000000-0000-4000-8000-000000000000", "name": "gone", "address": "192.0.2.1", "port": 8899, "serial": "1"})
    old.take_over(agents[1], "srv1")
    assert [one.result for one in backup.ask(*agents)] == [KNOWN, ADDED]
    assert [server["name"] for server in servers.all(backup.store)] == ["gone", "srv0", "srv1"]


def test_pool_and_maintenance_come_back_by_the_notes_on_the_server(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    for number, agent in enumerate(agents):
        old.agents.take_over(f"srv{number}", "127.0.0.1", agent.port, ":".join(agent.invitation()), pool="rack1")
    old.store.write(lambda connection: connection.execute("UPDATE servers SET state = 'running'").rowcount)
    server_states.set_maintenance(old.store, agents[1].server_id, True, "new fans", "admin")
    notes = Notes(old.store, old.agents)
    notes.look()
    agents[0].kill()
    agents[0].start()
    new = managers("new", old)
    assert [one.result for one in new.ask(*agents)] == [ADDED, ADDED]
    assert [server["pool"] for server in servers.all(new.store)] == ["rack1", "rack1"]
    assert [server["maintenance_reason"] for server in servers.all(new.store)] == [None, "new fans"]
    ends = [(trust.row(one.store, agents[0].server_id) or {})["ends_at"] for one in (old, new)]
    assert abs(ends[0] - ends[1]) < 2  # it is not renewed just because it came back


def test_a_server_that_was_revoked_does_not_come_back_by_itself(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    id = old.take_over(agents[0], "srv0")
    old.agents.revoke(id)
    told = old.ask(agents[0])
    assert (told[0].result, told[0].server) == (REVOKED, id) and servers.serial(old.store, id) is None
    old.agents.forget(id)
    assert old.ask(agents[0])[0].result == REVOKED and servers.all(old.store) == []


def test_another_address_of_the_manager_is_told_once(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    old.take_over(agents[0], "srv0")
    new = managers("new", old, url="https://127.0.0.2:7002")
    assert "https://127.0.0.2:7002" in (new.ask(agents[0])[0].note or "")
    assert new.ask(agents[0])[0].note is None


def test_servers_of_others_are_refused_and_named(managers: Callable[..., Manager], agents: list[RunningAgent], tmp_path: Path) -> None:
    other, mine = managers("other"), managers("mine")
    theirs = other.take_over(agents[0], "srv0")
    told = mine.ask(*agents)
    assert [(one.result, one.server) for one in told] == [(FOREIGN, theirs), (FREE, agents[1].server_id)]
    assert all(one.note and one.remedy for one in told)
    same_keys = Manager(tmp_path / "same-keys", other.config.directory)
    try:
        told = same_keys.ask(agents[0])
        assert (told[0].result, told[0].server) == (FOREIGN, theirs) and same_keys.store.manager_id in (told[0].note or "")
        assert servers.all(same_keys.store) == [] == servers.all(mine.store)
    finally:
        same_keys.close()


def test_what_is_no_agent_and_a_name_in_use_are_told(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    id = old.take_over(agents[0], "srv0")
    new = managers("new", old)
    servers.add(new.store, {"id": "00000000-0000-4000-8000-000000000000", "name": "srv0", "address": "192.0.2.1", "port": 8899, "serial": "1"})
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        told = new.rebuild(Place("127.0.0.1", agents[0].port), Place("127.0.0.1", deaf.getsockname()[1]))
    assert [(one.result, one.server) for one in told] == [(FAILED, id), (SILENT, None)]
    assert "srv0" in (told[0].note or "")


def test_a_server_with_two_addresses_is_noted_once(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    old = managers("old")
    old.take_over(agents[0], "srv0")
    new = managers("new", old)
    told = new.rebuild(Place("127.0.0.1", agents[0].port), Place("localhost", agents[0].port))
    assert sorted(one.result for one in told) == sorted([ADDED, KNOWN]) and len(servers.all(new.store)) == 1


def test_a_secret_takes_a_free_server_over_and_a_wrong_one_does_not(managers: Callable[..., Manager], agents: list[RunningAgent]) -> None:
    mine = managers("mine")
    fingerprint, secret = agents[0].invitation()
    wrong = Place("127.0.0.1", agents[0].port, "srv0", f"{fingerprint}:{'0' * 32}")
    assert mine.rebuild(wrong)[0].result == FAILED and servers.all(mine.store) == []
    told = mine.rebuild(Place("127.0.0.1", agents[0].port, None, f"{fingerprint}:{secret}"))
    assert told[0].result == TAKEN_OVER and told[0].name == socket.gethostname()
    text = table(told, 3)
    assert "taken over" in text and "3 addresses without an answer" in text and "1 of 1 servers are here" in text and secret not in text
