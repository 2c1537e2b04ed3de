"""Clustered pools through the API: from what a server's agent told with its facts."""

from __future__ import annotations

import json
from typing import Any

from domus_core.errors import Conflict, Unreachable

from tests.unit.domus_controller.api.fakes import OTHER_SERVER, SERVER, Manager
from tests.unit.domus_controller.api.test_servers import event, report, send
from tests.unit.domus_controller.store.test_server_pools import told


def tell(manager: Manager, pool: object, server: str = SERVER) -> None:
    facts = json.dumps({"server_pool": pool})
    manager.store.write(lambda connection: connection.execute("INSERT OR REPLACE INTO server_facts VALUES (?, NULL, ?)", (server, facts)).rowcount)


def test_pools_are_listed_and_shown(manager: Manager) -> None:
    assert manager.get("/api/v1/server-pools") == {"items": []}
    tell(manager, told("a"))
    (pool,) = manager.get("/api/v1/server-pools")["items"]
    assert pool == manager.get("/api/v1/server-pools/pool1") and pool["members"][0]["server"] == "srv1"
    missing = manager.call("GET", "/api/v1/server-pools/pool2")
    assert missing.status_code == 404 and "pool1" in missing.json["remedy"]
    tell(manager, None)
    assert manager.get("/api/v1/server-pools") == {"items": []}


def test_what_an_agent_reports_of_its_pool_is_shown_with_its_events(manager: Manager) -> None:
    lost = {**event(1), "kind": "pool.quorum_lost", "severity": "error", "data": {"pool": "pool1"}}
    assert send(manager, report(lost, facts={"server_pool": told("a")})).status_code == 200
    assert manager.get("/api/v1/server-pools/pool1")["state"] == "healthy"
    ((kind, severity, server),) = [(one["kind"], one["severity"], one["server"]) for one in manager.get("/api/v1/events?kind=pool.*")["items"]]
    assert (kind, severity, server) == ("pool.quorum_lost", "error", "srv1")
    send(manager, report(facts={"server_pool": told("a", quorate=False)}))
    assert manager.get("/api/v1/server-pools/pool1")["state"] == "no_quorum"


def fenced(server: str, **more: Any) -> dict[str, Any]:
    return {"tests": [{"device": "power", "server": server, "at": 1.0, "state": "on", "problem": None, "cut": False, **more}]}


def heard(manager: Manager, *server_ids: str) -> None:
    for id in server_ids:
        manager.store.write(lambda connection, id=id: connection.execute("UPDATE servers SET state = 'running' WHERE id = ?", (id,)).rowcount)


def test_each_member_that_is_heard_tests_the_fence_devices(manager: Manager) -> None:
    path = "/api/v1/server-pools/pool1/fence-test"
    assert manager.call("POST", path).status_code == 404
    tell(manager, told("a"))
    assert manager.call("POST", path).json["passed"] is False, "nobody is heard"
    heard(manager, SERVER)
    manager.agents.answers["fence_test"] = fenced("b")
    answer = manager.call("POST", path).json
    assert (answer["passed"], answer["tests"][0]["by"], answer["failed"]) == (True, "srv1", [])
    assert manager.agents.calls[-1] == (SERVER, "fence_test", {"cut": None})
    tell(manager, told("b"), OTHER_SERVER)
    answer = manager.call("POST", path).json
    assert (answer["passed"], answer["failed"]) == (False, [{"by": "srv2", "problem": "is not heard"}])
    tell(manager, None, OTHER_SERVER)
    manager.agents.answers["fence_test"] = fenced("b", state=None, problem="no route")
    assert manager.call("POST", path).json["passed"] is False
    manager.agents.failure = Unreachable("does not answer")
    answer = manager.call("POST", path).json
    assert (answer["passed"], answer["tests"], answer["failed"]) == (False, [], [{"by": "srv1", "problem": "does not answer"}])


def test_power_is_cut_by_another_member(manager: Manager) -> None:
    path = "/api/v1/server-pools/pool1/fence-test"
    tell(manager, told("a"))
    heard(manager, SERVER)
    manager.agents.answers["fence_test"] = fenced("b", cut=True)
    assert manager.call("POST", path, json={"cut": "b"}).json["tests"][0]["cut"] is True
    assert manager.agents.calls == [(SERVER, "fence_test", {"cut": "b"})]
    refused = manager.call("POST", path, json={"cut": "a"})
    assert refused.status_code == 409 and len(manager.agents.calls) == 1, "a server does not cut itself"
    manager.agents.failure = Conflict("HA VMs run on it: web")
    assert manager.call("POST", path, json={"cut": "b"}).status_code == 409


def report_pool(manager: Manager, name: str = "pool1", seq: int = 1) -> None:
    """The agent tells that its server is in a pool."""
    spec = {"name": name, "servers": ["srv1"], "clustered": False}
    description = {"kind": "server_pool", "key": name, "id": f"pool-{name}", "name": name, "site": None, "generation": 0, "state": "present", "spec": spec}
    description |= {"recorded": None, "running": None, "measured": {}, "fingerprint": "f", "restart_required": []}
    record = {"seq": seq, "at": 1.0, "type": "object", "kind": "server_pool", "key": name, "id": f"pool-{name}", "description": description}
    assert send(manager, report(record)).status_code == 200


def test_a_pool_is_created_changed_and_ended_by_a_document_of_one(manager: Manager) -> None:
    path = "/api/v1/server-pools"
    assert manager.call("POST", path, json={"name": "pool1", "servers": ["srv1"], "clustered": False}).status_code == 202
    assert manager.call("PUT", f"{path}/pool1", json={"description": "x"}).status_code == 404, "no server has told of it"
    report_pool(manager)
    assert manager.call("POST", path, json={"name": "pool1", "servers": ["srv1"]}).status_code == 409
    assert manager.call("PUT", f"{path}/pool1", json={"name": "other"}).status_code == 400
    assert manager.call("PUT", f"{path}/pool1", json={"description": "x"}).status_code == 202
    assert manager.call("DELETE", f"{path}/pool1").status_code == 202
    shown = manager.get(f"{path}/pool1")
    assert (shown["state"], shown["clustered"], [one["server"] for one in shown["servers"]]) == ("not_clustered", False, ["srv1"])
    (member,) = manager.get("/api/v1/server-pool-members")["items"]
    assert (member["name"], member["server"]) == ("pool1", "srv1")


def test_a_member_is_neither_moved_nor_released_beside_the_document(manager: Manager) -> None:
    report_pool(manager)
    for method, path, body in (("POST", "renew", {"pool": "other"}), ("DELETE", "", None)):
        refused = manager.call(method, f"/api/v1/servers/srv1/{path}".rstrip("/"), **({} if body is None else {"json": body}))
        assert refused.status_code == 409 and "is in server pool pool1" in refused.json["detail"] and "servers" in refused.json["remedy"]
    assert not [call for call in manager.agents.calls if call[1] in ("release", "renewal")]
