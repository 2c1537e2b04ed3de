"""Objects of a whole site are one under their name, with their state on each server."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from domus_controller.store import objects, requests, server_states, servers, site_objects
from domus_controller.store.database import Store
from domus_core.errors import NotFound

from .described import FIRST, SECOND

THIRD = "00000000-0000-0000-0000-000000000003"


def network(name: str, server: str, state: str = "active", recorded: Optional[dict[str, Any]] = None, **spec: Any) -> dict[str, Any]:
    own = {"name": name, "mode": "nat", **spec}
    told = {"kind": "network", "key": name, "id": f"{name}-{server}", "name": name, "site": None, "generation": 0, "state": state, "spec": own}
    return {**told, "recorded": recorded, "running": True, "measured": {"bridge": "virbr1"}, "fingerprint": "f", "restart_required": []}


def put(store: Store, server: str, description: dict[str, Any]) -> None:
    store.write(lambda connection: objects.put(connection, server, description, description["kind"], description["key"], store.now()))


def ask(store: Store, server: str, spec: dict[str, Any], job: str = "j1") -> None:
    store.write(lambda connection: requests.record(connection, "default", server, "network", "lan", {"name": "lan", **spec}, job))


@pytest.fixture
def fleet(store: Store) -> Store:
    servers.add(store, {"id": THIRD, "name": "third", "address": "192.0.2.3", "port": 8899, "serial": "3"})
    for id in (FIRST, SECOND):
        store.write(lambda connection, id=id: server_states.heard(connection, id, store.now(), "1", "up"))  # type: ignore[misc]
        put(store, id, network("lan", id, subnet="10.1.0.0/24"))
    put(store, THIRD, network("dmz", THIRD, "inactive"))
    return store


def test_each_name_is_listed_once_with_counts(fleet: Store) -> None:
    found = site_objects.page(fleet, "network")
    assert [(one["name"], one["count"], one["states"], one["drifted"]) for one in found["items"]] == [
        ("dmz", 1, {"inactive": 1}, 0),
        ("lan", 2, {"active": 2}, 0),
    ]
    assert found["items"][1]["spec"]["subnet"] == "10.1.0.0/24" and found["next"] is None
    first = site_objects.page(fleet, "network", 1)
    assert [one["name"] for one in site_objects.page(fleet, "network", 1, first["next"])["items"]] == ["lan"]
    assert [one["name"] for one in site_objects.page(fleet, "network", filters={"name": "l*"})["items"]] == ["lan"]
    assert site_objects.page(fleet, "repository") == {"items": [], "next": None}


def test_one_is_shown_with_its_state_on_each_server(fleet: Store) -> None:
    put(fleet, THIRD, network("lan", THIRD, "inactive", subnet="10.9.0.0/24"))
    found = site_objects.find(fleet, "network", "lan")
    places = {one["server"]: one for one in found["servers"]}
    assert (found["count"], found["states"], found["drifted"]) == (3, {"active": 2, "inactive": 1}, 1)
    assert found["spec"]["subnet"] == "10.1.0.0/24"
    assert places["third"]["differs"] == ["subnet"] and places["third"]["stale"] is True
    assert places["first"] | {"state": "active", "stale": False, "differs": [], "drift": [], "problem": None, "bridge": "virbr1"} == places["first"]


def test_what_a_document_leaves_out_is_no_difference(fleet: Store) -> None:
    """A newcomer saw `differs: dhcp` on every server: libvirt tells more of it than was asked for."""
    dhcp = {"start": "10.1.0.10", "end": "10.1.0.20"}
    for server in (FIRST, SECOND):
        put(fleet, server, network("lan", server, "active", subnet="10.1.0.0/24", dhcp={**dhcp, "hosts": []}))
        ask(fleet, server, {"subnet": "10.1.0.0/24", "dhcp": dhcp})
    assert site_objects.find(fleet, "network", "lan")["drifted"] == 0
    ask(fleet, FIRST, {"subnet": "10.1.0.0/24", "dhcp": {**dhcp, "end": "10.1.0.30"}})
    assert {one["server"]: one["differs"] for one in site_objects.find(fleet, "network", "lan")["servers"]}["first"] == ["dhcp"]


def test_what_was_asked_for_counts_before_what_is_there(fleet: Store) -> None:
    for server in (FIRST, SECOND, THIRD):
        ask(fleet, server, {"subnet": "10.2.0.0/24"})
    requests.settle(fleet, "j1", {("network", "lan", THIRD): "failed"}, {("network", "lan", THIRD): "no such bridge"})
    found = site_objects.find(fleet, "network", "lan")
    places = {one["server"]: one for one in found["servers"]}
    assert found["spec"]["subnet"] == "10.2.0.0/24" and found["drifted"] == 3
    assert places["first"]["differs"] == ["subnet"] and "subnet" in places["first"]["drift"]
    assert (places["third"]["state"], places["third"]["problem"]) == (None, "no such bridge")


def test_what_is_gone_is_told_as_missing_until_it_is_not_wanted(fleet: Store) -> None:
    ask(fleet, FIRST, {})
    requests.settle(fleet, "j1", {("network", "lan"): "effective"})
    fleet.write(lambda connection: objects.put(connection, FIRST, None, "network", "lan", fleet.now()))
    places = {one["server"]: one for one in site_objects.find(fleet, "network", "lan")["servers"]}
    assert (places["first"]["state"], places["first"]["problem"]) == (None, "is gone")
    ask(fleet, FIRST, {"state": "absent"}, "j2")
    requests.settle(fleet, "j2", {("network", "lan"): "effective"})
    assert [one["server"] for one in site_objects.find(fleet, "network", "lan")["servers"]] == ["second"]


def test_what_is_nowhere_is_not_found(fleet: Store) -> None:
    with pytest.raises(NotFound, match="on no server"):
        site_objects.find(fleet, "network", "wan")


def test_a_page_reads_only_what_it_shows(fleet: Store) -> None:
    statements: list[str] = []
    reader = fleet.read()
    reader.set_trace_callback(statements.append)
    site_objects.page(fleet, "network", 1)
    site_objects.find(fleet, "network", "lan")
    reader.set_trace_callback(None)
    plans = [row["detail"] for statement in statements for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert plans and not [plan for plan in plans if plan.startswith("SCAN")]
