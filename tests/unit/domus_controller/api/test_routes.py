"""The table, the URL rules, the gate and the OpenAPI document say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from domus_controller.api.openapi import openapi_document
from domus_controller.api.routes import ROUTES
from domus_controller.app import create_app, start_parts, stop_parts
from domus_controller.config import ManagerConfig
from domus_controller.deployment import THREADS
from domus_core.errors import DriverError
from domus_core.model.kinds import KINDS
from domus_core.verbs import VERBS
from openapi_spec_validator import validate

from tests.unit.domus_controller.api.fakes import Manager

ROLES = ("viewer", "operator", "administrator")
LEAST_ROLE = {"read": "viewer", "operate": "operator", "administer": "administrator"}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


def path_of(route: Any) -> str:
    return re.sub(r"\{[a-z_]+(:path)?\}", "nothing", route.path)


def headers_of(route: Any) -> dict[str, str]:
    return UPGRADE if route.websocket else {}


def test_every_rule_of_the_application_is_a_line_of_the_table(manager: Manager) -> None:
    rules = {(rule.endpoint, method) for rule in manager.app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD"}}
    assert rules == {(route.name, route.method) for route in ROUTES}
    assert len({route.name for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_nobody_passes_without_credentials(manager: Manager, route: Any) -> None:
    answer = manager.call(route.method, path_of(route), role=None, headers=headers_of(route))
    assert answer.status_code == (200 if route.permission == "open" else 401)
    if route.permission != "open":
        assert answer.json["code"] == "unauthorized"
        assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("route", [route for route in ROUTES if route.permission in LEAST_ROLE], ids=lambda route: route.name)
def test_each_role_passes_where_its_permission_reaches_and_nowhere_else(manager: Manager, route: Any) -> None:
    if route.websocket:
        passing = []  # a WebSocket that is let through needs a real socket: see test_console
    else:
        passing = [role for role in ROLES if manager.call(route.method, path_of(route), role=role).status_code not in (401, 403)]
    refused = [role for role in ROLES if role not in passing]
    expected = ROLES.index(LEAST_ROLE[route.permission])
    assert passing == ([] if route.websocket else list(ROLES[expected:]))
    for role in refused[:expected]:
        answer = manager.call(route.method, path_of(route), role=role, headers=headers_of(route))
        assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


def test_a_rule_outside_the_table_is_closed_to_everybody(manager: Manager) -> None:
    app = create_app(parts=manager.parts)
    app.add_url_rule("/back-door", "back_door", lambda: "open")
    answer = app.test_client().get("/back-door", headers={"Authorization": f"Bearer {manager.tokens['administrator']}"})
    assert answer.status_code == 403


def test_the_document_is_valid_and_complete(manager: Manager) -> None:
    document = manager.get("/api/v1/openapi.json", role=None)
    validate(document)
    assert document == openapi_document(ROUTES)
    described = {(path, method) for path, operations in document["paths"].items() for method in operations}
    assert described == {(route.path.replace(":path", ""), route.method.lower()) for route in ROUTES}
    assert all(operation["summary"] for operations in document["paths"].values() for operation in operations.values())


def test_what_holds_threads_leaves_some_for_short_requests(manager: Manager) -> None:
    assert sum(budget.most for budget in (manager.parts.streams, manager.parts.consoles, manager.parts.waits)) <= THREADS * 3 // 4


def test_every_kind_and_verb_has_its_routes() -> None:
    paths = {(route.method, route.path) for route in ROUTES}
    for kind in KINDS:
        assert ("GET", f"/api/v1/{kind.section.replace('_', '-')}") in paths
    for verb in VERBS:
        assert ("POST", f"/api/v1/vms/{{id}}/{verb}") in paths


def test_the_whole_manager_starts_and_stops(tmp_path: Path) -> None:
    parts = start_parts(ManagerConfig(directory=tmp_path / "state", run_directory=tmp_path / "run", runner_socket=tmp_path / "runner.sock"))
    try:
        assert create_app(parts=parts).test_client().get("/api/v1/health").json["state"] == "ok"
    finally:
        stop_parts(parts)
    with pytest.raises(DriverError):
        parts.store.write(lambda connection: None)


def test_summaries_are_right_english() -> None:
    summaries = {operation["summary"] for operations in openapi_document(ROUTES)["paths"].values() for operation in operations.values()}
    assert {"List repositories", "Create an ISO image", "List VMs", "Delete a virtual disk"} <= summaries
    assert not any(wrong in summary for summary in summaries for wrong in ("repositorys", "a iso", "vms"))
