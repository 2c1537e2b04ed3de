"""The agent's doors, tried on a real agent: the system's Python, libvirt's test driver, real TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import uuid
from pathlib import Path

import pytest
from domus_core.clients.agent import AgentClient, FirstContact
from domus_core.clients.wire import PATH, decode_answer, encode_request
from domus_core.errors import DomusError
from domus_core.owner import owner as owner_mark

from tests.support.agent_process import NETWORK, Owner, RunningAgent, ended, hold, raises_code, submit_apply, wait_until
from tests.support.small_authority import SmallAuthority, serial_of

# --- take-over and release


def test_a_free_server_tells_who_it_is_and_nothing_else(agent: RunningAgent) -> None:
    with FirstContact("127.0.0.1", agent.port) as contact:
        contact.require(agent.invitation()[0])
        told = contact.call("hello")
        assert (told["owned"], told["manager"], told["server"], told["protocols"]) == (False, None, agent.server_id, [1])
        assert "BEGIN CERTIFICATE REQUEST" in told["csr"]
        for method in ("inventory", "submit", "release", "status", "plan", "adopt", "resync", "revoke", "cancel"):
            with raises_code("forbidden"):
                contact.call(method)
        with raises_code("unsupported"):  # the agent says not_found; a client takes that for an agent older than itself
            contact.call("shell")


def test_it_is_taken_over_once_and_stays_so_over_a_restart(agent: RunningAgent, owner: Owner) -> None:
    assert owner.take_over(agent) == {"server": agent.server_id}
    assert owner_mark(str(agent.state_directory)) == {"manager": "6a1f4e0e-0000-4000-8000-000000000001", "url": owner.url}
    assert not (agent.directory / "agent/identity/secret").exists()
    with raises_code("forbidden") as caught:
        owner.client(agent).call("take_over")
    assert "taken this server over" in caught[0].message
    assert agent.end() == 0
    agent.start()
    told = owner.client(agent).call("hello")
    assert (told["owned"], told["csr"], told["problem"]) == (True, None, None)


def test_the_fifth_wrong_secret_makes_a_new_one(agent: RunningAgent, owner: Owner) -> None:
    fingerprint, secret = agent.invitation()
    with FirstContact("127.0.0.1", agent.port) as contact:
        contact.require(fingerprint)
        papers = owner.papers(contact.call("hello")["csr"], agent.server_id)
        for number in range(5):
            assert agent.invitation() == (fingerprint, secret)
            with raises_code("unauthorized"):
                contact.call("take_over", secret=f"{number:032x}", **papers)
        assert agent.invitation()[1] != secret
        with raises_code("unauthorized"):
            contact.call("take_over", secret=secret, **papers)
        assert contact.call("take_over", secret=agent.invitation()[1], **papers)


@pytest.mark.parametrize("field", ["certificate", "authority", "callback_authority", "url", "other server", "other key"])
def test_papers_that_do_not_fit_change_nothing(agent: RunningAgent, owner: Owner, field: str) -> None:
    fingerprint, secret = agent.invitation()
    with FirstContact("127.0.0.1", agent.port) as contact:
        contact.require(fingerprint)
        papers = owner.papers(contact.call("hello")["csr"], agent.server_id)
        wrong = {
            "other server": {"certificate": owner.servers.issue([f"urn:domus:server:{uuid.uuid4()}"])[0]},
            "other key": {"certificate": owner.servers.issue([f"urn:domus:server:{agent.server_id}"])[0]},
            "authority": {"authority": SmallAuthority("another").pem},
        }.get(field, {field: "nonsense"})
        with raises_code("invalid_spec"):
            contact.call("take_over", secret=secret, **{**papers, **wrong})
        assert contact.call("hello")["owned"] is False
        assert contact.call("take_over", secret=secret, **papers)


def test_a_released_server_is_another_one_to_its_old_manager(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    server_id = agent.server_id
    assert client.call("release") == {}
    fingerprint, dummy = agent.invitation()
    assert owner_mark(str(agent.state_directory)) is None
    with raises_code("unreachable"):
        client.call("hello")
    with FirstContact("127.0.0.1", agent.port) as contact:
        assert contact.fingerprint == fingerprint
    other = Owner(agent.directory / "other")
    other.take_over(agent)
    assert other.client(agent).call("hello")["server"] == server_id
    with raises_code("unreachable"):
        owner.client(agent).call("hello")
    other.close()


def test_a_connection_from_before_the_take_over_counts_no_more(agent: RunningAgent, owner: Owner) -> None:
    with FirstContact("127.0.0.1", agent.port) as contact:
        contact.require(agent.invitation()[0])
        owner.take_over(agent)
        with raises_code("unreachable"):
            contact.call("hello")


# --- who may call


def test_strangers_are_not_answered(agent: RunningAgent, owner: Owner, client: AgentClient, tmp_path: Path) -> None:
    people = SmallAuthority("people")
    manager = "urn:domus:manager:6a1f4e0e-0000-4000-8000-000000000001"
    unknown = {
        "a person's": people.files(tmp_path, "person", [manager]),
        "an expired one": owner.servers.files(tmp_path, "expired", [manager], days=-1),
    }
    for what, files in unknown.items():
        with raises_code("unreachable"):
            owner.client(agent, files).call("hello")
        assert what
    known = {
        "another server's": owner.servers.files(tmp_path, "server", [f"urn:domus:server:{uuid.uuid4()}"]),
        "another manager's": owner.servers.files(tmp_path, "other", [f"urn:domus:manager:{uuid.uuid4()}"]),
        "a job's for another server": owner.job("away", [str(uuid.uuid4())]),
        "its own": owner.servers.files(tmp_path, "own", [f"urn:domus:server:{agent.server_id}"]),
    }
    for what, files in known.items():
        with raises_code("forbidden"):
            owner.client(agent, files).call("hello")
        assert what
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    bare = http.client.HTTPSConnection("127.0.0.1", agent.port, context=context, timeout=30)
    with pytest.raises((OSError, http.client.HTTPException)):
        bare.request("POST", PATH, encode_request("hello", {}))
        bare.getresponse()
    bare.close()
    assert client.call("hello")["owned"] is True


def test_plain_http_is_not_answered(agent: RunningAgent, client: AgentClient) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
    with pytest.raises((OSError, http.client.HTTPException)):
        plain.request("POST", PATH, encode_request("hello", {}))
        plain.getresponse()
    plain.close()
    assert client.call("hello")["owned"] is True


def test_a_job_does_its_work_and_no_more(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    job = owner.client(agent, owner.job("j1", [agent.server_id]))
    assert submit_apply(job, NETWORK, "mine")["state"] == "succeeded"
    assert submit_apply(client, NETWORK, "the-managers")["state"] == "succeeded"
    for method in ("release", "inventory", "resync", "adopt", "revoke"):
        with raises_code("forbidden"):
            job.call(method)
    for operation in ("the-managers", "unknown"):
        with raises_code("not_found"):
            job.call("status", operation=operation)
        with raises_code("not_found"):
            job.call("cancel", operation=operation)
    assert client.call("status", operation="mine")["state"] == "succeeded"


def test_a_revoked_certificate_ends_its_operations_and_stays_out(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    files = owner.job("j2", [agent.server_id])
    job = owner.client(agent, files)
    with hold(agent, "network", "lan"):
        job.call("submit", operation="op", kind="apply", document=NETWORK)
        wait_until(lambda: client.call("status", operation="op")["state"] == "running")
        client.call("revoke", serial=serial_of(files[0]).upper(), until=4e9)
        assert ended(client, "op")["state"] == "cancelled"
    with raises_code("forbidden"):
        job.call("hello")
    for damage in (False, True):
        agent.end()
        if damage:  # trust is kept apart from the database
            (agent.directory / "agent/agent.db").write_bytes(b"no database" * 1000)
        agent.start()
        with raises_code("forbidden"):
            owner.client(agent, files).call("hello")
        assert owner.client(agent).call("hello")["owned"] is True


# --- hostile input


def test_stalled_handshakes_stop_nobody(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    silent = [socket.create_connection(("127.0.0.1", agent.port)) for dummy in range(100)]
    for connection in silent[::2]:
        connection.sendall(b"\x16\x03\x01\x02")
    try:
        for dummy in range(5):
            assert owner.client(agent).call("hello")["owned"] is True
    finally:
        for connection in silent:
            connection.close()


def raw(agent: RunningAgent, owner: Owner) -> http.client.HTTPSConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=owner.servers.pem)
    context.load_cert_chain(*owner.manager)
    return http.client.HTTPSConnection("127.0.0.1", agent.port, context=context, timeout=60)


def status_of_endless_body(connection: http.client.HTTPSConnection, header: tuple[str, str]) -> int:
    """Send up to a gigabyte; return the status that came instead of patience, 0 for a closed connection."""
    connection.putrequest("POST", PATH)
    connection.putheader(*header)
    connection.endheaders()
    part = b"x" * (1 << 20)
    framed = b"%x\r\n%s\r\n" % (len(part), part) if header[1] == "chunked" else part
    try:
        for dummy in range(1024):
            connection.send(framed)
    except OSError:
        pass
    try:
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("header", [("Content-Length", str(1 << 30)), ("Transfer-Encoding", "chunked")])
def test_a_body_of_a_gigabyte_is_refused_early(agent: RunningAgent, owner: Owner, client: AgentClient, header: tuple[str, str]) -> None:
    assert status_of_endless_body(raw(agent, owner), header) in (413, 0)
    assert client.call("hello")["owned"] is True
    assert agent.memory("VmHWM") < 400 << 20


def test_too_large_a_body_is_answered_with_413(agent: RunningAgent, owner: Owner, client: AgentClient) -> None:
    connection = raw(agent, owner)
    connection.putrequest("POST", PATH)
    connection.putheader("Content-Length", str((64 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_free_server_takes_one_mebibyte_at_most(agent: RunningAgent) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", agent.port, context=context, timeout=60)
    connection.putrequest("POST", PATH)
    connection.putheader("Content-Length", str((1 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"<methodCall>",
        b"<!DOCTYPE a [<!ENTITY b 'bb'>]>" + encode_request("hello", {}).replace(b"{", b"&b;{"),
        b"<a>" * 300_000,
        b"<methodCall><methodName>hello</methodName><params><param><value><int>1</int></value></param></params></methodCall>",
        encode_request("hello", {}).replace(b"protocol", b"protokoll"),
        encode_request("hello", {"deep": 1}).replace(b"1", b"[" * 100_000, 1),
        encode_request("hello", {"unknown": 1}),
        encode_request("status", {"operation": 1}),
        encode_request("status", {"operation": "a", "wait": 1e99}),
        encode_request("../shell", {}),
    ],
    ids=range(12),
)
def test_odd_calls_get_an_error_of_ours(agent: RunningAgent, owner: Owner, client: AgentClient, body: bytes) -> None:
    connection = raw(agent, owner)
    connection.request("POST", PATH, body)
    response = connection.getresponse()
    assert response.status == 200
    with pytest.raises(DomusError) as caught:
        decode_answer(response.read())
    assert caught.value.code in ("invalid_spec", "unsupported", "not_found")
    connection.close()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", PATH, 405), ("POST", "/", 404), ("GET", "/console/not-a-uuid", 400), ("PUT", "/../etc", 404)])
def test_other_paths_and_methods_get_one_line(agent: RunningAgent, owner: Owner, client: AgentClient, method: str, path: str, status: int) -> None:
    connection = raw(agent, owner)
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status == status
    assert len(response.read().splitlines()) == 1
    connection.close()
