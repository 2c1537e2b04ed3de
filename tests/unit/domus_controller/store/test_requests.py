"""What was asked for stays visible beside what is."""

from __future__ import annotations

from typing import Any, Optional

from domus_controller.store import objects, requests
from domus_controller.store.database import Store

from .described import FIRST, SECOND, described, put, take_away

KEY = "vm00001"


def ask(
    store: Store, asked: dict[str, Any], job: str = "job", server: Optional[str] = None, site: str = "default", kind: str = "vm", key: str = "vm00001"
) -> None:
    store.write(lambda connection: requests.record(connection, site, server, kind, key, asked, job))


def shown(store: Store) -> dict[str, Any]:
    return objects.find(store, "vm", "vm00001")


def test_a_request_is_shown_with_its_object_until_another_comes(store: Store) -> None:
    put(store, described(1))
    since = objects.latest_sequence(store)
    ask(store, {"name": "vm00001", "memory": 5}, "one")
    assert shown(store)["asked"] == {"name": "vm00001", "memory": 5} and shown(store)["request"] == {"job": "one", "state": "pending"}
    assert [entry["field"] for entry in shown(store)["drift"]] == ["memory"]
    assert len(objects.page(store, "vm", since=since)["items"]) == 1
    requests.settle(store, "one", {("vm", "vm00001"): "failed"})
    assert shown(store)["request"] == {"job": "one", "state": "failed"}
    ask(store, {"name": "vm00001"}, "two")
    requests.settle(store, "two", {("vm", "vm00001"): "effective"})
    assert shown(store)["asked"] == {"name": "vm00001"} and shown(store)["drift"] == []
    requests.settle(store, "one", {("vm", "vm00001"): "failed"})
    assert shown(store)["request"] == {"job": "two", "state": "effective"}


def test_a_request_may_come_before_its_object(store: Store) -> None:
    ask(store, {"name": "vm00001", "memory": 1 << 30})
    put(store, described(1))
    assert shown(store)["request"] == {"job": "job", "state": "pending"}


def test_a_verb_changes_only_the_state_of_what_was_asked(store: Store) -> None:
    put(store, described(1))
    ask(store, {"name": "vm00001", "memory": 1 << 30, "state": "running"}, "one")
    ask(store, {"state": "stopped"}, "two")
    assert shown(store)["asked"] == {"name": "vm00001", "memory": 1 << 30, "state": "stopped"}
    assert shown(store)["request"] == {"job": "two", "state": "pending"}
    assert [entry["field"] for entry in shown(store)["drift"]] == ["state"]


def test_requests_of_another_site_or_server_are_not_meant(store: Store) -> None:
    put(store, described(1))
    ask(store, {"name": "vm00001"}, site="other")
    ask(store, {"name": "vm00001"}, server=SECOND)
    put(store, described(1, memory=5))
    assert shown(store)["asked"] is None
    ask(store, {"name": "vm00001"}, server=FIRST)
    assert shown(store)["asked"] == {"name": "vm00001"}


def test_what_is_made_on_each_server_is_settled_on_each(store: Store) -> None:
    for server in (FIRST, SECOND):
        put(store, {**described(5 if server == FIRST else 6, key="lan", site=None), "kind": "network", "state": "active"}, server)
        ask(store, {"name": "lan"}, server=server, kind="network", key="lan")
    requests.settle(store, "job", {("network", "lan", FIRST): "effective", ("network", "lan", SECOND): "failed"})
    found = {item["server"]: item["request"]["state"] for item in objects.page(store, "network")["items"]}
    assert found == {"first": "effective", "second": "failed"}


def test_after_a_deletion_the_name_is_free(store: Store) -> None:
    put(store, described(1))
    ask(store, {"name": "vm00001", "state": "absent"})
    take_away(store, "vm00001")
    requests.settle(store, "job", {("vm", "vm00001"): "effective"})
    put(store, described(2, key="vm00001"))
    assert shown(store)["asked"] is None


def test_what_failed_before_there_was_an_object_is_listed(store: Store) -> None:
    ask(store, {"name": "vm00001"})
    requests.settle(store, "job", {("vm", "vm00001"): "failed"})
    ask(store, {"name": "other"}, "next", key="other")
    found = requests.page(store, filters={"state": "failed"})["items"]
    assert [(one["key"], one["job"], one["asked"]) for one in found] == [("vm00001", "job", {"name": "vm00001"})]
    first = requests.page(store, 1)
    assert [one["key"] for one in first["items"] + requests.page(store, 1, first["next"])["items"]] == ["other", "vm00001"]


def test_what_nothing_happened_to_is_effective_when_it_is_as_asked(store: Store) -> None:
    put(store, described(1))
    put(store, described(2))
    ask(store, {"name": "vm00001", "memory": 1 << 30, "state": "running"})
    ask(store, {"name": "vm00002", "memory": 2 << 30}, key="vm00002")
    ask(store, {"name": "vm00003"}, key="vm00003")
    targets = [("vm", f"vm0000{number}") for number in (1, 2, 3)]
    requests.settle(store, "job", dict.fromkeys(targets, "untouched"), dict.fromkeys(targets, "server first: does not answer"))
    assert shown(store)["request"] == {"job": "job", "state": "effective"}
    failed = {"job": "job", "state": "failed", "error": "server first: does not answer"}
    assert objects.find(store, "vm", "vm00002")["request"] == failed
    assert {one["key"]: one["error"] for one in requests.page(store, filters={"state": "failed"})["items"]} == dict.fromkeys(
        ("vm00002", "vm00003"), "server first: does not answer"
    )


def test_a_deletion_that_nothing_happened_to_is_effective_when_the_object_is_gone(store: Store) -> None:
    put(store, described(1))
    ask(store, {"name": "vm00001", "state": "absent"})
    ask(store, {"name": "vm00002", "state": "absent"}, key="vm00002")
    requests.settle(store, "job", {("vm", "vm00001"): "untouched", ("vm", "vm00002"): "untouched"})
    assert shown(store)["request"]["state"] == "failed"
    assert [one["key"] for one in requests.page(store)["items"]] == ["vm00001"]
