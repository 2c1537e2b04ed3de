"""The course of a server comes out of what it counts, whatever version its agent has."""

from __future__ import annotations

from typing import Any

from domus_controller.store import host_statistics, statistics
from domus_controller.store.database import Store

from .described import FIRST, START, Clock


def report(store: Store, clock: Clock, minute: int, host: dict[str, Any]) -> None:
    clock.at = START + 60 * minute
    statistics.put(store, FIRST, {"at": clock.at, "vms": None, "host": host})


def course(store: Store, clock: Clock) -> list[dict[str, Any]]:
    return list(host_statistics.series(store, FIRST, START - 60, clock.at)["items"])


def test_shares_and_speeds_are_those_between_two_samples(store: Store, clock: Clock) -> None:
    counted = {"cpus": 2, "load": [1.0, 1.0, 1.0], "memory": 100, "memory_available": 40, "file_systems": {"main": {"size": 9, "free": 3}}}
    report(store, clock, 0, {**counted, "cpu_ticks": 1000, "cpu_idle_ticks": 900, "net": {"eth0": {"received": 0, "sent": 60}}})
    report(store, clock, 1, {**counted, "cpu_ticks": 2000, "cpu_idle_ticks": 1650, "net": {"eth0": {"received": 6000, "sent": 0}, "eth1": {"received": 5}}})
    first, second = course(store, clock)
    assert first["cpu"] is None and first["net"] == {"eth0": {"received": None, "sent": None}}
    assert second["cpu"] == 0.25 and second["memory_available"] == 40 and second["file_systems"]["main"]["free"] == 3
    assert second["net"] == {"eth0": {"received": 100.0, "sent": 0.0}, "eth1": {"received": None, "sent": None}}


def test_an_agent_of_another_version_tells_less_or_other_things(store: Store, clock: Clock) -> None:
    report(store, clock, 0, {"cpus": 2, "cpu": 0.5, "memory": 100})
    report(store, clock, 1, {"cpu": "much", "net": ["eth0"], "disks": {"sda": 5}, "file_systems": None})
    first, second = course(store, clock)
    assert first["cpu"] == 0.5 and first["net"] == {} and first["swap"] is None
    assert second["cpu"] is None and second["net"] == {} and second["disks"] == {"sda": {"read": None, "written": None}} and second["file_systems"] == {}


def test_counters_that_began_anew_give_no_nonsense(store: Store, clock: Clock) -> None:
    report(store, clock, 0, {"cpu_ticks": 5000, "cpu_idle_ticks": 4000})
    report(store, clock, 1, {"cpu_ticks": 100, "cpu_idle_ticks": 50})
    assert course(store, clock)[1]["cpu"] is None
