"""Strangers at both doors of a whole stack: who is not meant to come in does not, and nobody else waits for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import tempfile
import threading
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from domus_core.clients.agent import AgentClient
from domus_core.clients.wire import PATH
from domus_core.errors import DomusError, Forbidden, Unreachable

from tests.support.made_up import MadeUpAgent, enrol
from tests.support.small_authority import SmallAuthority
from tests.support.stack import Stack
from tests.support.stack_faults import agent_client, ended, issue

CALLBACK = "/agent/v1/callback"
STALLED = 100
GIGABYTE = 1 << 30
# What a refused body may cost at most: the limit of both doors, and what is on its way.
MOST_TAKEN = 96 << 20
# The beginning of a TLS handshake, which never goes on.
HALF_A_HELLO = bytes.fromhex("160301020001000001fc0303")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack()
    try:
        made.up()
        job = ended(made, made.client.post("/api/v1/apply", {"vms": [{"name": "first", "memory": "16MiB", "state": "running"}]})["id"])
        assert job["state"] == "succeeded", job
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def made_up_agents(stack: Stack) -> list[MadeUpAgent]:
    return enrol(stack, 2)


@pytest.fixture(scope="module")
def made_up(made_up_agents: list[MadeUpAgent]) -> MadeUpAgent:
    return made_up_agents[0]


@pytest.fixture(autouse=True)
def others_are_served(stack: Stack, made_up: MadeUpAgent) -> Iterator[None]:
    """While each test lasts, people, agents and the manager are served at both doors."""
    failures, over, served = [], threading.Event(), [0]

    def ask() -> None:
        client, connection = agent_client(stack, 0), made_up.connect()
        while not over.is_set() or not served[0]:
            try:
                stack.client.get("/api/v1/vms", limit=1)
                made_up.call_back(connection, [])
                client.call("hello")
                served[0] += 1
            except (DomusError, OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(error)
                return
            over.wait(0.1)
        client.close()
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    over.set()
    thread.join()
    assert not failures and served[0]
    assert "Traceback" not in stack.log("agent0") + stack.log("manager")


def tls(issued: dict[str, Any] | None = None) -> ssl.SSLContext:
    """TLS that trusts anybody, with a certificate or without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if issued is not None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(issued["key"] + issued["certificate"])
            file.flush()
            context.load_cert_chain(file.name)
    return context


def call_back(stack: Stack, issued: dict[str, Any] | None, server: str, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the answer of a callback in the name of a server."""
    connection = http.client.HTTPSConnection("127.0.0.1", stack.port, context=tls(issued), timeout=30)
    record = {"seq": 1, "at": 1.0, "type": "event", "kind": "vm.crashed", "severity": "error", "object": None, "data": {"forged": True}, "operation": None}
    body = {"protocol": 1, "server": server, "epoch": "ff", "version": "1", "sent_at": 1.0, "libvirt": "up", "records": [record], "statistics": None}
    try:
        connection.request("POST", CALLBACK, json.dumps(body), {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def small(name: str, uri: str) -> dict[str, Any]:
    """A certificate of an authority that nobody here knows."""
    certificate, key = SmallAuthority(name).issue([uri])
    return {"certificate": certificate, "key": key}


@pytest.fixture(scope="module")
def server(stack: Stack) -> str:
    return str(stack.client.get("/api/v1/servers/s0")["id"])


# Who shows which certificate, and the status of the answer.
Shown = Callable[[Stack, str], "dict[str, Any] | None"]
STRANGERS: dict[str, tuple[Shown, set[int]]] = {
    "none": (lambda stack, server: None, {401}),
    "a person": (lambda stack, server: issue(stack, "person", "mallory"), {401, 403}),
    "a person called like the server": (lambda stack, server: issue(stack, "person", server), {401, 403}),
    "a job for the server": (lambda stack, server: issue(stack, "job", str(uuid.uuid4()), servers=[server]), {401, 403}),
    "a server that is not ours": (lambda stack, server: issue(stack, "server", str(uuid.uuid4())), {403}),
    "the server, but not its current one": (lambda stack, server: issue(stack, "server", server), {403}),
    "expired": (lambda stack, server: issue(stack, "server", server, days_ago=400), {400, 401}),
    "another authority": (lambda stack, server: small("Domus servers authority", f"urn:domus:server:{server}"), {400, 401}),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_callback_of_a_stranger_is_refused(stack: Stack, server: str, who: str) -> None:
    shown, statuses = STRANGERS[who]
    status, problem = call_back(stack, shown(stack, server), server)
    assert status in statuses and problem["code"], problem
    assert not [one for one in stack.client.get("/api/v1/events", server=server)["items"] if one["data"].get("forged")]


def test_a_server_reports_for_itself_only_and_with_a_replaced_certificate_no_more(stack: Stack, made_up_agents: list[MadeUpAgent], server: str) -> None:
    agent = made_up_agents[1]
    with pytest.raises(RuntimeError, match="403"):
        agent.call_back(agent.connect(), [], server=server)
    assert agent.call_back(agent.connect(), [])["acknowledged"] == 0
    renewed = issue(stack, "server", agent.id, current=True)
    with pytest.raises(RuntimeError, match="403"):
        agent.call_back(agent.connect(), [])
    assert call_back(stack, renewed, agent.id)[0] == 200
    assert call_back(stack, renewed, server)[0] == 403


def test_headers_of_a_client_do_not_make_it_a_server(stack: Stack, server: str) -> None:
    known = issue(stack, "server", server)["certificate"]
    forged = {"X-Client-Verify": "SUCCESS", "X-Client-Cert": urllib.parse.quote(known)}
    assert call_back(stack, None, server, **forged)[0] == 401


def test_plain_http_is_refused_at_both_doors(stack: Stack) -> None:
    for port, path in ((stack.port, "/api/v1/health"), (stack.agent_ports[0], PATH)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            connection.request("POST", path, b"{}")
            answer = connection.getresponse()
            assert answer.status == 400, answer.read()
        connection.close()


def agent_as(stack: Stack, server: str, issued: dict[str, Any]) -> AgentClient:
    """A client of the agent with this certificate."""
    with tempfile.NamedTemporaryFile("w") as certificate, tempfile.NamedTemporaryFile("w") as key:
        certificate.write(issued["certificate"])
        key.write(issued["key"])
        certificate.flush()
        key.flush()
        return AgentClient("127.0.0.1", stack.agent_ports[0], server, str(stack.manager_directory / "servers.crt"), certificate.name, key.name)


AT_THE_AGENT: dict[str, Shown] = {
    "a person": lambda stack, server: issue(stack, "person", "mallory"),
    "another server": lambda stack, server: issue(stack, "server", str(uuid.uuid4())),
    "the server itself": lambda stack, server: issue(stack, "server", server),
    "a job for another server": lambda stack, server: issue(stack, "job", str(uuid.uuid4()), servers=[str(uuid.uuid4())]),
    "an ended job": lambda stack, server: issue(stack, "job", str(uuid.uuid4()), servers=[server], days_ago=2),
    "another authority": lambda stack, server: small("Domus servers authority", "urn:domus:manager:x"),
}


@pytest.mark.parametrize("who", AT_THE_AGENT)
def test_an_agent_refuses_strangers(stack: Stack, server: str, who: str) -> None:
    issued = AT_THE_AGENT[who](stack, server)
    assert issued is not None
    client = agent_as(stack, server, issued)
    with pytest.raises((Forbidden, Unreachable)):
        client.call("hello")
    client.close()


def test_a_job_may_do_its_work_until_it_is_revoked(stack: Stack, server: str) -> None:
    issued = issue(stack, "job", str(uuid.uuid4()), servers=[server])
    client, manager = agent_as(stack, server, issued), agent_client(stack, 0)
    assert client.call("hello")["owned"]
    for method in ("inventory", "release", "adopt", "resync", "revoke"):
        with pytest.raises(Forbidden):
            client.call(method)
    manager.call("revoke", serial=issued["serial"], until=issued["until"])
    with pytest.raises((Forbidden, Unreachable)):
        client.call("hello")
    client.close()
    manager.close()


# --- those who hold things up


def test_a_hundred_stalled_handshakes_at_each_door_stop_nobody(stack: Stack) -> None:
    stalled = []
    for port in (stack.port, stack.agent_ports[0]):
        for number in range(STALLED):
            stalled.append(socket.create_connection(("127.0.0.1", port)))
            stalled[-1].sendall(HALF_A_HELLO[: number % len(HALF_A_HELLO)])
    manager = agent_client(stack, 0)
    for dummy in range(10):
        stack.client.get("/api/v1/health")
        manager.call("hello")
        manager.close()
    job = stack.client.post("/api/v1/vms/first/stop", wait=30)
    assert job["state"] == "succeeded", job
    for one in stalled:  # they are all there yet: nobody had to wait for their end
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(1)
        one.close()


def send_gigabyte(connection: http.client.HTTPSConnection, path: str, headers: dict[str, str], *, chunked: bool) -> tuple[int, bytes]:
    """Send a body of 1 GB until there is an answer, or the connection is closed: how many bytes went, and what was answered."""
    part, sent = b"x" * (1 << 20), 0
    framed = b"100000\r\n" + part + b"\r\n" if chunked else part
    connection.putrequest("POST", path)
    for name, value in {**headers, **({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(GIGABYTE)})}.items():
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.closing(connection), contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while sent < GIGABYTE:
            connection.sock.settimeout(20)
            connection.sock.sendall(framed)
            sent += len(part)
            connection.sock.settimeout(0)
            with contextlib.suppress(ssl.SSLWantReadError):
                return sent, connection.sock.recv(1 << 16)
    return sent, b""


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
@pytest.mark.parametrize("door", ["stranger", "person", "server", "manager at the agent"])
def test_a_body_of_a_gigabyte_is_refused_early(stack: Stack, made_up: MadeUpAgent, door: str, chunked: bool) -> None:
    headers = {"Content-Type": "application/json"}
    if door == "manager at the agent":
        paths = [(stack.manager_directory / f"manager.{end}").read_text() for end in ("crt", "key")]
        context, port, path, headers = tls({"certificate": paths[0], "key": paths[1]}), stack.agent_ports[0], PATH, {"Content-Type": "text/xml"}
    else:
        context, port = made_up.context if door == "server" else tls(), stack.port
        path = CALLBACK if door == "server" else "/api/v1/apply"
        headers |= {"Authorization": stack.basic()} if door == "person" else {}
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    sent, answer = send_gigabyte(connection, path, headers, chunked=chunked)
    assert sent <= MOST_TAKEN, f"{sent >> 20} MiB were taken"
    assert answer[:12] in (b"", b"HTTP/1.1 413"), answer
