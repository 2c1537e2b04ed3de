"""Certificates of servers over their whole life, between a real manager's parts and real agents."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from domus_controller.agents import takeover
from domus_controller.security.authority import DAY, expires_at, identity, serial_of
from domus_controller.store import server_states, servers, trust
from domus_core.clients.agent import AgentClient
from domus_core.errors import Conflict, Unreachable

from tests.support.agent_process import RunningAgent, wait_until
from tests.support.stack import free_port
from tests.support.trusting_manager import Manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "manager")
    yield made
    made.close()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., RunningAgent]]:
    made: list[RunningAgent] = []

    def start(**settings: Any) -> RunningAgent:
        directory = tmp_path / f"server{len(made)}"
        directory.mkdir()
        agent = RunningAgent(directory, heartbeat=0.2, **settings)
        agent.start()
        made.append(agent)
        return agent

    yield start
    for agent in made:
        agent.close()


def certificate_of(agent: RunningAgent) -> bytes:
    """What the agent shows to whoever connects."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", agent.port)))


def test_discovery_tells_what_answers_and_changes_nothing(manager: Manager, agents: Callable[..., RunningAgent], tmp_path: Path) -> None:
    agent = agents()
    before = certificate_of(agent)
    told = manager.agents.discover("127.0.0.1", agent.port)
    assert told["fingerprint"] == hashlib.sha256(before).hexdigest() == agent.invitation()[0]
    assert (told["server"], told["owned"], told["manager"], told["ours"], told["protocols"]) == (agent.server_id, False, None, False, [1])
    assert certificate_of(agent) == before
    manager.take(agent)
    ours = manager.agents.discover("127.0.0.1", agent.port)
    assert (ours["owned"], ours["ours"], ours["known_as"], ours["manager"]) == (True, True, "srv1", manager.store.manager_id)
    assert ours["fingerprint"] == hashlib.sha256(certificate_of(agent)).hexdigest() != told["fingerprint"]
    other = Manager(tmp_path / "other")
    try:
        seen = other.agents.discover("127.0.0.1", agent.port)
        assert (seen["owned"], seen["ours"], seen["known_as"], seen["manager"]) == (True, False, None, manager.store.manager_id)
    finally:
        other.close()


def test_discovery_says_what_is_wrong_where_no_agent_answers(manager: Manager) -> None:
    with pytest.raises(Unreachable, match="can not be reached"):
        manager.agents.discover("127.0.0.1", 9)
    with pytest.raises(Unreachable, match="no Domus agent"):
        manager.agents.discover("127.0.0.1", int(manager.listener.url.rpartition(":")[2]))


def test_a_second_manager_takes_nothing_over(manager: Manager, agents: Callable[..., RunningAgent], tmp_path: Path) -> None:
    agent = agents()
    secret = ":".join(agent.invitation())
    manager.take(agent)
    other = Manager(tmp_path / "other")
    try:
        for fingerprint in (secret.partition(":")[0], hashlib.sha256(certificate_of(agent)).hexdigest()):
            with pytest.raises((Conflict, Unreachable)):
                other.agents.take_over("srv1", "127.0.0.1", agent.port, f"{fingerprint}:{secret.partition(':')[2]}")
        assert servers.all(other.store) == []
        assert manager.agents.call(agent.server_id, "hello", {})["manager"] == manager.store.manager_id
    finally:
        other.close()


def test_a_certificate_is_renewed_before_it_ends_and_the_old_one_counts_no_more(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    agent = agents()
    manager.take(agent)
    wait_until(lambda: servers.find(manager.store, "srv1")["state"] == "running")
    first, key = servers.serial(manager.store, agent.server_id), (agent.directory / "agent/identity/key.pem").read_text()
    manager.trust.look()
    assert servers.serial(manager.store, agent.server_id) == first, "it is good for a year"
    manager.moved = 276 * DAY
    manager.store.write(lambda c: server_states.heard(c, agent.server_id, manager.store.now(), None, None))
    manager.trust.look()
    wait_until(lambda: servers.serial(manager.store, agent.server_id) != first)
    assert (agent.directory / "agent/identity/key.pem").read_text() != key
    assert f"{x509.load_der_x509_certificate(certificate_of(agent)).serial_number:x}" == servers.serial(manager.store, agent.server_id)
    assert not trust.accepts(manager.store, agent.server_id, int(str(first), 16))
    assert manager.agents.call(agent.server_id, "hello", {})["owned"] is True
    assert manager.events("server.renewed")
    manager.trust.look()
    assert len(manager.events("server.renewed")) == 1


def test_until_the_new_certificate_was_used_both_count(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    agent = agents()
    manager.take(agent)
    first = int(str(servers.serial(manager.store, agent.server_id)), 16)
    asked = manager.agents.call(agent.server_id, "renewal", {})
    issued = manager.authority.issue_server(asked["csr"], agent.server_id)
    trust.note(manager.store, agent.server_id, next_serial=issued.serial, next_ends_at=issued.not_after)
    assert trust.accepts(manager.store, agent.server_id, first), "the manager died before the agent heard of it"
    assert trust.accepts(manager.store, agent.server_id, int(issued.serial, 16)), "the agent's answer was lost"
    assert not trust.accepts(manager.store, agent.server_id, first)


def test_a_revoked_server_is_refused_at_once_and_the_others_hear_of_it(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    one, two = agents(), agents()
    manager.take(one)
    manager.take(two, "srv2")
    wait_until(lambda: all(server["state"] == "running" for server in servers.all(manager.store)))
    serial = servers.serial(manager.store, one.server_id)
    manager.agents.revoke(one.server_id)
    seen = len(manager.listener.seen)
    wait_until(lambda: any(shown == serial and not right for shown, right, dummy in manager.listener.seen[seen:]), 10)
    assert serial in json.loads((two.directory / "agent/identity/revoked.json").read_text())
    with pytest.raises(Unreachable, match="revoked"):
        manager.agents.call(one.server_id, "hello", {})
    with pytest.raises(Unreachable):
        manager.agents.release(one.server_id)
    manager.agents.forget(one.server_id)
    assert [server["name"] for server in servers.all(manager.store)] == ["srv2"]


def test_a_reinstalled_server_takes_the_place_of_the_old_one(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    old, new = agents(), agents()
    manager.take(old)
    wait_until(lambda: servers.find(manager.store, "srv1")["state"] == "running")
    old.kill()
    with pytest.raises(Conflict, match="name of another server") as caught:
        manager.take(new)
    assert "--replace" in caught.value.remedy
    with pytest.raises(Conflict, match="works still"):
        manager.take(new, replace=True)
    server_states.judge(manager.store, 0, server_states.Limits(0, 1))
    with pytest.raises(Conflict):  # another fingerprint: everything is as before
        manager.agents.take_over("srv1", "127.0.0.1", new.port, f"{'0' * 64}:{new.invitation()[1]}", replace=True)
    assert [(one["name"], one["id"]) for one in servers.all(manager.store)] == [("srv1", old.server_id)]
    manager.take(new, replace=True)
    assert [(one["name"], one["id"]) for one in servers.all(manager.store)] == [("srv1", new.server_id)]
    assert trust.gone(manager.store) == [old.server_id]


def test_two_servers_with_one_host_uuid_are_refused_and_explained(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    one, two = agents(), agents()
    manager.take(one)
    wait_until(lambda: (servers.find(manager.store, "srv1")["facts"] or {}).get("hostname"))
    uuid = "4c4c4544-0000-1000-8000-000000000000"
    manager.store.write(lambda c: server_states.heard(c, one.server_id, manager.store.now(), None, None, {"uuid": uuid}))
    wanted = takeover.Wanted("srv2", "127.0.0.1", two.port)
    with AgentClient.peek("127.0.0.1", two.port) as contact:
        hello = {**contact.greet(), "host_uuid": uuid}
    with pytest.raises(Conflict, match="same host UUID as server srv1") as caught:
        takeover._check(manager.store, hello, wanted)
    assert "libvirtd.conf" in caught.value.remedy
    takeover._check(manager.store, {**hello, "host_uuid": None}, wanted)
    manager.take(two, "srv2")
    wait_until(lambda: (servers.find(manager.store, "srv2")["facts"] or {}).get("hostname"))
    manager.store.write(lambda c: server_states.heard(c, two.server_id, manager.store.now(), None, None, {"uuid": uuid}))
    assert [one["data"]["servers"] for one in manager.events("server.same_host_uuid")] == [["srv1"]]


def test_an_authority_that_ends_within_a_year_is_told(manager: Manager) -> None:
    manager.trust.look()
    assert manager.events("authority.ends_soon") == []
    manager.moved = 3650 * DAY - 300 * DAY
    manager.trust.look()
    assert {one["data"]["authority"] for one in manager.events("authority.ends_soon")} == {"libvirt", "web"}, "the others are renewed"


def test_an_authority_is_followed_by_another_that_all_believe_before_it_signs(tmp_path: Path, agents: Callable[..., RunningAgent]) -> None:
    manager = Manager(tmp_path / "aged", age=3350 * DAY)
    try:
        one, two = agents(), agents(port=free_port())
        manager.take(one)
        manager.take(two, "srv2")
        first, ends = manager.authority.servers_ca_pem, manager.authority.expires_at("servers")
        assert expires_at(shown_by(one)) <= ends, "what it signs ends with it"
        two.kill()
        manager.trust.look()
        believed = manager.authority.servers_ca_pem
        assert believed.startswith(first) and believed != first, "two are believed, and the first still signs"
        assert believed_by(one) == believed and believed_by(two) == first
        (waits,) = manager.events("authority.renewal_waits")
        assert (waits["data"]["authority"], list(waits["data"]["servers"])) == ("servers", ["srv2"])
        assert manager.authority.expires_at("servers") == ends
        assert [event["data"]["authority"] for event in manager.events("authority.renewed")] == ["people"], "no server need believe that one"
        two.start()
        manager.moved = 3700
        manager.trust.look()
        assert believed_by(two) == believed and manager.authority.expires_at("servers") > ends + 3000 * DAY
        assert {event["data"]["authority"] for event in manager.events("authority.renewed")} == {"servers", "people"}
        manager.listener.context.load_verify_locations(cadata=manager.authority.servers_ca_pem)
        before = shown_by(one)
        for server in (one, two):
            assert manager.agents.call(server.server_id, "hello", {})["owned"] is True, "the manager shows a certificate of the new one"
        manager.trust.renew(one.server_id)
        wait_until(lambda: manager.authority.renewal_due(before) is False and shown_by(one) != before)
        wait_until(lambda: servers.serial(manager.store, one.server_id) == serial_of(shown_by(one)))
        assert expires_at(shown_by(one)) > ends and manager.agents.discover("127.0.0.1", one.port)["ours"] is True
        assert manager.agents.discover("127.0.0.1", two.port)["ours"] is True, "its certificate is of the one before, which is believed until it ends"
        manager.moved = manager.authority_moved = 301 * DAY
        manager.trust.look()
        assert manager.authority.servers_ca_pem.count("BEGIN") == 1, "that has ended"
    finally:
        manager.close()


def believed_by(agent: RunningAgent) -> str:
    """The authorities whose callers an agent accepts."""
    return (agent.directory / "agent/identity/authority.pem").read_text()


def shown_by(agent: RunningAgent) -> str:
    """What the agent shows to whoever connects, as PEM."""
    return ssl.DER_cert_to_PEM_cert(certificate_of(agent))


def test_the_managers_own_certificates_are_renewed_while_it_runs(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    agent = agents()
    manager.take(agent)
    manager.authority_moved = -280 * DAY
    for name in ("manager", "web-server"):
        (manager.authority.directory / f"{name}.crt").unlink(missing_ok=True)
    manager.authority.issue_web(["127.0.0.1"])
    assert manager.agents.call(agent.server_id, "hello", {})["owned"] is True
    client, web = (identity_of(manager, name) for name in ("manager", "web-server"))
    manager.authority_moved = 0.0
    manager.agents._looked_at -= 3601
    assert manager.agents.call(agent.server_id, "hello", {})["owned"] is True
    manager.trust.look()
    assert identity_of(manager, "manager") != client
    assert identity_of(manager, "web-server") != web
    assert manager.events("manager.web_certificate_renewed")[0]["data"]["remedy"], "no nginx runs here: a person has to know"


def identity_of(manager: Manager, name: str) -> int:
    return x509.load_pem_x509_certificate((manager.authority.directory / f"{name}.crt").read_bytes()).serial_number


def test_a_servers_certificate_names_its_manager_but_is_none(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    agent = agents()
    manager.take(agent)
    pem = ssl.get_server_certificate(("127.0.0.1", agent.port))
    assert (identity(pem, "owner"), identity(pem, "manager")) == (manager.store.manager_id, None)
