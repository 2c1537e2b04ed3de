"""A pool is put together from what its members told: who speaks for it, who sees it otherwise, who is silent."""

from __future__ import annotations

import dataclasses
from typing import Any

from domus_controller.store.server_pools import Teller, pool_of


def told(server: str, **more: Any) -> dict[str, Any]:
    """What a member of a healthy pool of two tells."""
    links = [{"link": 0, "address": "10.0.0.1", "member": "b" if server == "a" else "a", "connected": True}]
    healthy = {"pool": "pool1", "server": server, "quorate": True, "coordinator": "a", "votes": {"expected": 2, "total": 2, "quorum": 1}, "links": links}
    return {**healthy, "members": {"a": "online", "b": "online"}, "fence_devices": {"power": ["a"]}, "vms": {"web": ["b"]}, "problems": [], **more}


def teller(server: str, heard: bool = True, **more: Any) -> Teller:
    return Teller(f"id-{server}", f"srv-{server}", heard, "2026-01-01T00:00:00Z", told(server, **more))


def kinds(pool: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem["kind"], problem["server"]) for problem in pool["problems"]]


def test_a_healthy_pool_has_its_coordinator_for_a_voice() -> None:
    pool = pool_of("pool1", [teller("b"), teller("a")])
    assert (pool["state"], pool["quorate"], pool["told_by"], pool["stale"], pool["problems"]) == ("healthy", True, "srv-a", False, [])
    assert [(one["member"], one["server"], one["state"], one["heard"]) for one in pool["members"]] == [
        ("a", "srv-a", "online", True),
        ("b", "srv-b", "online", True),
    ]
    assert pool["vms"] == {"web": ["b"]} and [link["from"] for link in pool["links"]] == ["srv-b", "srv-a"]


def test_the_part_with_quorum_speaks_and_who_sees_it_otherwise_is_shown() -> None:
    lost = teller("a", quorate=False, members={"a": "online", "b": "unclean"}, problems=[{"kind": "quorum_lost", "text": "no quorum", "remedy": ""}])
    pool = pool_of("pool1", [lost, teller("b", coordinator="b")])
    assert (pool["told_by"], pool["quorate"], pool["state"]) == ("srv-b", True, "problems")
    assert pool["members"][0]["differs"] == ["quorate", "coordinator", "members"] and pool["members"][1]["differs"] == []
    assert kinds(pool) == [("disagrees", "srv-a")]


def test_a_silent_member_is_shown_and_does_not_speak() -> None:
    pool = pool_of("pool1", [teller("a", heard=False), teller("b", members={"a": "offline", "b": "online"}, coordinator="b")])
    assert pool["told_by"] == "srv-b" and kinds(pool) == [("not_heard", "srv-a")]
    assert [(one["state"], one["heard"]) for one in pool["members"]] == [("offline", False), ("online", True)]
    assert [link["stale"] for link in pool["links"]] == [True, False]


def test_a_member_that_is_off_on_purpose_is_no_problem() -> None:
    off = dataclasses.replace(teller("a", heard=False), off=True)
    pool = pool_of("pool1", [off, teller("b", members={"a": "offline", "b": "online"}, coordinator="b")])
    assert (pool["state"], pool["problems"]) == ("healthy", [])
    assert [(one["heard"], one["off"]) for one in pool["members"]] == [(False, True), (True, False)]


def test_when_nobody_is_heard_nothing_is_claimed() -> None:
    pool = pool_of("pool1", [teller("a", heard=False), teller("b", heard=False)])
    assert (pool["state"], pool["quorate"], pool["stale"]) == ("unknown", None, True)
    assert pool["members"][0]["state"] == "online", "what was told last"


def test_no_quorum_anywhere() -> None:
    assert pool_of("pool1", [teller("a", quorate=False), teller("b", quorate=False)])["state"] == "no_quorum"


def test_each_member_speaks_of_its_own_troubles_and_one_of_those_of_all() -> None:
    shared = {"kind": "action_failed", "server": "b", "text": "could not start", "remedy": "mend it"}
    own = {"kind": "link_down", "server": "b", "text": "link 0 is down", "remedy": "cables"}
    pool = pool_of("pool1", [teller("a", problems=[shared]), teller("b", problems=[shared, own])])
    assert pool["state"] == "problems" and kinds(pool) == [("action_failed", "b"), ("link_down", "b")]
    silent = {"kind": "pool_not_told", "server": "b", "text": "Pacemaker does not run", "remedy": "start it"}
    pool = pool_of("pool1", [teller("a"), teller("b", quorate=False, coordinator=None, members={}, vms={}, problems=[silent])])
    assert kinds(pool) == [("pool_not_told", "b")]


def test_a_member_that_is_no_server_of_this_manager_is_shown_too() -> None:
    pool = pool_of("pool1", [teller("a")])
    assert [(one["member"], one["server"]) for one in pool["members"]] == [("a", "srv-a"), ("b", None)]


def test_the_last_tests_of_a_fence_device_are_shown_whoever_made_them() -> None:
    def test(device: str, at: float, state: str) -> dict[str, Any]:
        return {"device": device, "server": "b", "at": at, "state": state, "problem": None, "cut": False}

    members = [teller("a", fence_tests=[test("power", 200.0, "on"), test("other", 1.0, "on")]), teller("b", fence_tests=[test("ups or power", 100.0, "off")])]
    (shown,) = [device["tests"] for device in pool_of("pool1", members)["fence_devices"]]
    assert [(one["state"], one["by"]) for one in shown] == [("on", "srv-a"), ("off", "srv-b")] and shown[0]["at"].startswith("1970-01-01T00:03:20")
