"""What the modules managed_server and server_maintenance ask of a manager, and what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from plugins.module_utils import module_glue, module_servers
from plugins.module_utils.domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Unreachable

SRV1 = {"id": "1", "name": "srv1", "address": "192.0.2.11", "port": 8899, "state": "running", "maintenance": False, "last_seen": "t0", "version": "1"}


class Manager:
    """A manager of one server, with the VMs `vms` (name: state) on it; `requests` are those that change something."""

    url = "https://manager.example.org:7002"

    def __init__(self, server: dict[str, Any] | None = None, **vms: str) -> None:
        self.server, self.vms = dict(server) if server else None, vms
        self.requests: list[tuple[str, str, Any]] = []
        self.seen = 0
        self.stuck = ""

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        if path.endswith("/vms"):
            yield from ({"name": name, "measured": {"state": state}} for name, state in self.vms.items())
        elif self.server and query["name"] == self.server["name"]:
            self.seen += 1
            yield {**self.server, "last_seen": f"t{self.seen // 2}"}

    def post(self, path: str, body: Any) -> Any:
        if path.endswith("/evacuate?check=true"):
            errors = [{"code": "conflict", "message": self.stuck}] if self.stuck else []
            return {"moves": [{"vm": vm, "possible": not errors, "errors": errors} for vm in self.vms]}
        self.requests.append(("POST", path, body))
        self.server = {**SRV1, **{name: body[name] for name in ("name", "address")}}
        return self.server

    def put(self, path: str, body: Any) -> Any:
        self.requests.append(("PUT", path, body))
        assert self.server
        self.server["maintenance"] = body["enabled"]
        self.vms = {} if body["evacuate"] else self.vms
        return self.server

    def delete(self, path: str, **query: Any) -> None:
        self.requests.append(("DELETE", path, {name: value for name, value in query.items() if value is not None}))
        self.server = None


@pytest.fixture
def do(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a module's work on a manager: do("managed_server", manager, check=False, option=value ...)."""
    monkeypatch.setattr(module_servers, "PAUSE", 0)

    def run(module: str, manager: Manager, *, check: bool = False, **given: Any) -> dict[str, Any]:
        options = {name: option.get("default") for name, option in module_glue.server_options(module).items()}
        monkeypatch.setattr(module_servers, "manager_of", lambda dummy: manager)
        done: dict[str, Any] = getattr(module_servers, module)({**options, "name": "srv1", **given}, check)
        return done

    return run


NEW = {"address": "192.0.2.11", "secret": "f:s"}


def test_a_server_is_taken_over_once(do: Any) -> None:
    manager = Manager()
    foretold = do("managed_server", manager, check=True, **NEW)
    assert manager.requests == []
    done = do("managed_server", manager, **NEW, pool="blue", port=9000)
    assert manager.requests == [("POST", "/api/v1/servers", {"name": "srv1", "address": "192.0.2.11", "port": 9000, "secret": "f:s", "pool": "blue"})]
    assert foretold["changed"] is done["changed"] is True and foretold["diff"] == done["diff"] and done["server"]["state"] == "running"
    again = do("managed_server", manager, address="192.0.2.11")
    assert again["changed"] is False and len(manager.requests) == 1


@pytest.mark.parametrize(("given", "field"), [({"secret": "f:s"}, "address"), ({"address": "192.0.2.11"}, "secret")])
def test_a_new_server_needs_address_and_secret(do: Any, given: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        do("managed_server", Manager(), **given)
    assert caught.value.field == field


def test_the_same_name_at_another_address_is_no_silent_success(do: Any) -> None:
    with pytest.raises(Conflict, match="192.0.2.11"):
        do("managed_server", Manager(SRV1), address="192.0.2.99", secret="f:s")


def test_it_waits_for_the_first_report_and_for_a_fresh_one(do: Any) -> None:
    with pytest.raises(Unreachable, match="has not reported"):
        do("managed_server", Manager({**SRV1, "state": "offline"}), wait_timeout=0)
    assert do("managed_server", Manager({**SRV1, "state": "offline"}), wait=False)["changed"] is False
    manager = Manager(SRV1)
    assert do("managed_server", manager, fresh=True)["server"]["last_seen"] != "t0" and manager.seen > 2


def test_a_server_with_vms_is_let_go_by_force_only(do: Any) -> None:
    manager = Manager(SRV1, web1="running", web2="stopped", web3="suspended")
    with pytest.raises(Conflict, match="2 VMs run there") as caught:
        do("managed_server", manager, state="free")
    assert caught.value.value == "web1, web3" and manager.requests == []
    assert do("managed_server", manager, state="free", force=True)["changed"] is True
    assert manager.requests == [("DELETE", "/api/v1/servers/srv1", {"forget": True})]
    assert do("managed_server", manager, state="free")["changed"] is False


def test_maintenance_begins_and_ends_once(do: Any) -> None:
    manager = Manager(SRV1, web1="running")
    assert do("server_maintenance", manager, check=True)["changed"] is True and manager.requests == []
    assert do("server_maintenance", manager, reason="memory")["changed"] is True
    assert manager.requests == [("PUT", "/api/v1/servers/srv1/maintenance", {"enabled": True, "evacuate": False, "reason": "memory"})]
    assert do("server_maintenance", manager)["changed"] is False
    assert do("server_maintenance", manager, enabled=False)["changed"] is True
    assert do("server_maintenance", manager, enabled=False)["changed"] is False


def test_a_server_in_maintenance_may_still_have_vms_to_move(do: Any) -> None:
    manager = Manager({**SRV1, "maintenance": True}, web1="running")
    assert do("server_maintenance", manager, evacuate=True)["changed"] is True
    assert do("server_maintenance", manager, evacuate=True)["changed"] is False


def test_an_evacuation_is_foreseen_and_refused_before_anything_moves(do: Any) -> None:
    manager = Manager(SRV1, web1="running")
    assert do("server_maintenance", manager, evacuate=True, check=True)["changed"] is True and manager.requests == []
    manager.stuck = "has a local disk"
    with pytest.raises(Conflict, match="has a local disk") as caught:
        do("server_maintenance", manager, evacuate=True, check=True)
    assert caught.value.object == "vm web1" and manager.requests == []


def test_what_moves_and_how_is_told_to_the_manager(do: Any) -> None:
    manager = Manager(SRV1, web1="stopped")
    assert do("server_maintenance", manager, evacuate=True, copy_storage=True, stopped=True)["changed"] is True
    assert manager.requests[-1][2] == {"enabled": True, "evacuate": True, "copy_storage": True, "stopped": True}
    assert do("server_maintenance", manager, evacuate=True, stopped=True)["changed"] is False
    manager.vms = {"web2": "stopped"}
    assert do("server_maintenance", manager, evacuate=True)["changed"] is False, "stopped ones stay unless they are asked for"
    assert do("server_maintenance", manager, evacuate=True, stopped=True, check=True)["changed"] is True


def test_of_a_stranger_nothing_can_be_said(do: Any) -> None:
    with pytest.raises(NotFound):
        do("server_maintenance", Manager())


def test_a_job_that_did_not_succeed_fails_the_task() -> None:
    class Jobs:
        def follow(self, job_id: str, **dummy: Any) -> dict[str, Any]:
            return {"id": job_id, "state": "failed", "error": {"code": "conflict", "message": "web1 has a local disk", "object": "vm web1"}}

    client: Any = Jobs()
    with pytest.raises(DomusError, match="local disk"):
        module_servers._wait_for_job(client, {"job": {"id": "j1", "state": "queued"}}, 5)
