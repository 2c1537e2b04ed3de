"""Documents, plans, verbs, jobs and their streams."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from domus_controller.api import streams
from domus_controller.store import events, jobs
from domus_core.verbs import VERBS

from tests.unit.domus_controller.api.fakes import SERVER, Manager

YAML = "vms:\n  - name: web1\n    cpus: 2\n"
DOCUMENT = {"vms": [{"name": "web1", "cpus": 2}]}


@pytest.mark.parametrize("body", [{"data": YAML, "content_type": "application/yaml"}, {"json": DOCUMENT}])
def test_a_document_is_applied_as_json_or_yaml(manager: Manager, body: dict[str, Any]) -> None:
    answer = manager.call("POST", "/api/v1/apply", **body)
    assert (answer.status_code, answer.json["objects"], answer.json["created_by"]) == (202, [{"kind": "vm", "name": "web1"}], "administrator")
    assert manager.jobs.documents == [DOCUMENT]


def test_whoever_waits_gets_the_ended_job(manager: Manager) -> None:
    answer = manager.call("POST", "/api/v1/apply?wait=5", json=DOCUMENT)
    assert (answer.status_code, answer.json["state"]) == (200, "succeeded")
    manager.jobs.ends_while_waiting = False
    assert manager.call("POST", "/api/v1/apply?wait=5", json=DOCUMENT).status_code == 202
    assert manager.parts.waits.taken == 0


def test_nobody_waits_where_too_many_wait_already(manager: Manager) -> None:
    held = [manager.parts.waits.take() for dummy in range(manager.parts.waits.most)]
    assert manager.call("POST", "/api/v1/apply?wait=5", json=DOCUMENT).status_code == 202
    held[0]()
    assert manager.call("POST", "/api/v1/apply?wait=5", json=DOCUMENT).status_code == 200


def test_a_plan_is_made_shown_and_applied_once(manager: Manager) -> None:
    checked = manager.call("POST", "/api/v1/apply?check=true", json=DOCUMENT)
    assert (checked.status_code, checked.json["state"]) == (200, "open")
    made = manager.call("POST", "/api/v1/plans", json=DOCUMENT)
    assert made.status_code == 201
    assert manager.get(made.headers["Location"])["objects"][0]["name"] == "web1"
    assert manager.call("POST", f"{made.headers['Location']}/apply").status_code == 202
    assert manager.call("POST", f"{made.headers['Location']}/apply").status_code == 409
    assert manager.jobs.documents == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_goes_to_the_vm_by_name_or_id(manager: Manager, verb: str) -> None:
    identity = manager.report("vm", "web1")
    assert manager.call("POST", f"/api/v1/vms/web1/{verb}", json={"force": True, "timeout": 9}).status_code == 202
    assert manager.call("POST", f"/api/v1/vms/{identity}/{verb}?wait=1").status_code == 200
    assert manager.jobs.verbs == [(identity, verb, True, 9), (identity, verb, False, None)]
    assert manager.call("POST", f"/api/v1/vms/nothing/{verb}").status_code == 404


def test_jobs_are_listed_cancelled_and_relaunched(manager: Manager) -> None:
    job = manager.call("POST", "/api/v1/apply", json=DOCUMENT).json
    assert [item["id"] for item in manager.get("/api/v1/jobs?state=queued&kind=apply")["items"]] == [job["id"]]
    assert manager.call("POST", f"/api/v1/jobs/{job['id']}/relaunch").status_code == 409
    assert manager.call("POST", f"/api/v1/jobs/{job['id']}/cancel").json["cancel_requested"] is True
    jobs.finish(manager.store, job["id"], "cancelled", False)
    again = manager.call("POST", f"/api/v1/jobs/{job['id']}/relaunch")
    assert (again.status_code, again.json["relaunch_of"]) == (202, job["id"])
    assert manager.get(f"/api/v1/jobs/{job['id']}")["state"] == "cancelled"


def tell(manager: Manager, job_id: str, *lines: str) -> None:
    jobs.add_events(manager.store, job_id, [{"at": 1.0, "kind": "progress", "data": {"line": line}} for line in lines])


def messages(text: str) -> list[dict[str, Any]]:
    """Server-sent events as a browser reads them."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            found.append({**lines, "data": json.loads(lines["data"])})
    return found


def test_the_events_of_a_job_go_on_where_the_caller_left(manager: Manager) -> None:
    job_id = manager.call("POST", "/api/v1/apply", json=DOCUMENT).json["id"]
    tell(manager, job_id, "one", "two", "three")
    assert [(event["id"], event["data"]["line"]) for event in manager.get(f"/api/v1/jobs/{job_id}/events?since=1")["items"]] == [(2, "two"), (3, "three")]
    assert manager.call("GET", "/api/v1/jobs/nothing/events").status_code == 404


def test_the_stream_of_a_job_tells_each_event_once_and_its_end(manager: Manager) -> None:
    job_id = manager.call("POST", "/api/v1/apply", json=DOCUMENT).json["id"]
    tell(manager, job_id, "one")
    answer = manager.call("GET", f"/api/v1/jobs/{job_id}/stream", buffered=False)
    assert answer.content_type.startswith("text/event-stream")
    assert manager.parts.streams.taken == 1
    received = iter(answer.response)
    parts = [next(received), next(received)]
    later = threading.Thread(target=lambda: (tell(manager, job_id, "two"), jobs.finish(manager.store, job_id, "succeeded", True)))
    later.start()
    parts += received
    later.join()
    answer.close()
    told = messages(b"".join(parts).decode())
    assert [message["event"] for message in told] == ["event", "event", "end"]
    assert [message["data"]["data"]["line"] for message in told[:2]] == ["one", "two"]
    assert told[2]["data"]["state"] == "succeeded"
    assert manager.parts.streams.taken == 0


@pytest.mark.parametrize(("query", "headers"), [("?since=2", {}), ("?since=1", {"Last-Event-ID": "2"})])
def test_a_stream_is_resumed(manager: Manager, query: str, headers: dict[str, str]) -> None:
    job_id = manager.call("POST", "/api/v1/apply", json=DOCUMENT).json["id"]
    tell(manager, job_id, "one", "two", "three")
    jobs.finish(manager.store, job_id, "succeeded", True)
    told = messages(manager.call("GET", f"/api/v1/jobs/{job_id}/stream{query}", headers=headers).text)
    assert [message.get("id") for message in told] == ["3", None]


def test_a_silent_stream_shows_that_it_lives(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT", 0.01)
    answer = manager.call("GET", "/api/v1/events/stream", buffered=False)
    received = iter(answer.response)
    first, second = next(received), next(received)
    answer.close()
    assert (first, second) == (b"retry: 2000\n\n", b": heartbeat\n\n")


def test_a_stream_ends_with_the_manager(manager: Manager) -> None:
    answer = manager.call("GET", "/api/v1/events/stream", buffered=False)
    received = iter(answer.response)
    next(received)
    threading.Timer(0.1, manager.parts.ending.set).start()
    assert list(received) == []
    answer.close()
    assert manager.parts.streams.taken == 0


def test_streams_beyond_the_budget_are_refused(manager: Manager) -> None:
    held = [manager.call("GET", "/api/v1/events/stream", buffered=False) for dummy in range(manager.parts.streams.most)]
    refused = manager.call("GET", "/api/v1/events/stream")
    assert (refused.status_code, refused.json["code"], refused.headers["Retry-After"]) == (503, "busy", "5")
    held[0].close()
    held[0] = manager.call("GET", "/api/v1/events/stream", buffered=False)
    assert held[0].status_code == 200
    for answer in held:
        answer.close()
    assert manager.parts.streams.taken == 0


def happen(manager: Manager, kind: str) -> int:
    event = {"at": 1.0, "kind": kind, "severity": "info", "server_id": SERVER, "object": None, "data": {}}
    return manager.store.write(lambda connection: events.add(connection, event))


def test_events_are_listed_and_streamed(manager: Manager) -> None:
    first = happen(manager, "vm.started")
    happen(manager, "network.started")
    happen(manager, "vm.stopped")
    assert [event["kind"] for event in manager.get("/api/v1/events?kind=vm.*")["items"]] == ["vm.stopped", "vm.started"]
    assert [event["kind"] for event in manager.get(f"/api/v1/events?since={first}")["items"]] == ["network.started", "vm.stopped"]
    answer = manager.call("GET", f"/api/v1/events/stream?since={first}&kind=vm.*&server=srv1", buffered=False)
    received = iter(answer.response)
    parts = [next(received), next(received)]
    answer.close()
    [message] = messages(b"".join(parts).decode())
    assert (message["event"], message["data"]["kind"], message["data"]["server"]) == ("event", "vm.stopped", "srv1")


def test_a_viewer_may_plan_but_not_apply(manager: Manager) -> None:
    assert manager.call("POST", "/api/v1/plans", "viewer", json=DOCUMENT).status_code == 201
    for path in ("/api/v1/apply", "/api/v1/apply?check=true"):
        refused = manager.call("POST", path, "viewer", json=DOCUMENT)
        assert refused.status_code == 403
        assert "role operator" in refused.json["remedy"] and "administrator" in refused.json["remedy"] and "POST /api/v1/plans" in refused.json["remedy"]


def test_jobs_are_filtered_by_verb_and_unknown_kinds_are_refused(manager: Manager) -> None:
    manager.report("vm", "web1")
    manager.call("POST", "/api/v1/vms/web1/stop")
    manager.call("POST", "/api/v1/apply", json=DOCUMENT)
    assert [one["kind"] for one in manager.get("/api/v1/jobs?kind=stop")["items"]] == ["stop"]
    assert [one["kind"] for one in manager.get("/api/v1/jobs?kind=apply")["items"]] == ["apply"]
    for word, remedy in (("nope", "Known: apply, start"), ("stpo", "Did you mean stop")):
        refused = manager.call("GET", f"/api/v1/jobs?kind={word}")
        assert (refused.status_code, refused.json["code"], refused.json["field"]) == (400, "invalid_spec", "kind")
        assert remedy in refused.json["remedy"]


@pytest.mark.parametrize("path", ["events?server=srv", "vms?server=srv", "drift?server=srv", "vms/web1?server=srv", "events/stream?server=srv"])
def test_an_unknown_server_is_not_an_empty_list(manager: Manager, path: str) -> None:
    refused = manager.call("GET", f"/api/v1/{path}")
    assert refused.status_code == 404 and "srv1" in refused.json["remedy"]
