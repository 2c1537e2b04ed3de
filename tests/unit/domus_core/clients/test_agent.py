"""The client of agents against a TLS server in this process: whom it trusts, when it asks again, and how it tells what is wrong."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from domus_core.clients import agent
from domus_core.clients.agent import AgentClient
from domus_core.clients.wire import decode_request, encode_error, encode_result, server_urn
from domus_core.errors import Busy, Conflict, DomusError, DriverError, Forbidden, InvalidSpec, NotFound, TooLarge, Unreachable, Unsupported

SERVER, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
Answer = Callable[[str, dict[str, Any]], Any]


class Authority:
    """A CA that signs certificates with a URI; `directory` is where they lie."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.key, self.subject, x509.BasicConstraints(ca=True, path_length=None))
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, key: Any, subject: x509.Name, *extensions: Any) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, uri: str) -> tuple[str, str]:
        """The paths of a certificate for this URI and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        certificate = self._sign(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]), names)
        stem = self.directory / f"{self.name}-{uri.replace(':', '-')}"
        stem.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        stem.with_suffix(".key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return str(stem.with_suffix(".pem")), str(stem.with_suffix(".key"))


class Agent:
    """An agent that answers as the test wants. `calls` are the methods that arrived, `connections` counts those that were accepted."""

    def __init__(self, pair: tuple[str, str], authority: Optional[str], answer: Answer) -> None:
        self.calls: list[str] = []
        self.connections = 0
        self.answer = answer
        self.close_after_each = self.announces_close = self.hang_up_without_answer = False
        self.status = 200
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        if authority is not None:
            context.load_verify_locations(cadata=authority)
            context.verify_mode = ssl.CERT_REQUIRED
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                self.request = context.wrap_socket(self.request, server_side=True)
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                method, parameters = decode_request(self.rfile.read(int(self.headers["Content-Length"])))
                outer.calls.append(method)
                if outer.hang_up_without_answer:
                    self.close_connection = True
                    return
                try:
                    body = encode_result(outer.answer(method, parameters))
                except DomusError as error:
                    body = encode_error(error)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                if outer.announces_close:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = outer.close_after_each

            def log_message(self, *dummy: Any) -> None:
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *dummy: Any) -> None:
                """A refused handshake is what some tests want."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


class World:
    """A manager's CA, an agent that trusts it, and clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority, self.stranger = Authority(directory, "ours"), Authority(directory, "theirs")
        self.mine = self.authority.issue("urn:domus:manager:m")
        self.made: list[Any] = []

    def agent(self, answer: Answer = lambda method, parameters: parameters, *, pair: Any = None, authority: Optional[str] = "ours") -> Agent:
        """Start an agent."""
        made = Agent(pair or self.authority.issue(server_urn(SERVER)), self.authority.pem if authority else None, answer)
        self.made.append(made)
        return made

    def client(self, to: Agent, *, pair: Any = None, authority: Any = None, server: str = SERVER, timeout: float = 10) -> AgentClient:
        """Make a client of the agent."""
        made = AgentClient("127.0.0.1", to.port, server, authority or self.authority.pem, *(pair or self.mine), timeout=timeout)
        self.made.append(made)
        return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """See World."""
    made = World(tmp_path)
    yield made
    for one in reversed(made.made):
        one.close()


def refused(world: World, client: AgentClient, there: Agent) -> str:
    """What is told of an agent that can not be called; it must not have heard anything."""
    with pytest.raises(Unreachable) as raised:
        client.call("hello")
    assert there.calls == [] and f"127.0.0.1:{there.port}" in str(raised.value) and raised.value.remedy
    return str(raised.value)


def test_a_call_and_its_errors(world: World) -> None:
    def answer(method: str, parameters: dict[str, Any]) -> Any:
        if method == "submit":
            raise Busy("somebody else is at it", object="vm a", remedy="Wait")
        return {"method": method, **parameters}

    there = world.agent(answer)
    client = world.client(there)
    assert client.call("status", operation="o", timeout=5, method="x") == {"method": "x", "operation": "o", "timeout": 5}
    with pytest.raises(Busy) as raised:
        client.call("submit")
    assert raised.value.object == "vm a" and client.request("plan", {"a": 1}, timeout=3)["a"] == 1
    assert there.connections == 1, "one connection for all calls of a thread, errors included"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotFound("there is no such method", object="method plan", remedy="Known: hello"), "the method plan"),
        (InvalidSpec("is not a parameter of this method", field="existing"), "existing of the method plan"),
        (InvalidSpec("is not a kind of operation", field="kind", value="migrate"), "kind of the method plan"),
    ],
)
def test_what_an_older_agent_does_not_know_is_said_so(world: World, error: DomusError, said: str) -> None:
    def refuse(method: str, parameters: dict[str, Any]) -> Any:
        raise error

    with pytest.raises(Unsupported, match=f"does not know {said}: it is older") as raised:
        world.client(world.agent(refuse)).call("plan")
    assert "Upgrade the agent" in raised.value.remedy and raised.value.object.startswith("agent 127.0.0.1")


def test_what_is_wrong_with_the_call_itself_stays_so(world: World) -> None:
    def refuse(method: str, parameters: dict[str, Any]) -> Any:
        raise NotFound("is not there", object="operation o")

    with pytest.raises(NotFound, match="is not there"):
        world.client(world.agent(refuse)).call("status")


def test_the_authority_may_be_a_file(world: World) -> None:
    path = world.directory / "ca.pem"
    path.write_text(world.authority.pem)
    assert world.client(world.agent(), authority=str(path)).call("hello") == {}


def test_each_thread_has_its_own_connection(world: World) -> None:
    together = threading.Barrier(4)
    there = world.agent(lambda method, parameters: together.wait(10) >= 0 and parameters)
    client, results = world.client(there), []
    threads = [threading.Thread(target=lambda number=number: results.append(client.call("hello", n=number))) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["n"] for one in results) == [0, 1, 2, 3] and there.connections == 4


@pytest.mark.parametrize("announced", [True, False])
def test_a_kept_connection_that_was_closed_is_opened_again(world: World, announced: bool) -> None:
    there = world.agent()
    there.announces_close, there.close_after_each = announced, True
    client = world.client(there)
    assert [client.call("status", n=number)["n"] for number in range(3)] == [0, 1, 2]
    assert there.calls == ["status"] * 3 and there.connections == 3


def test_a_take_over_is_never_sent_twice(world: World) -> None:
    there = world.agent()
    client = world.client(there)
    client.call("hello")
    there.hang_up_without_answer = True
    with pytest.raises(Unreachable):
        client.call("take_over")
    assert there.calls == ["hello", "take_over"]
    there.hang_up_without_answer = False
    client.call("hello")
    there.hang_up_without_answer = True
    with pytest.raises(Unreachable):
        client.call("status")
    assert there.calls[3:] == ["status", "status"], "once over the kept connection, once over a new one"


def test_a_fresh_connection_is_not_tried_twice(world: World) -> None:
    there = world.agent()
    there.hang_up_without_answer = True
    with pytest.raises(Unreachable):
        world.client(there).call("status")
    assert there.calls == ["status"]


def test_closing_and_calling_again(world: World) -> None:
    there = world.agent()
    client = world.client(there)
    client.call("hello")
    client.close()
    assert client.call("hello") == {} and there.connections == 2


def test_an_agent_of_another_authority_is_not_trusted(world: World) -> None:
    there = world.agent(pair=world.stranger.issue(server_urn(SERVER)))
    assert "certificate" in refused(world, world.client(there), there)


def test_another_server_of_ours_is_not_trusted(world: World) -> None:
    there = world.agent(pair=world.authority.issue(server_urn(OTHER)))
    told = refused(world, world.client(there), there)
    assert server_urn(OTHER) in told and server_urn(SERVER) in told
    manager = world.agent(pair=world.mine)
    refused(world, world.client(manager), manager)


def test_our_certificate_is_not_accepted(world: World) -> None:
    there = world.agent()
    assert "is our certificate valid" in refused(world, world.client(there, pair=world.stranger.issue("urn:domus:manager:m")), there)


def test_nobody_there_nobody_answering_and_no_tls(world: World) -> None:
    there = world.agent()
    client = world.client(there)
    there.close()
    world.made.remove(there)
    assert "can not be reached" in refused(world, client, there)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for call in (
            lambda: AgentClient("127.0.0.1", port, SERVER, world.authority.pem, *world.mine, timeout=0.05).call("hello"),
            lambda: AgentClient.peek("127.0.0.1", port, timeout=0.05),
        ):
            with pytest.raises(Unreachable) as raised:
                call()
            assert "did not answer in time" in str(raised.value)


def test_an_answer_that_takes_too_long_is_not_asked_for_again(world: World) -> None:
    go_on = threading.Event()
    there = world.agent(lambda method, parameters: method == "hello" or go_on.wait(10))
    client = world.client(there)
    client.call("hello")
    with pytest.raises(Unreachable) as raised:
        client.request("status", {}, timeout=0.05)
    go_on.set()
    assert "in time" in str(raised.value) and there.calls == ["hello", "status"]
    assert client.call("status") is True, "the answer of the other call is never taken for this one's"


@pytest.mark.parametrize(("status", "kind"), [(413, TooLarge), (403, Forbidden), (401, Forbidden), (404, Unreachable), (500, Unreachable)])
def test_other_statuses(world: World, status: int, kind: type[Exception]) -> None:
    there = world.agent()
    there.status = status
    with pytest.raises(kind) as raised:
        world.client(there).call("hello")
    assert str(there.port) in str(raised.value)


def test_an_answer_that_is_too_large(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    there = world.agent(lambda method, parameters: "x" * 5000)
    client = world.client(there)
    monkeypatch.setattr(agent, "MOST_BYTES", 1000)
    with pytest.raises(TooLarge):
        client.call("hello")


def test_certificates_that_are_not_there_or_damaged(world: World) -> None:
    there = world.agent()
    damaged = world.directory / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    for pair, authority, kind in (
        (("/none.pem", "/none.key"), None, NotFound),
        ((str(damaged), world.mine[1]), None, DriverError),
        (None, "/none.pem", NotFound),
        (None, damaged.read_text(), DriverError),
    ):
        with pytest.raises(kind):
            world.client(there, pair=pair, authority=authority)


def fingerprint_of(pair: tuple[str, str]) -> str:
    """What a server prints of its certificate."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(pair[0]).read_text())).hexdigest()


def test_the_first_contact_sends_nothing_before_the_fingerprint_was_compared(world: World) -> None:
    pair = world.stranger.issue(server_urn(SERVER))
    there = world.agent(pair=pair, authority=None)
    with AgentClient.peek("127.0.0.1", there.port) as contact:
        assert contact.fingerprint == fingerprint_of(pair)
        with pytest.raises(Conflict):
            contact.call("hello")
        for wrong in ("00" * 32, "", contact.fingerprint[:-1]):
            with AgentClient.peek("127.0.0.1", there.port) as other, pytest.raises(Conflict):
                other.require(wrong)
            with pytest.raises(Conflict):
                AgentClient.peek("127.0.0.1", there.port, wrong)
        assert there.calls == []
        contact.require(":".join(contact.fingerprint[at : at + 2].upper() for at in range(0, 64, 2)))
        assert contact.call("hello") == {} and contact.call("take_over", secret="s") == {"secret": "s"}
    assert there.calls == ["hello", "take_over"] and there.connections == 7


@pytest.mark.parametrize("announced", [True, False])
def test_the_first_contact_ends_with_its_connection(world: World, announced: bool) -> None:
    pair = world.stranger.issue(server_urn(SERVER))
    there = world.agent(pair=pair, authority=None)
    there.announces_close, there.close_after_each = announced, True
    with AgentClient.peek("127.0.0.1", there.port, fingerprint_of(pair)) as contact:
        contact.call("hello")
        with pytest.raises(Unreachable):
            contact.call("take_over")
    assert there.calls == ["hello"] and there.connections == 1
