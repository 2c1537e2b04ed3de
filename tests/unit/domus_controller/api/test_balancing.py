"""The dry runs of balancing and of a loss, through the API."""

from __future__ import annotations

from domus_controller.store import server_states
from domus_core.version import VERSION

from tests.unit.domus_controller.api.fakes import OTHER_SERVER, SERVER, Manager


def test_a_policy_is_tried_out_with_its_numbers(manager: Manager) -> None:
    told = manager.get("/api/v1/balance?mode=dpm&most_moves=2&cpu_threshold=70")
    assert told["mode"] == "dpm" and isinstance(told["pools"], list)
    assert manager.get("/api/v1/balance")["mode"] == "drs"
    for wrong in ("mode=off", "most_moves=0", "cpu_threshold=101", "period=5"):
        assert manager.call("GET", f"/api/v1/balance?{wrong}").status_code == 400


def hear(manager: Manager, *ids: str) -> None:
    told = {"memory": 8 << 30, "cpus": 4}
    for id in ids:
        manager.store.write(lambda connection, one=id: server_states.heard(connection, one, manager.store.now(), VERSION, "up", told))


def test_a_plan_is_carried_out_once_or_only_shown(manager: Manager) -> None:
    path = "/api/v1/server-pools/default/balance"
    assert manager.call("POST", path).status_code == 404, "no server is heard"
    hear(manager, SERVER, OTHER_SERVER)
    for number in range(4):
        manager.report("vm", f"more{number}", memory=1 << 30, cpus=1, state="running")
    shown = manager.call("POST", f"{path}?check=true", json={"most_moves": 1})
    assert shown.status_code == 200 and shown.json["mode"] == "drs" and len(shown.json["pools"][0]["moves"]) == 1
    assert manager.get("/api/v1/jobs?kind=balance")["items"] == []
    made = manager.call("POST", f"{path}?reason=weekend", json={"most_moves": 2})
    assert made.status_code == 202 and (made.json["kind"], made.json["reason"], made.json["created_by"]) == ("balance", "weekend", "administrator")
    assert manager.call("POST", path).status_code == 409, "one at a time"
    assert manager.call("POST", path, role="operator").status_code == 403
    assert manager.call("POST", path, json={"mode": "sideways"}).status_code == 400


def test_servers_are_switched_off_and_on_by_administrators(manager: Manager) -> None:
    hear(manager, SERVER, OTHER_SERVER)
    manager.store.write(lambda connection: connection.execute("UPDATE objects SET deleted = 1").rowcount)
    made = manager.call("POST", "/api/v1/servers/srv1/power-off?reason=holidays")
    assert made.status_code == 202 and (made.json["kind"], made.json["reason"]) == ("power_off", "holidays")
    assert manager.call("POST", "/api/v1/servers/srv1/power-on").status_code == 409, "it is on"
    assert manager.call("POST", "/api/v1/servers/srv2/power-off", role="operator").status_code == 403
    assert manager.call("POST", "/api/v1/servers/nobody/power-off").status_code == 404


def test_the_loss_of_a_server_is_a_plan(manager: Manager) -> None:
    told = manager.get("/api/v1/servers/srv1/loss")
    assert told["server"] == "srv1" and {one["vm"] for one in told["moves"]} <= {"web1", "web2", "db1"}
    assert manager.call("GET", "/api/v1/servers/nobody/loss").status_code == 404
