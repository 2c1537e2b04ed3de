"""Servers that report or are silent, what happened, statistics, plans."""

from __future__ import annotations

from typing import Any

import pytest
from domus_controller.store import events, plans, server_states, servers, statistics
from domus_controller.store.database import Store
from domus_core.errors import Conflict, InvalidSpec, NotFound

from .described import FIRST, SECOND, START, Clock, described, put, vm_id


def hear(store: Store, id: str = FIRST) -> bool:
    return store.write(lambda connection: server_states.heard(connection, id, store.now(), "0.1.0", "up"))


def test_servers_are_found_and_listed(store: Store) -> None:
    put(store, described(1))
    assert servers.find(store, FIRST) == servers.find(store, "first") == servers.all(store)[0] == servers.page(store)["items"][0]
    assert servers.find(store, "first")["vms"] == 1 and servers.find(store, "first")["state"] == "unknown"
    first = servers.page(store, 1)
    assert servers.page(store, 1, first["next"])["items"] == [servers.find(store, "second")]
    servers.set_serial(store, FIRST, "cd")
    servers.set_address(store, FIRST, "198.51.100.1", 9)
    assert servers.serial(store, FIRST) == "cd" and servers.serial(store, vm_id(1)) is None
    assert (servers.find(store, "first")["address"], servers.find(store, "first")["port"]) == ("198.51.100.1", 9)
    with pytest.raises(Conflict):
        servers.add(store, {"id": vm_id(9), "name": "first", "address": "a", "port": 1})
    with pytest.raises(NotFound):
        servers.find(store, "third")


def test_revoked_certificates_are_told_to_their_servers_until_they_end(store: Store, clock: Clock) -> None:
    servers.revoke(store, "ab", [FIRST], store.now() + 10)
    assert servers.revoked(store, FIRST) == [{"serial": "ab", "until": START + 10}] and servers.revoked(store, SECOND) == []
    clock.at += 11
    assert servers.revoked(store, FIRST) == [] and servers.forget_revoked(store) == 1


def add(store: Store, kind: str, **rest: Any) -> int:
    return store.write(lambda connection: events.add(connection, {"at": START, "kind": kind, **rest}, store.now()))


def test_events_are_paged_filtered_and_followed(store: Store) -> None:
    add(store, "vm.started", server_id=FIRST, object={"kind": "vm", "key": "web", "id": "x"})
    add(store, "vm.stopped", server_id=SECOND, severity="error")
    add(store, "network.started", severity="strange")

    def kinds(**filters: Any) -> list[str]:
        return [item["kind"] for item in events.page(store, filters=filters)["items"]]

    assert kinds() == ["network.started", "vm.stopped", "vm.started"]
    assert kinds(kind="vm.*") == ["vm.stopped", "vm.started"] and kinds(kind="vm.started") == ["vm.started"]
    assert kinds(server="second") == kinds(severity="error") == ["vm.stopped"] and kinds(object="x") == ["vm.started"]
    assert kinds(kind="vm.*", server="first", severity="info") == ["vm.started"]
    first = events.page(store, 2)
    assert [item["kind"] for item in events.page(store, 2, first["next"])["items"]] == ["vm.started"]
    assert [item["kind"] for item in events.page(store, since=1)["items"]] == ["vm.stopped", "network.started"]
    assert events.latest(store) == 3


def test_old_events_are_forgotten_and_numbers_never_come_again(store: Store, clock: Clock) -> None:
    for dummy in range(3):
        add(store, "a.b")
    clock.at += 100
    assert events.forget(store, store.now()) == 3
    assert add(store, "a.b") == 4


def sample(cpu: int, **rest: Any) -> dict[str, Any]:
    return {"state": "running", "vcpus": 2, "memory": 5, "cpu_time_ns": cpu, "disk_read": 0, **rest}


def report(store: Store, at: float, cpu: int) -> None:
    statistics.put(store, FIRST, {"at": at, "vms": {vm_id(1): sample(cpu)}, "host": {"memory": 7}})


def test_statistics_become_rates_and_survive_a_restarted_counter(store: Store, clock: Clock) -> None:
    for minute, cpu in enumerate((0, 60 * 10**9, 180 * 10**9, 30 * 10**9)):
        clock.at = START + 60 * minute
        report(store, clock.at, cpu)
        report(store, clock.at - 600, 1)
    found = statistics.series(store, vm_id(1), START - 60)
    assert found["step"] == 60
    assert [item["cpu_cores"] for item in found["items"]] == [None, 1.0, 2.0, 0.5] and found["items"][1]["disk_read"] == 0.0
    assert found["items"][1]["net_sent"] is None
    assert statistics.latest(store, FIRST)["host"] == {"memory": 7} and statistics.latest(store, SECOND) is None
    assert statistics.series(store, f"host:{FIRST}", START)["items"][0]["memory"] == 7


def test_statistics_get_sparser_with_age(store: Store, clock: Clock) -> None:
    for number in range(0, 4 * 3600, 20):
        clock.at = START + number
        report(store, clock.at, number)
    assert statistics.forget(store) > 0
    assert len(statistics.series(store, vm_id(1), START, step=60)["items"]) == pytest.approx(180, abs=2)
    assert len(statistics.series(store, vm_id(1), START, step=600)["items"]) == 24
    assert statistics.series(store, vm_id(1), START)["step"] == 600 and statistics.series(store, vm_id(1), START - 5 * 86400)["step"] == 3600


def test_statistics_go_on_after_the_clock_was_set_back(store: Store, clock: Clock) -> None:
    report(store, clock.at, 1)
    clock.at -= 3600
    report(store, clock.at, 2)
    assert statistics.latest(store, FIRST)["vms"][vm_id(1)]["cpu_time_ns"] == 2


@pytest.mark.parametrize(
    "wrong", [{}, {"at": "x"}, {"at": float("nan")}, {"at": 1e300}, {"at": 1, "vms": [1]}, {"at": 1, "vms": {"a": 5}}, {"at": 1, "host": "x"}]
)
def test_statistics_that_make_no_sense_are_refused(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec):
        statistics.put(store, FIRST, wrong)


def test_a_plan_is_applied_once(store: Store, clock: Clock) -> None:
    told = {"id": "p", "created_by": "ann", "changed": True, "objects": [{"kind": "vm"}], "fingerprints": {FIRST: "f"}, "sealed": b"d", "options": {"a": 1}}
    made = store.write(lambda connection: plans.create(connection, told))
    assert made == plans.find(store, "p") and made["state"] == "open" and made["errors"] == []
    assert plans.details(store, "p")["sealed"] == b"d" and plans.details(store, "p")["options"] == {"a": 1}
    store.write(lambda connection: plans.take(connection, "p"))
    assert plans.find(store, "p")["state"] == "applied" and plans.details(store, "p")["sealed"] is None
    with pytest.raises(Conflict):
        store.write(lambda connection: plans.take(connection, "p"))
    plans.set_stale(store, "p")
    assert plans.find(store, "p")["state"] == "stale"
    assert plans.forget(store, store.now() + 1) == 1
    with pytest.raises(NotFound):
        plans.find(store, "p")
