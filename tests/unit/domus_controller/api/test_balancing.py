"""The dry runs of balancing and of a loss, through the API."""

from __future__ import annotations

from tests.unit.domus_controller.api.fakes import Manager


def test_a_policy_is_tried_out_with_its_numbers(manager: Manager) -> None:
    told = manager.get("/api/v1/balance?mode=dpm&most_moves=2&cpu_threshold=70")
    assert told["mode"] == "dpm" and isinstance(told["pools"], list)
    assert manager.get("/api/v1/balance")["mode"] == "drs"
    for wrong in ("mode=off", "most_moves=0", "cpu_threshold=101", "period=5"):
        assert manager.call("GET", f"/api/v1/balance?{wrong}").status_code == 400


def test_the_loss_of_a_server_is_a_plan(manager: Manager) -> None:
    told = manager.get("/api/v1/servers/srv1/loss")
    assert told["server"] == "srv1" and {one["vm"] for one in told["moves"]} <= {"web1", "web2", "db1"}
    assert manager.call("GET", "/api/v1/servers/nobody/loss").status_code == 404
