"""Servers, and what agents report."""

from __future__ import annotations

import json
from typing import Any

import pytest
from domus_controller.store import events, servers, statistics
from domus_core.errors import DriverError, Unreachable
from domus_core.model.document import parse_document

from tests.unit.domus_controller.api.fakes import OTHER_SERVER, SERVER, Manager, described
from tests.unit.domus_controller.security.certificates import certificate_headers

SECRET = f"{'a' * 64}:{'b' * 32}"
WANTED = {"name": "srv9", "address": "192.0.2.9", "secret": SECRET}


def test_a_server_is_taken_over_shown_and_released(manager: Manager) -> None:
    answer = manager.call("POST", "/api/v1/servers", json=WANTED)
    assert (answer.status_code, answer.json["name"]) == (201, "srv9")
    assert manager.agents.calls == [("take_over", "srv9", "192.0.2.9", 8899, SECRET, None, False)]
    assert manager.get(answer.headers["Location"])["state"] == "unknown"
    assert len(manager.get("/api/v1/servers")["items"]) == 3
    assert manager.call("DELETE", "/api/v1/servers/srv9").status_code == 204
    assert manager.call("GET", "/api/v1/servers/srv9").status_code == 404


def test_the_secret_of_a_take_over_is_never_repeated(manager: Manager) -> None:
    answer = manager.call("POST", "/api/v1/servers", json={**WANTED, "secret": "not the secret"})
    assert (answer.status_code, answer.json["field"]) == (400, "secret")
    assert "not the secret" not in answer.text


def test_a_server_that_does_not_answer_is_only_forgotten_on_request(manager: Manager) -> None:
    manager.agents.failure = Unreachable("does not answer", object="server srv1")
    refused = manager.call("DELETE", "/api/v1/servers/srv1")
    assert (refused.status_code, refused.json["code"]) == (503, "unreachable")
    assert manager.call("DELETE", "/api/v1/servers/srv1?forget=true").status_code == 204
    assert [one["name"] for one in servers.all(manager.store)] == ["srv2"]


def test_maintenance_is_a_mode_with_a_reason(manager: Manager) -> None:
    path = "/api/v1/servers/srv1/maintenance"
    answer = manager.call("PUT", path, json={"enabled": True, "reason": "new memory"})
    assert (answer.status_code, answer.json["maintenance"], answer.json["maintenance_reason"]) == (200, True, "new memory")
    assert manager.call("PUT", path, json={"enabled": False}).json["maintenance"] is False
    assert manager.call("PUT", path, json={}).json["field"] == "enabled"
    assert manager.call("PUT", "/api/v1/servers/nobody/maintenance", json={"enabled": True}).status_code == 404


def test_a_reinstalled_server_may_take_its_place_in_another_pool(manager: Manager) -> None:
    assert manager.call("POST", "/api/v1/servers", json={**WANTED, "pool": "rack 7"}).json["field"] == "pool"
    assert manager.call("POST", "/api/v1/servers", json={**WANTED, "pool": "rack7", "replace": True}).status_code == 201
    assert manager.agents.calls == [("take_over", "srv9", "192.0.2.9", 8899, SECRET, "rack7", True)]


def test_who_answers_at_an_address_is_shown(manager: Manager) -> None:
    told = manager.call("POST", "/api/v1/servers/discover", json={"address": "192.0.2.9"}).json
    assert (told["address"], told["port"], told["fingerprint"]) == ("192.0.2.9", 8899, "ab" * 32)
    manager.agents.failure = Unreachable("did not answer in time", object="agent 192.0.2.9:8899")
    assert manager.call("POST", "/api/v1/servers/discover", json={"address": "192.0.2.9"}).status_code == 503


def test_certificates_are_renewed_and_revoked_on_request(manager: Manager) -> None:
    manager.agents.answers["renew"] = {}
    assert manager.call("POST", "/api/v1/servers/srv1/renew").json["pool"] == "default"
    assert manager.call("POST", "/api/v1/servers/srv1/renew", json={"pool": "b"}).status_code == 200
    assert manager.call("POST", "/api/v1/servers/srv1/revoke").json["revoked"] is True
    assert manager.agents.calls == [(SERVER, "renew", {"pool": None}), (SERVER, "renew", {"pool": "b"}), ("revoke", SERVER)]
    assert send(manager, report()).status_code == 403


def test_an_agent_hears_a_new_revocation_list_with_its_answer(manager: Manager) -> None:
    manager.agents.news = {"crl": "PEM", "gone": ["x"]}
    assert {"crl": "PEM", "gone": ["x"]}.items() <= send(manager, report(tls={"serial": "ab", "crl": 1})).json.items()
    assert send(manager, report(tls=None)).status_code == 200
    assert manager.agents.heard == [{"serial": "ab", "crl": 1}, None]


def test_an_evacuation_moves_what_it_is_told_to(manager: Manager) -> None:
    chosen = {"copy_storage": True, "stopped": True}
    maintained = manager.call("PUT", "/api/v1/servers/srv1/maintenance", json={"enabled": True, "evacuate": True, **chosen})
    assert maintained.status_code == 202 and manager.get("/api/v1/servers/srv1")["maintenance"] is True
    assert manager.jobs.evacuations[-1] == {"migration": {"copy_storage": True}, "at_once": 2, "stopped": True}
    assert manager.call("POST", "/api/v1/servers/srv2/evacuate", json={**chosen, "at_once": 3}).status_code == 202
    assert manager.jobs.evacuations[-1] == {"migration": {"copy_storage": True}, "at_once": 3, "stopped": True}
    manager.call("POST", "/api/v1/servers/srv2/evacuate?check=true", json=chosen)
    manager.call("POST", "/api/v1/servers/srv2/evacuate?check=true")
    assert manager.jobs.evacuations[-2:] == [({"copy_storage": True}, True), ({}, False)]


def test_adopting_and_resyncing_ask_the_agent(manager: Manager) -> None:
    assert manager.call("POST", "/api/v1/servers/srv1/adopt", json={"vms": ["old"]}).json == {"document": {"site": "default", "vms": []}, "not_managed": {}}
    assert manager.call("POST", "/api/v1/servers/srv1/resync").json == {"mark": 7}
    assert manager.agents.calls == [(SERVER, "adopt", {"vms": ["old"], "site": "default"}), (SERVER, "resync", {})]


def test_an_adopted_document_names_its_server_and_the_managers_site(manager: Manager) -> None:
    found = {"site": "default", "repositories": [{"name": "images", "path": "/srv/images"}], "vms": [{"name": "old", "memory": "1GiB"}]}
    manager.agents.answers["adopt"] = {"document": found, "not_managed": {"old": ["sound"]}}
    answer = manager.call("POST", "/api/v1/servers/srv1/adopt", json={"vms": None, "site": None}).json
    assert manager.agents.calls == [(SERVER, "adopt", {"vms": None, "site": "default"})]
    assert answer["not_managed"] == {"old": ["sound"]}
    assert answer["document"]["repositories"] == [{"name": "images", "servers": ["srv1"], "path": "/srv/images"}]
    assert answer["document"]["vms"] == [{"name": "old", "server": "srv1", "memory": "1GiB"}]
    parse_document(answer["document"])


def test_a_fault_on_a_server_is_not_called_one_of_the_manager(manager: Manager) -> None:
    manager.agents.failure = DriverError("libvirt refused")
    answer = manager.call("POST", "/api/v1/servers/srv1/resync")
    assert (answer.status_code, answer.json["code"]) == (502, "driver_error")


def report(*records: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"protocol": 1, "server": SERVER, "epoch": "e1", "version": "0.1.0", "sent_at": 1.0, "libvirt": "up", "records": list(records), **rest}


def event(number: int) -> dict[str, Any]:
    return {"seq": number, "at": 1.0, "type": "event", "kind": "vm.started", "severity": "info", "object": None, "data": {}, "operation": None}


def send(manager: Manager, body: Any, server: str = SERVER, serial: int = 0x1F, **headers: str) -> Any:
    return manager.client.post("/agent/v1/callback", json=body, headers={**certificate_headers(server, serial), **headers})


def test_a_report_is_stored_once_and_acknowledged(manager: Manager) -> None:
    record = {"seq": 2, "at": 1.0, "type": "object", "kind": "vm", "key": "web1", "id": "x", "description": described("vm", "web1")}
    uuid = record["description"]["id"]
    measured = {"at": manager.store.now(), "vms": {uuid: {"state": "running", "cpu_time_ns": 1, "vcpus": 1, "memory": 1}}, "host": {}}
    for dummy in range(2):
        answer = send(manager, report(event(1), record, statistics=measured))
        assert (answer.status_code, answer.json["acknowledged"], answer.json["revoked"]) == (200, 2, [])
    assert len(events.page(manager.store, filters={"kind": "vm.*"}, since=0)["items"]) == 1
    assert manager.get("/api/v1/vms/web1")["server"] == "srv1"
    assert manager.get("/api/v1/servers/srv1")["state"] == "running"
    assert statistics.latest(manager.store, SERVER)["vms"][uuid]["vcpus"] == 1
    assert len(manager.get("/api/v1/vms/web1/statistics")["items"]) == 1


def test_what_an_agent_says_of_itself_and_its_server_is_shown(manager: Manager) -> None:
    def shown() -> Any:
        return [manager.get("/api/v1/servers/srv1")[name] for name in ("facts", "problem")]

    assert shown() == [None, None]
    for told, facts, problem in (({"facts": {"cpus": 8}, "problem": "disk full"}, {"cpus": 8}, "disk full"), ({"facts": None}, {"cpus": 8}, None)):
        assert send(manager, report(**told)).status_code == 200
        assert shown() == [facts, problem]
    assert send(manager, report(facts=[])).json["field"] == "facts"


def test_an_agent_hears_which_certificates_are_revoked(manager: Manager) -> None:
    servers.revoke(manager.store, "abc", [SERVER], manager.store.now() + 60)
    assert [one["serial"] for one in send(manager, report()).json["revoked"]] == ["abc"]


@pytest.mark.parametrize(
    ("body", "sender", "status", "code"),
    [
        (report(server=OTHER_SERVER), {}, 403, "forbidden"),
        (report(), {"server": "5ca7e5f0-0000-4000-8000-00000000000f"}, 403, "forbidden"),
        (report(), {"serial": 0x20}, 403, "forbidden"),
        (report(), {"X-Client-Verify": "NONE"}, 401, "unauthorized"),
        (report(), {"X-Client-Verify": "FAILED:expired"}, 401, "unauthorized"),
        (report(), {"X-Client-Cert": "nonsense"}, 401, "unauthorized"),
        (report(protocol=2), {}, 422, "unsupported"),
        (report({"seq": 0, "type": "event"}), {}, 400, "invalid_spec"),
        (report({"seq": 1, "type": "object", "kind": "vm", "key": "a", "description": {"id": 5}}), {}, 400, "invalid_spec"),
        (report(*[event(number) for number in range(1, 502)]), {}, 400, "invalid_spec"),
        ([], {}, 400, "invalid_spec"),
    ],
)
def test_a_report_that_is_not_proper_is_refused_as_a_whole(manager: Manager, body: Any, sender: dict[str, Any], status: int, code: str) -> None:
    answer = send(manager, body, **sender)
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert events.page(manager.store, since=0)["items"] == []
    assert servers.find(manager.store, SERVER)["state"] == "unknown"


def test_a_token_does_not_open_the_agents_door(manager: Manager) -> None:
    assert manager.call("POST", "/agent/v1/callback", json=report()).status_code == 401


def test_cpu_groups_are_shown_with_their_members(manager: Manager) -> None:
    facts = {"guest_cpu": None, "cpu_model": "EPYC"}
    manager.store.write(lambda connection: connection.execute("INSERT OR REPLACE INTO server_facts VALUES (?, NULL, ?)", (SERVER, json.dumps(facts))).rowcount)
    (group,) = manager.get("/api/v1/cpu-groups")["items"]
    assert (group["name"], group["baseline"], [one["server"] for one in group["members"]]) == ("EPYC", None, ["srv1"])
    assert "told its CPU" in group["problem"]
