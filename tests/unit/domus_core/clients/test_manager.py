"""The client of the manager's API, against a server that answers what a test has written down."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from domus_core.clients import manager as module
from domus_core.clients.manager import ManagerClient, error_of
from domus_core.errors import Busy, Conflict, DomusError, DriverError, InvalidSpec, Refused, Unauthorized, Unreachable

TOKEN = "domus_secret-token"
Answer = tuple[int, Any]


class Manager:
    """Answers each request by `answers[path]`, a function of its query; remembers requests and their headers."""

    def __init__(self, directory: Path) -> None:
        self.answers: dict[str, Callable[[dict[str, str]], Answer]] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        authority = trustme.CA()
        self.authority = str(directory / "ca.pem")
        authority.cert_pem.write_to_path(self.authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"manager": self}))
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"https://127.0.0.1:{self._http.server_port}"

    def client(self, **options: Any) -> ManagerClient:
        """A client that trusts this manager."""
        return ManagerClient(self.url, TOKEN, self.authority, **options)

    def close(self) -> None:
        """Stop it."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class Handler(BaseHTTPRequestHandler):
    """Hands a request to the answers of its manager."""

    manager: Manager
    timeout = 10

    def log_message(self, *dummy: Any) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        """Answer as it is written down; text is sent as it is, everything else as JSON."""
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.manager.requests.append((self.command, self.path, dict(self.headers), body))
        status, data = self.manager.answers[parts.path]({name: values[0] for name, values in parse_qs(parts.query).items()})
        text = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager that knows no answer yet."""
    made = Manager(tmp_path)
    yield made
    made.close()


def one(data: Any, status: int = 200) -> Callable[[dict[str, str]], Answer]:
    """The same answer to every request."""
    return lambda dummy: (status, data)


def in_turn(*data: Any) -> Callable[[dict[str, str]], Answer]:
    """One answer after the other; the last one stays."""
    waiting = list(data)
    return lambda dummy: (200, waiting.pop(0) if len(waiting) > 1 else waiting[0])


def test_json_goes_out_and_comes_back_with_token_query_and_etag(manager: Manager) -> None:
    manager.answers["/api/v1/vms"] = one({"id": "1"})
    client = manager.client()
    assert client.post("/api/v1/vms", {"name": "ä"}, wait=2, check=True, site=None) == {"id": "1"}
    client.put("/api/v1/vms", {}, etag="abc")
    client.delete("/api/v1/vms", etag='"x"')
    (posted, put, deleted) = manager.requests
    assert posted[:2] == ("POST", "/api/v1/vms?wait=2&check=true") and json.loads(posted[3]) == {"name": "ä"}
    assert posted[2]["Authorization"] == f"Bearer {TOKEN}" and posted[2]["Content-Type"] == "application/json"
    assert put[2]["If-Match"] == "abc" and deleted[0] == "DELETE" and deleted[2]["If-Match"] == '"x"'


def test_nothing_in_an_answer_is_none(manager: Manager) -> None:
    manager.answers["/api/v1/servers/1"] = one(b"", 204)
    assert manager.client().delete("/api/v1/servers/1") is None


def test_a_login_is_sent_as_basic(manager: Manager) -> None:
    manager.answers["/api/v1/me"] = one({})
    ManagerClient(manager.url, authority_path=manager.authority, login=("admin", "pässword")).get("/api/v1/me")
    assert manager.requests[0][2]["Authorization"] == "Basic YWRtaW46cMOkc3N3b3Jk"


def test_all_pages_are_read(manager: Manager) -> None:
    manager.answers["/api/v1/vms"] = lambda query: (200, {None: {"items": [1, 2], "next": "a b"}, "a b": {"items": [3], "next": None}}[query.get("cursor")])
    assert list(manager.client().pages("/api/v1/vms", state="running")) == [1, 2, 3]
    assert [request[1] for request in manager.requests] == ["/api/v1/vms?state=running", "/api/v1/vms?state=running&cursor=a+b"]


def test_a_problem_document_becomes_the_error_that_it_was(manager: Manager) -> None:
    problem = {"type": "urn:domus:error:conflict", "title": "Conflict", "status": 409, "detail": "is in use", "code": "conflict"}
    manager.answers["/api/v1/vms"] = one({**problem, "object": "vm a", "field": "name", "value": "a", "remedy": "Choose another"}, 409)
    with pytest.raises(Conflict) as caught:
        manager.client().get("/api/v1/vms")
    assert str(caught.value) == "vm a name: is in use (value: 'a'). Choose another"


def test_several_problems_are_told_together() -> None:
    errors = [{"code": "invalid_spec", "message": f"wrong {number}", "object": "vm a"} for number in range(3)]
    error = error_of(400, json.dumps({"code": "invalid_spec", "detail": "refused", "errors": errors}).encode())
    assert isinstance(error, Refused) and [one.message for one in error.errors] == ["wrong 0", "wrong 1", "wrong 2"]


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [(401, b"", "unauthorized"), (403, b"<html>", "forbidden"), (413, b"", "too_large"), (503, b"[]", "unreachable"), (500, b'{"a": 1}', "driver_error")],
)
def test_an_answer_without_problem_document_is_told_by_its_status(status: int, text: bytes, code: str) -> None:
    error = error_of(status, text)
    assert error.code == code and str(status) in str(error)


def test_who_has_no_valid_token_is_told_what_to_do(manager: Manager) -> None:
    manager.answers["/api/v1/vms"] = one({"code": "unauthorized", "detail": "the token is not valid"}, 401)
    with pytest.raises(Unauthorized, match="DOMUS_TOKEN") as caught:
        manager.client().get("/api/v1/vms")
    assert TOKEN not in str(caught.value)


def test_what_is_no_manager_is_told_so(manager: Manager) -> None:
    manager.answers["/api/v1/vms"] = one(b"<html>welcome")
    with pytest.raises(DriverError, match="Is that the address of a manager"):
        manager.client().get("/api/v1/vms")


def test_a_certificate_of_somebody_else_gets_no_token(manager: Manager, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for authority in (str(other), None):
        with pytest.raises(Unreachable, match="manager_ca"):
            ManagerClient(manager.url, TOKEN, authority).get("/api/v1/vms")
    with pytest.raises(Unreachable, match="certificate"):
        ManagerClient(manager.url.replace("127.0.0.1", "localhost"), TOKEN, manager.authority).get("/api/v1/vms")
    assert manager.requests == []


def test_nobody_there_and_silence_are_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(Unreachable, match="in time"):
            ManagerClient(f"http://127.0.0.1:{port}", TOKEN, timeout=0.2).get("/api/v1/vms")
    with pytest.raises(Unreachable, match="does the manager run"):
        ManagerClient(f"https://127.0.0.1:{port}", TOKEN).get("/api/v1/vms")


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1",
        "http://manager.example.org",
        "ftp://localhost",
        "https://",
        "https://a b",
        "https://u:p@h",
        "https://h:x",
        "h",
        "",
        "https://h?x",
        "https://h\n",
    ],
)
def test_an_address_that_can_not_be_one_is_refused(url: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        ManagerClient(url, TOKEN)
    assert caught.value.field == "manager_url" and TOKEN not in str(caught.value)


@pytest.mark.parametrize("token", ["", " ", "a\nb", "ä"])
def test_a_token_that_can_not_be_one_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        ManagerClient("https://127.0.0.1", token)
    assert caught.value.field == "manager_token" and caught.value.value is None


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_ca_file_that_can_not_be_read_is_named(text: Any, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if text:
        path.write_text(text)
    with pytest.raises(InvalidSpec, match=r"ca\.pem") as caught:
        ManagerClient("https://127.0.0.1", TOKEN, str(path))
    assert caught.value.field == "manager_ca"


def test_a_stream_is_read_event_by_event(manager: Manager) -> None:
    text = b'retry: 10\n\n: heartbeat\n\nid: 7\nevent: event\ndata: {"a":\ndata: 1}\n\ndata:x\r\n\r\nid: 8\n\nevent: end\ndata: {}\n\ndata: cut off'
    manager.answers["/api/v1/events/stream"] = one(text)
    events = list(manager.client().stream("/api/v1/events/stream", last_event_id="6", kind="vm.started"))
    assert events == [("7", "event", '{"a":\n1}'), ("7", "message", "x"), ("8", "end", "{}")]
    assert manager.requests[0][2]["Last-Event-ID"] == "6" and "kind=vm.started" in manager.requests[0][1]


def test_a_stream_that_is_refused_is_an_error(manager: Manager) -> None:
    manager.answers["/stream"] = one({"code": "forbidden", "detail": "no"}, 403)
    with pytest.raises(DomusError) as caught:
        list(manager.client().stream("/stream"))
    assert caught.value.code == "forbidden"


def job(state: str, **more: Any) -> dict[str, Any]:
    """A job as the API shows it."""
    return {"id": "j1", "state": state, "waiting_for": None, **more}


def test_a_document_is_sent_and_its_job_followed_to_the_end(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0)
    told: list[Any] = []
    events = [[{"id": 1}, {"id": 2}], [{"id": 5}]]
    manager.answers["/api/v1/apply"] = one(job("queued"), 202)
    manager.answers["/api/v1/jobs/j1"] = in_turn(job("queued"), job("running"), job("failed", error={"code": "conflict"}))
    manager.answers["/api/v1/jobs/j1/events"] = lambda query: (
        200,
        {"items": events[0] if query["since"] == "0" else events[1] if query["since"] == "2" else []},
    )
    ended = manager.client().apply_and_wait({"vms": []}, wait_for_address=1.5, on_progress=told.append)
    assert ended == job("failed", error={"code": "conflict"}) and [event["id"] for event in told] == [1, 2, 5]
    assert manager.requests[0][:2] == ("POST", "/api/v1/apply?wait_for_address=2")


def test_check_returns_the_plan(manager: Manager) -> None:
    manager.answers["/api/v1/apply"] = one({"id": "p1", "state": "open", "objects": []})
    assert manager.client().apply_and_wait({}, check=True)["id"] == "p1"
    assert [request[1] for request in manager.requests] == ["/api/v1/apply?check=true"]


def test_a_job_that_does_not_end_in_time_goes_on(manager: Manager) -> None:
    manager.answers["/api/v1/jobs/j1"] = one(job("running"))
    with pytest.raises(Unreachable, match="domus job show"):
        manager.client().follow("j1", timeout=0)
    assert {request[0] for request in manager.requests} == {"GET"}


def test_a_job_that_waits_for_another_one_too_long_is_cancelled(manager: Manager) -> None:
    manager.answers["/api/v1/jobs/j1"] = one(job("queued", waiting_for="j0"))
    manager.answers["/api/v1/jobs/j1/cancel"] = one(job("cancelled"))
    with pytest.raises(Busy, match="waits for job j0"):
        manager.client().follow("j1", patience=0)
    assert manager.requests[-1][:2] == ("POST", "/api/v1/jobs/j1/cancel")


def test_a_manager_that_is_away_for_a_while_is_waited_for(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE", 0)
    away = [503, 503, 200]
    manager.answers["/api/v1/jobs/j1"] = lambda dummy: (away[0] if len(away) == 1 else away.pop(0), job("succeeded"))
    assert manager.client().follow("j1")["state"] == "succeeded"
    monkeypatch.setattr(module, "PATIENCE", -1)
    manager.answers["/api/v1/jobs/j1"] = one(b"", 503)
    with pytest.raises(Unreachable):
        manager.client().follow("j1")


def test_an_id_can_not_leave_its_path(manager: Manager) -> None:
    manager.answers["/api/v1/jobs/..%2Fme%3Fx"] = one(job("succeeded"))
    assert manager.client().follow("../me?x")["state"] == "succeeded"
