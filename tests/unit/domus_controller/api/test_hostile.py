"""Whatever is sent: no fault of the manager's own, and no answer that its own description does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from domus_controller.api.routes import ROUTES
from domus_controller.security.gate import Gate
from domus_controller.security.principal import Principal
from flask import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.unit.domus_controller.api.fakes import SERVER, Manager, described

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection]
# The streams never end by themselves, and a WebSocket needs a real socket: both have tests of their own.
LEFT_OUT = ("stream_job", "stream_events", "open_vm_console")
FUZZ = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["\ud800", "\0", "vm", "event", "object"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "kind", "key", "tags", "disks", "x"]), inner, max_size=4),
    max_leaves=8,
)


class TrustingGate(Gate):
    """Lets everybody in as an administrator: what lies behind the gate is to be tested."""

    def require(self, route: Any, request: Request) -> Principal:
        return Principal(SERVER if route and route.permission == "agent" else "administrator", "administrator")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    made = Manager(tmp_path_factory.mktemp("hostile"))
    object.__setattr__(made.parts, "gate", TrustingGate(made.store))
    made.report("vm", "web1", cpus=2, memory=1 << 30, tags=["web"])
    made.report("virtual_disk", "data1", repository="main", size=1 << 30)
    for name, kind in (("lan", "network"), ("main", "repository"), ("debian12", "template"), ("netinst", "iso")):
        made.report(kind, name)
    yield made
    made.close()


@pytest.fixture(scope="module")
def schema(hostile: Manager) -> Any:
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", hostile.app)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.name not in LEFT_OUT], ids=lambda route: route.name)
def test_no_request_breaks_the_manager(hostile: Manager, schema: Any, route: Any) -> None:
    job = hostile.jobs.verb("", "start", by="administrator")["id"]
    ids = {"vms": "web1", "networks": "lan", "repositories": "main", "templates": "debian12", "isos": "netinst", "servers": "srv1", "jobs": job}
    ids["plans"] = hostile.jobs.plan({}, by="administrator")["id"]
    operation = schema[route.path.replace(":path", "")][route.method]

    @given(
        case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        known=st.booleans(),
    )
    @FUZZ
    def attack(case: Any, known: bool) -> None:
        if known and "id" in case.path_parameters:
            case.path_parameters["id"] = ids.get(route.tag, "nothing")
        case.call_and_validate(checks=CHECKS)

    attack()


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.name)
@given(body=st.binary(max_size=40) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
@FUZZ
def test_no_body_breaks_the_manager(hostile: Manager, route: Any, body: bytes) -> None:
    path = route.path.replace("{id:path}", "main/data1").replace("{id}", "web1").replace("{name}", "viewer")
    answer = hostile.client.open(path, method=route.method, data=body, content_type="application/json")
    assert answer.status_code < 500, answer.text


@given(broken=st.dictionaries(st.sampled_from(["spec", "recorded", "running", "measured", "restart_required", "site", "id", "name"]), JSON_VALUES, max_size=3))
@FUZZ
def test_no_report_breaks_the_manager(hostile: Manager, broken: dict[str, Any]) -> None:
    record = {"seq": 1, "at": 1.0, "type": "object", "kind": "vm", "key": "odd", "description": {**described("vm", "odd"), **broken}}
    report = {"protocol": 1, "server": SERVER, "epoch": "e1", "version": "1", "sent_at": 1, "libvirt": "up", "records": [record]}
    answer = hostile.client.post("/agent/v1/callback", json=report)
    assert answer.status_code in (200, 400, 404), answer.text  # another attack may have removed the server


@pytest.mark.parametrize("path", ["/api/v1/vms/%00", "/api/v1/vms/%ff", "/api/v1//vms", "/api/v1/vms/", "/%2e%2e/etc/passwd"])
def test_odd_paths_are_not_found(hostile: Manager, path: str) -> None:
    assert hostile.client.get(path).status_code == 404
