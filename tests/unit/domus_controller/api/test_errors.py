"""Every error is a problem document that says what is wrong and what to do."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from domus_controller.api.route import Route
from domus_controller.api.routes import ROUTES
from domus_controller.app import LARGEST_BODY, create_app
from domus_controller.errors import STATUS_BY_CODE, problem_of
from domus_core.errors import DomusError, InvalidSpec, Refused

from tests.unit.domus_controller.api.fakes import Manager

MEMBERS = {"type", "title", "status", "detail", "code"}


@pytest.mark.parametrize(
    ("method", "path", "rest", "status", "code"),
    [
        ("GET", "/api/v1/nothing", {}, 404, "not_found"),
        ("GET", "/api/v1/vms/nothing", {}, 404, "not_found"),
        ("PATCH", "/api/v1/vms", {}, 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/vms", {}, 405, "method_not_allowed"),
        ("POST", "/api/v1/apply", {"data": b"vms: []", "content_type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/api/v1/apply", {"data": b'{"vms": [', "content_type": "application/json"}, 400, "invalid_spec"),
        ("POST", "/api/v1/apply", {"data": b"\xff", "content_type": "application/json"}, 400, "bad_request"),
        ("POST", "/api/v1/apply", {"data": b"a: 1\na: 2", "content_type": "application/yaml"}, 400, "invalid_spec"),
        ("POST", "/api/v1/apply", {"data": b"&a [*a]", "content_type": "application/yaml"}, 400, "invalid_spec"),
        ("POST", "/api/v1/apply", {"json": {"vms": [{"name": "a", "cpus": 0}]}}, 400, "invalid_spec"),
        ("GET", "/api/v1/vms?limit=0", {}, 400, "invalid_spec"),
        ("GET", "/api/v1/vms?limit=ten", {}, 400, "invalid_spec"),
        ("GET", "/api/v1/vms?limit=1&limit=2", {}, 400, "invalid_spec"),
        ("GET", "/api/v1/vms?limmit=1", {}, 400, "invalid_spec"),
        ("GET", "/api/v1/vms?cursor=nonsense", {}, 400, "invalid_spec"),
        ("GET", "/api/v1/vms/x/console", {}, 400, "bad_request"),
    ],
)
def test_a_refusal_is_a_problem_document(manager: Manager, method: str, path: str, rest: dict[str, Any], status: int, code: str) -> None:
    answer = manager.call(method, path, **rest)
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.content_type == "application/problem+json"
    assert MEMBERS <= set(answer.json)
    assert answer.json["type"] == f"urn:domus:error:{code}"
    assert answer.json["status"] == status


def test_all_problems_of_a_document_are_told_at_once(manager: Manager) -> None:
    answer = manager.call("POST", "/api/v1/apply", json={"vms": [{"name": "a", "cpus": 0}, {"name": "b", "memorry": 1}]})
    assert [(error["object"], error["field"]) for error in answer.json["errors"]] == [("vm a", "cpus"), ("vm b", "memorry")]
    assert "memory" in answer.json["errors"][1]["remedy"]


def test_a_wrong_method_is_told_the_right_ones(manager: Manager) -> None:
    assert set(manager.call("DELETE", "/api/v1/vms").headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_a_body_beyond_the_limit_is_not_read(manager: Manager) -> None:
    environment = {"CONTENT_LENGTH": str(LARGEST_BODY + 1)}
    answer = manager.call("POST", "/api/v1/apply", content_type="application/json", environ_overrides=environment)
    assert (answer.status_code, answer.json["code"]) == (413, "too_large")


def test_a_body_of_unknown_length_is_not_cut_off_but_refused(manager: Manager) -> None:
    manager.app.config["MAX_CONTENT_LENGTH"] = 8
    environment = {"wsgi.input": io.BytesIO(b"vms: []\nisos: []"), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = manager.call("POST", "/api/v1/apply", content_type="application/yaml", environ_overrides=environment)
    assert (answer.status_code, answer.json["code"]) == (413, "too_large")
    assert manager.jobs.documents == []


def test_a_fault_of_our_own_is_logged_and_not_shown(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    def fail(call: Any) -> None:
        raise RuntimeError("the inside")

    route = Route("GET", "/api/v1/fault", "fault", fail, "read", "It fails.", {})
    client = create_app(parts=manager.parts, routes=(*ROUTES, route)).test_client()
    with caplog.at_level(logging.ERROR, "domus.api"):
        answer = client.get("/api/v1/fault", headers={"Authorization": f"Bearer {manager.tokens['viewer']}", "X-Request-Id": "abc-12345"})
    assert (answer.status_code, answer.json["code"], answer.json["value"]) == (500, "unexpected", "abc-12345")
    assert "the inside" not in answer.text
    assert "abc-12345" in caplog.text
    assert "the inside" in caplog.text


@pytest.mark.parametrize(("given", "kept"), [("abc-12345", True), ("short", False), ("with spaces in it", False), ("x" * 65, False)])
def test_a_request_has_an_id(manager: Manager, given: str, kept: bool) -> None:
    shown = manager.call("GET", "/api/v1/health", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert (shown == given) is kept
    assert len(shown) >= 8


def test_health_says_what_works_and_when_it_does_not(manager: Manager) -> None:
    health = manager.get("/api/v1/health", role=None)
    assert (health["state"], health["database"], health["servers"]["unknown"]) == ("ok", "ok", 2)
    manager.store.path.unlink()
    (manager.store.path.parent / "manager.db").mkdir()
    manager.store.read().close()
    manager.store._local.reader = None
    failed = manager.call("GET", "/api/v1/health", role=None)
    assert (failed.status_code, failed.json["state"]) == (503, "failed")
    (manager.store.path.parent / "manager.db").rmdir()


def every_error() -> list[type[DomusError]]:
    found, left = [], [DomusError]
    while left:
        one = left.pop()
        left += [kind for kind in one.__subclasses__() if kind.__module__.startswith("domus_core.errors")]
        found.append(one)
    return [kind for kind in found if kind not in (DomusError, Refused)]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_core_has_its_status(kind: type[DomusError]) -> None:
    assert kind.code in STATUS_BY_CODE
    problem = problem_of(kind("why", object="vm a", field="cpus", value=1, remedy="do this"))
    assert MEMBERS | {"object", "field", "value", "remedy"} == set(problem)
    assert problem["status"] == STATUS_BY_CODE[kind.code]


def test_several_errors_have_the_status_of_the_first() -> None:
    assert problem_of(Refused([InvalidSpec("a"), InvalidSpec("b")]))["status"] == 400


def test_an_address_that_is_not_there_is_told_in_our_own_words(manager: Manager) -> None:
    missing = manager.call("GET", "/api/v1/nothing").json
    assert (missing["code"], missing["object"], missing["detail"]) == ("not_found", "GET /api/v1/nothing", "there is no such address")
    wrong = manager.call("PATCH", "/api/v1/me").json
    assert (wrong["status"], wrong["object"]) == (405, "PATCH /api/v1/me") and "GET" in wrong["remedy"]


def test_an_empty_body_is_called_empty(manager: Manager) -> None:
    answer = manager.call("POST", "/api/v1/vms", data="", content_type="application/json").json
    assert (answer["code"], answer["detail"]) == ("invalid_spec", "is empty") and "NoneType" not in str(answer)
