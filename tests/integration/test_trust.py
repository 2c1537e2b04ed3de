"""Certificates of servers over their whole life, between a real manager's parts and real agents."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from domus_controller.agents import takeover
from domus_controller.agents.pool import Agents
from domus_controller.config import ManagerConfig
from domus_controller.security.authority import DAY, Authority, identity
from domus_controller.store import events, servers, trust
from domus_controller.store.database import Store
from domus_core.clients.agent import AgentClient
from domus_core.errors import Conflict, Unreachable

from tests.support.agent_process import RunningAgent, wait_until


class Manager:
    """A manager's store, authorities and agents, with a clock that can be moved; it hears callbacks as the API does."""

    def __init__(self, directory: Path) -> None:
        self.moved = self.authority_moved = 0.0
        directory.mkdir(parents=True)
        self.store = Store(directory, lambda: time.time() + self.moved)
        self.authority = Authority(directory, lambda: time.time() + self.authority_moved)
        self.authority.ensure()
        self.listener = Listener(self)
        self.agents = Agents(self.store, self.authority, ManagerConfig(directory=directory, run_directory=directory, url=self.listener.url))
        self.trust = self.agents.trust

    def take_over(self, agent: RunningAgent, name: str = "srv1", **more: Any) -> dict[str, Any]:
        return self.agents.take_over(name, "127.0.0.1", agent.port, ":".join(agent.invitation()), **more)

    def events(self, kind: str) -> list[Any]:
        return [one for one in events.page(self.store, since=0)["items"] if one["kind"] == kind]

    def close(self) -> None:
        self.listener.close()
        self.store.close()


class Listener:
    """The way of the callbacks: TLS as nginx has it, then the gate's question, then what the API does with certificates."""

    def __init__(self, manager: Manager) -> None:
        self.seen: list[tuple[str, bool, Any]] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                shown = x509.load_der_x509_certificate(self.connection.getpeercert(True))  # type: ignore[attr-defined]
                right = trust.accepts(manager.store, message["server"], shown.serial_number)
                listener.seen.append((f"{shown.serial_number:x}", right, message.get("tls")))
                answer: dict[str, Any] = {"detail": "not the current one"}
                if right:
                    manager.store.write(lambda c: servers.heard_from(c, message["server"], manager.store.now(), "1", "up", message["facts"]))
                    news = manager.trust.heard_of(message["server"], message.get("tls"))
                    answer = {"acknowledged": max((one["seq"] for one in message["records"]), default=0), **news}
                    answer["revoked"] = servers.revoked(manager.store, message["server"])
                body = json.dumps(answer).encode()
                self.send_response(200 if right else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *dummy: Any) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*manager.authority.issue_web(["127.0.0.1"]))
        context.load_verify_locations(cadata=manager.authority.servers_ca_pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


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
    manager.take_over(agent)
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
    manager.take_over(agent)
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
    manager.take_over(agent)
    wait_until(lambda: servers.find(manager.store, "srv1")["state"] == "running")
    first, key = servers.serial(manager.store, agent.server_id), (agent.directory / "agent/identity/key.pem").read_text()
    manager.trust.look()
    assert servers.serial(manager.store, agent.server_id) == first, "it is good for a year"
    manager.moved = 276 * DAY
    manager.store.write(lambda c: servers.heard_from(c, agent.server_id, manager.store.now(), None, None))
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
    manager.take_over(agent)
    first = int(str(servers.serial(manager.store, agent.server_id)), 16)
    asked = manager.agents.call(agent.server_id, "renewal", {})
    issued = manager.authority.issue_server(asked["csr"], agent.server_id)
    trust.note(manager.store, agent.server_id, next_serial=issued.serial, next_ends_at=issued.not_after)
    assert trust.accepts(manager.store, agent.server_id, first), "the manager died before the agent heard of it"
    assert trust.accepts(manager.store, agent.server_id, int(issued.serial, 16)), "the agent's answer was lost"
    assert not trust.accepts(manager.store, agent.server_id, first)


def test_a_revoked_server_is_refused_at_once_and_the_others_hear_of_it(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    one, two = agents(), agents()
    manager.take_over(one)
    manager.take_over(two, "srv2")
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
    manager.take_over(old)
    wait_until(lambda: servers.find(manager.store, "srv1")["state"] == "running")
    old.kill()
    with pytest.raises(Conflict, match="name of another server") as caught:
        manager.take_over(new)
    assert "--replace" in caught.value.remedy
    with pytest.raises(Conflict, match="works still"):
        manager.take_over(new, replace=True)
    servers.mark_silent(manager.store, manager.store.now() + 1)
    with pytest.raises(Conflict):  # another fingerprint: everything is as before
        manager.agents.take_over("srv1", "127.0.0.1", new.port, f"{'0' * 64}:{new.invitation()[1]}", replace=True)
    assert [(one["name"], one["id"]) for one in servers.all(manager.store)] == [("srv1", old.server_id)]
    manager.take_over(new, replace=True)
    assert [(one["name"], one["id"]) for one in servers.all(manager.store)] == [("srv1", new.server_id)]
    assert trust.gone(manager.store) == [old.server_id]


def test_two_servers_with_one_host_uuid_are_refused_and_explained(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    one, two = agents(), agents()
    manager.take_over(one)
    wait_until(lambda: (servers.find(manager.store, "srv1")["facts"] or {}).get("hostname"))
    uuid = "4c4c4544-0000-1000-8000-000000000000"
    manager.store.write(lambda c: c.execute("UPDATE servers SET facts = json_set(facts, '$.uuid', ?)", (uuid,)).rowcount)
    wanted = takeover.Wanted("srv2", "127.0.0.1", two.port)
    with AgentClient.peek("127.0.0.1", two.port) as contact:
        hello = {**contact.greet(), "host_uuid": uuid}
    with pytest.raises(Conflict, match="same host UUID as server srv1") as caught:
        takeover._check(manager.store, hello, wanted)
    assert "libvirtd.conf" in caught.value.remedy
    takeover._check(manager.store, {**hello, "host_uuid": None}, wanted)
    manager.take_over(two, "srv2")
    wait_until(lambda: (servers.find(manager.store, "srv2")["facts"] or {}).get("hostname"))
    manager.store.write(lambda c: c.execute("UPDATE servers SET facts = json_set(facts, '$.uuid', ?)", (uuid,)).rowcount)
    manager.trust.look()
    assert [one["data"]["servers"] for one in manager.events("server.same_host_uuid")] == [["srv1", "srv2"]]


def test_an_authority_that_ends_within_a_year_is_told(manager: Manager) -> None:
    manager.trust.look()
    assert manager.events("authority.ends_soon") == []
    manager.moved = 3650 * DAY - 300 * DAY
    manager.trust.look()
    assert {one["data"]["authority"] for one in manager.events("authority.ends_soon")} == {"servers", "libvirt", "web", "people"}


def test_the_managers_own_certificates_are_renewed_while_it_runs(manager: Manager, agents: Callable[..., RunningAgent]) -> None:
    agent = agents()
    manager.take_over(agent)
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
    manager.take_over(agent)
    pem = ssl.get_server_certificate(("127.0.0.1", agent.port))
    assert (identity(pem, "owner"), identity(pem, "manager")) == (manager.store.manager_id, None)
