"""Objects: found, paged, followed, and what contradicts each other."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from domus_controller.store import events, jobs, objects, requests, server_pools, server_states, servers
from domus_controller.store.database import Store
from domus_controller.store.values import encode_cursor
from domus_core.errors import Conflict, InvalidSpec, NotFound

from .described import FIRST, SECOND, Clock, described, put, put_all, take_away, vm_id


def names(page: dict[str, Any]) -> list[str]:
    return [item["name"] for item in page["items"]]


def test_an_object_is_found_by_id_and_name(store: Store) -> None:
    put(store, described(1, tags=["web"]))
    found = objects.find(store, "vm", vm_id(1))
    assert found == objects.find(store, "vm", "vm00001") == objects.find(store, "vm", "vm00001", "first")
    assert found["server"] == "first" and found["addresses"] == ["192.0.2.7"] and found["asked"] is None and found["conflict"] is None
    for arguments in (("vm", "other"), ("network", "vm00001"), ("vm", "vm00001", "second")):
        with pytest.raises(NotFound):
            objects.find(store, *arguments)


def test_the_same_again_changes_nothing_and_another_content_does(store: Store) -> None:
    put(store, described(1))
    before = objects.find(store, "vm", "vm00001")
    put(store, described(1))
    assert objects.find(store, "vm", "vm00001") == before
    put(store, described(1, memory=2 << 30))
    after = objects.find(store, "vm", "vm00001")
    assert after["sequence"] > before["sequence"] and after["etag"] != before["etag"]


def test_pages_come_in_order_and_miss_nothing(store: Store) -> None:
    put_all(store, [described(number) for number in range(25)])
    found, cursor = [], None
    while True:
        page = objects.page(store, "vm", 10, cursor)
        found += names(page)
        cursor = page["next"]
        if cursor is None:
            break
    assert found == [f"vm{number:05d}" for number in range(25)]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"name": "vm00003"}, [3]),
        ({"name": "vm0000*"}, [0, 1, 2, 3, 4, 5]),
        ({"server": "second"}, [5]),
        ({"server": SECOND, "name": "vm*"}, [5]),
        ({"state": "stopped"}, [1, 3]),
        ({"site": "default"}, [0, 1, 2, 3, 4, 5]),
        ({"site": "other"}, []),
        ({"tag": "even"}, [0, 2, 4]),
        ({"tag": "even", "state": "running", "site": "default", "server": "first", "name": "vm00002"}, [2]),
        ({"server": str(uuid.UUID(int=9))}, []),
    ],
)
def test_filters(store: Store, filters: dict[str, Any], wanted: list[int]) -> None:
    put_all(store, [described(n, state="stopped" if n in (1, 3) else "running", tags=["odd" if n % 2 else "even"]) for n in range(5)])
    put(store, described(5), SECOND)
    assert names(objects.page(store, "vm", filters=filters)) == [f"vm{number:05d}" for number in wanted]
    assert sorted(names(objects.page(store, "vm", filters=filters, since=0))) == [f"vm{number:05d}" for number in wanted]


def test_wrong_limits_cursors_and_filters_are_refused(store: Store) -> None:
    for arguments in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "WzFd"}, {"cursor": "é"}, {"filters": {"colour": "red"}}):
        with pytest.raises(InvalidSpec):
            objects.page(store, "vm", **arguments)
    with pytest.raises(InvalidSpec, match="Did you mean network"):
        objects.drift(store, {"kind": "netwrok"})
    for work in (lambda: objects.page(store, "vm", filters={"server": "frist"}), lambda: events.page(store, filters={"server": "frist"})):
        with pytest.raises(NotFound, match="Did you mean first"):
            work()


def test_the_feed_tells_each_change_once_with_what_is_gone(store: Store) -> None:
    put_all(store, [described(number) for number in range(3)])
    since = objects.page(store, "vm")["since"]
    assert objects.page(store, "vm", since=since) == {"items": [], "next": None, "since": since}
    put(store, described(1, memory=5))
    take_away(store, "vm00002")
    page = objects.page(store, "vm", since=since)
    assert page["items"][1:] == [{"id": vm_id(2), "name": "vm00002", "deleted": True}]
    assert page["items"][0]["spec"]["memory"] == 5
    assert objects.page(store, "vm", since=page["since"])["items"] == []
    assert names(objects.page(store, "vm")) == ["vm00000", "vm00001"]
    put(store, described(2))
    assert names(objects.page(store, "vm", since=page["since"])) == ["vm00002"]


def test_the_feed_in_pages_gives_the_same(store: Store) -> None:
    put_all(store, [described(number) for number in range(7)])
    since, found = 0, []
    while True:
        page = objects.page(store, "vm", 3, since=since)
        found += names(page)
        since = page["since"]
        if page["next"] is None:
            break
        assert names(objects.page(store, "vm", 3, page["next"], since=0)) == names(objects.page(store, "vm", 3, since=since))
    assert found == [f"vm{number:05d}" for number in range(7)]


def test_tombstones_end(store: Store, clock: Clock) -> None:
    put(store, described(1))
    take_away(store, "vm00001")
    clock.at += objects.KEEP_DELETED + 1
    assert objects.forget_deleted(store, store.now() - objects.KEEP_DELETED) == 1
    assert objects.page(store, "vm", since=0)["items"] == []


def test_order_survives_a_clock_that_is_set_back(store: Store, clock: Clock) -> None:
    put(store, described(1))
    clock.at -= 3600
    put(store, described(2))
    assert names(objects.page(store, "vm", since=0)) == ["vm00001", "vm00002"]


def test_a_vm_made_anew_under_its_name_replaces_the_old_one(store: Store) -> None:
    put(store, described(1, key="web"))
    put(store, described(2, key="web"))
    assert objects.find(store, "vm", "web")["id"] == vm_id(2)
    with pytest.raises(NotFound):
        objects.find(store, "vm", vm_id(1))


def test_a_name_on_two_servers_is_ambiguous(store: Store) -> None:
    put(store, described(1, key="web"))
    put(store, described(2, key="web"), SECOND)
    with pytest.raises(Conflict, match="2 objects"):
        objects.find(store, "vm", "web")
    assert objects.find(store, "vm", "web", "second")["id"] == vm_id(2)
    assert objects.locate(store, "default") == {"web": [FIRST, SECOND]} and objects.locate(store, "other") == {}


def reasons(store: Store) -> dict[str, Any]:
    return {item["server"]: (item["conflict"] or {}).get("reason") for item in objects.page(store, "vm")["items"]}


@pytest.mark.parametrize(
    ("first", "second", "wanted", "severity"),
    [
        ({"generation": 2, "state": "stopped"}, {"generation": 1, "state": "stopped"}, (None, "older_generation"), "warning"),
        ({"memory": 5, "state": "stopped"}, {"memory": 6, "state": "stopped"}, ("different_content", "different_content"), "warning"),
        ({}, {}, ("runs_twice", "runs_twice"), "error"),
        ({"generation": 2}, {"generation": 1}, ("runs_twice", "runs_twice"), "error"),
        ({}, {"state": "stopped"}, (None, None), None),
    ],
)
def test_two_reports_of_one_vm(store: Store, first: Any, second: Any, wanted: tuple[Any, Any], severity: Any) -> None:
    put(store, described(1, **first))
    put(store, described(1, **second), SECOND)
    assert reasons(store) == {"first": wanted[0], "second": wanted[1]}
    assert {item["severity"] for item in events.page(store, filters={"kind": "vm.conflict"})["items"]} == ({severity} if severity else set())
    assert objects.find(store, "vm", vm_id(1))["server"] == "first"
    told = len(events.page(store)["items"])
    put(store, described(1, **second, title="x"), SECOND)
    put(store, described(1, **second), SECOND)
    assert len(events.page(store)["items"]) == told or severity is None or severity == "warning"
    take_away(store, "vm00001", SECOND)
    assert reasons(store) == {"first": None}


@pytest.mark.parametrize(("pools", "kept"), [(("rack1", "rack1"), ["second"]), (("rack1", "rack2"), ["first", "second"]), ((None, None), ["first", "second"])])
def test_in_a_clustered_pool_a_vm_is_where_it_was_told_to_run_last(store: Store, pools: tuple[str | None, str | None], kept: list[str]) -> None:
    for server, pool in zip((FIRST, SECOND), pools):
        facts = {"server_pool": {"pool": pool}} if pool else {}
        store.write(lambda connection, server=server, facts=facts: server_states.heard(connection, server, store.now(), None, None, facts))
    put(store, described(), FIRST)
    put(store, described(), SECOND)
    assert [item["server"] for item in objects.page(store, "vm")["items"]] == kept
    assert bool(events.page(store, filters={"kind": "vm.conflict"})["items"]) == (len(kept) == 2)
    put(store, described(state="stopped"), FIRST)
    assert sorted(item["server"] for item in objects.page(store, "vm")["items"]) == ["first", "second"], "a leftover is shown until its server lets go of it"


def test_another_member_acts_for_one_that_is_silent(store: Store, clock: Clock) -> None:
    told = {"pool": "rack1", "quorate": True, "coordinator": "second", "server": "second"}
    store.write(lambda connection: server_states.heard(connection, SECOND, store.now(), None, None, {"server_pool": told}))
    assert server_pools.companion(store, FIRST) is None
    store.write(lambda connection: server_states.heard(connection, FIRST, store.now(), None, None, {"server_pool": {**told, "server": "first"}}))
    mate = server_pools.companion(store, FIRST)
    assert mate is not None and mate.name == "second"
    store.write(lambda connection: server_states.heard(connection, SECOND, store.now(), None, None, {"server_pool": {**told, "quorate": False}}))
    assert server_pools.companion(store, FIRST) is None


def test_a_server_that_is_removed_takes_its_objects_along(store: Store) -> None:
    put(store, described(1))
    put(store, described(1), SECOND)
    since = objects.latest_sequence(store)
    servers.remove(store, SECOND)
    assert reasons(store) == {"first": None}
    assert {"id": vm_id(1), "name": "vm00001", "deleted": True} in objects.page(store, "vm", since=since)["items"]
    with pytest.raises(NotFound):
        servers.remove(store, SECOND)


def test_an_inventory_mends_the_copy_but_not_what_is_newer(store: Store) -> None:
    put_all(store, [described(1), described(2), described(3)])
    since = objects.latest_sequence(store)
    put(store, described(3, memory=7))
    put(store, described(4))
    objects.replace_all(store, FIRST, [described(1, memory=9), described(3, memory=1), described(5)], since)
    assert {item["name"]: item["spec"]["memory"] for item in objects.page(store, "vm")["items"]} == {
        "vm00001": 9,
        "vm00003": 7,
        "vm00004": 1 << 30,
        "vm00005": 1 << 30,
    }


def test_drift_is_listed(store: Store) -> None:
    put_all(store, [described(1), described(2, recorded={"name": "vm00002", "memory": 5}), described(3, running={"name": "vm00003", "memory": 6})])
    found = objects.drift(store)
    assert names(found) == ["vm00002", "vm00003"]
    assert found["items"][0]["drift"] == [{"field": "memory", "asked": None, "recorded": 5, "defined": 1 << 30, "running": 1 << 30}]
    assert names(objects.drift(store, {"kind": "network"})) == [] and names(objects.drift(store, {"server": "first", "name": "vm00003"})) == ["vm00003"]
    first = objects.drift(store, {"kind": "vm"}, 1)
    assert names(objects.drift(store, {"kind": "vm"}, 1, first["next"])) == ["vm00003"]


def plans_of(store: Store, work: Any) -> list[str]:
    """How SQLite goes about every query that `work` makes."""
    statements: list[str] = []
    reader = store.read()
    reader.set_trace_callback(statements.append)
    work()
    reader.set_trace_callback(None)
    return [row["detail"] for statement in statements for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}")]


CURSOR = encode_cursor("vm00001", 1)


@pytest.mark.parametrize(
    "work",
    [
        lambda store: objects.find(store, "vm", vm_id(1)),
        lambda store: objects.find(store, "vm", "vm00001"),
        lambda store: objects.page(store, "vm"),
        lambda store: objects.page(store, "vm", 100, CURSOR),
        *(lambda store, name=name: objects.page(store, "vm", 100, CURSOR, {name: "first" if name == "server" else "web"}) for name in objects.FILTERS),
        lambda store: objects.page(store, "vm", 100, CURSOR, {"name": "vm*", "state": "running"}),
        lambda store: objects.page(store, "vm", since=1),
        lambda store: objects.page(store, "vm", 10, encode_cursor(4), {"state": "running", "tag": "x"}, 1),
        lambda store: objects.drift(store),
        lambda store: objects.drift(store, {"kind": "vm", "server": "first"}, 10, encode_cursor("vm", "a", 1)),
        lambda store: objects.locate(store, "default"),
        lambda store: jobs.page(store),
        lambda store: jobs.page(store, 10, encode_cursor(5), {"state": "running"}),
        lambda store: jobs.page(store, 10, None, {"state": "running", "kind": "apply"}),
        lambda store: jobs.events(store, "j", 5),
        lambda store: jobs.unfinished(store),
        lambda store: requests.page(store, 10, encode_cursor(5), {"state": "failed"}),
        lambda store: events.page(store),
        lambda store: events.page(store, since=4),
        *(lambda store, name=name: events.page(store, 10, encode_cursor(5), {name: "first" if name == "server" else "x"}) for name in events.FILTERS),
        lambda store: servers.page(store),
        lambda store: servers.find(store, "first"),
    ],
)
def test_no_hot_query_reads_more_than_its_answer(store: Store, work: Any) -> None:
    put_all(store, [described(number) for number in range(3)])
    # Lists in the order of a key are read along it; only a look through everything, or a sort, grows with the number of objects.
    allowed = ("SCAN CONSTANT ROW", "SCAN e", "SCAN s", "SCAN jobs", "SCAN requests")
    for detail in plans_of(store, lambda: work(store)):
        assert "TEMP B-TREE" not in detail, detail
        assert not detail.startswith("SCAN") or "USING" in detail or detail in allowed, detail


def ask(store: Store, asked: dict[str, Any], key: str = "vm00001") -> None:
    store.write(lambda connection: requests.record(connection, "default", FIRST, "vm", key, {"name": key, **asked}, "job"))


def test_what_was_asked_for_and_is_gone_is_drift_until_it_is_back(store: Store) -> None:
    put_all(store, [described(1), described(2)])
    ask(store, {"state": "running"})
    take_away(store, "vm00001")
    take_away(store, "vm00002")
    (row,) = objects.drift(store)["items"]
    assert (row["kind"], row["name"], row["server"], row["id"], row["state"]) == ("vm", "vm00001", "first", vm_id(1), None)
    assert row["drift"] == [{"field": "state", "asked": "running", "recorded": None, "defined": None, "running": None}]
    assert names(objects.page(store, "vm")) == [] and objects.forget_deleted(store, store.now() + 1) == 1
    requests.settle(store, "job", {("vm", "vm00001"): "effective"})
    assert names(objects.drift(store, {"kind": "vm", "server": "first", "site": "default"})) == ["vm00001"]
    put(store, described(1))
    assert objects.drift(store)["items"] == [] and names(objects.page(store, "vm")) == ["vm00001"]


def test_what_is_made_anew_or_lives_elsewhere_is_not_gone(store: Store) -> None:
    put_all(store, [described(1), described(2)])
    ask(store, {})
    ask(store, {}, "vm00002")
    take_away(store, "vm00001")
    take_away(store, "vm00002")
    assert names(objects.drift(store)) == ["vm00001", "vm00002"]
    put(store, described(7, key="vm00001"))
    put(store, described(2), SECOND)
    assert objects.drift(store)["items"] == []


def test_what_domus_deleted_failed_to_make_or_lost_with_its_server_is_no_drift(store: Store) -> None:
    put_all(store, [described(1), described(2), described(3)])
    ask(store, {"state": "absent"})
    ask(store, {}, "vm00002")
    requests.settle(store, "job", {("vm", "vm00002"): "failed"})
    ask(store, {}, "vm00003")
    for key in ("vm00001", "vm00002"):
        take_away(store, key)
        assert objects.drift(store)["items"] == []
    take_away(store, "vm00003")
    assert names(objects.drift(store)) == ["vm00003"]
    servers.remove(store, FIRST)
    assert objects.drift(store)["items"] == []


def test_a_deletion_of_what_is_gone_ends_the_drift(store: Store) -> None:
    put(store, described(1))
    ask(store, {})
    take_away(store, "vm00001")
    ask(store, {"state": "absent"})
    assert objects.drift(store)["items"] == []


def test_items_of_a_silent_server_are_stale(store: Store) -> None:
    put(store, described(1))

    def stale() -> set[bool]:
        pages = [objects.page(store, "vm", since=since)["items"] for since in (None, 0)]
        return {objects.find(store, "vm", "vm00001")["stale"], *(one["stale"] for items in pages for one in items)}

    assert stale() == {True}
    store.write(lambda connection: server_states.heard(connection, FIRST, store.now(), "1", "up"))
    assert stale() == {False}
    store.write(lambda connection: connection.execute("UPDATE servers SET last_seen = last_seen - 31"))
    server_states.judge(store, 0, server_states.Limits())
    assert stale() == {True}
