"""`domus pool`: what an operator sees of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conftest import FakeManager, Said

Domus = Callable[..., Said]

MEMBER = {"member": "h1", "state": "online", "server": "srv1", "server_id": "1", "heard": True, "last_seen": "2026-01-01T00:00:00Z", "differs": []}
TEST = {"device": "power", "server": "h2", "at": "2026-01-01T00:00:00Z", "state": "on", "problem": None, "cut": False, "by": "srv1"}
POOL: dict[str, Any] = {
    "name": "pool1",
    "state": "problems",
    "quorate": True,
    "coordinator": "h1",
    "told_by": "srv1",
    "stale": False,
    "votes": {"expected": 2, "total": 1, "quorum": 1},
    "members": [MEMBER, {**MEMBER, "member": "h2", "state": "offline", "heard": False}],
    "links": [{"from": "srv1", "link": 0, "address": "10.0.0.1", "member": "h2", "connected": False, "stale": False}],
    "fence_devices": [{"name": "power", "watched_by": ["h1"], "tests": [TEST]}, {"name": "spare", "watched_by": [], "tests": []}],
    "vms": {"web": ["h1"]},
    "clustered": True,
    "spec": {"name": "pool1", "file_system": "pool1-fs", "description": "the rack at the door"},
    "servers": [{"server": "srv1", "state": "present", "stale": False, "drift": ["token"], "differs": [], "problem": "corosync.service does not run"}],
    "failover": {"noticed": 6.6, "fenced": 5.0, "lease": 90, "start": 3.0, "expected": 93.0},
    "problems": [{"kind": "fencing_failed", "server": "h2", "text": "could not cut the power of h2", "remedy": "domus-agent pool fence-test"}],
}


def test_pools_are_listed(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/server-pools"] = {"items": []}
    assert "There is none: write server_pools" in domus("pool", "list").out
    manager.answers["GET", "/api/v1/server-pools"] = {"items": [POOL]}
    line = domus("pool", "list").out.splitlines()[1]
    assert "pool1" in line and "problems" in line and "1 of 2 online" in line
    assert domus("pool", "list", "-o", "json").json() == [POOL]


def test_a_pool_without_a_cluster_is_listed_and_shown(manager: FakeManager, domus: Domus) -> None:
    nothing = dict.fromkeys(("quorate", "coordinator", "told_by", "votes", "failover"))
    lists: dict[str, Any] = {name: [] for name in ("members", "links", "fence_devices", "problems")}
    spec = {"name": "lab", "clustered": False}
    pool = {**POOL, **nothing, **lists, "name": "lab", "state": "not_clustered", "clustered": False, "spec": spec, "vms": {}}
    manager.answers["GET", "/api/v1/server-pools"] = {"items": [pool]}
    manager.answers["GET", "/api/v1/server-pools/lab"] = pool
    assert "not_clustered" in domus("pool", "list").out
    assert "srv1" in domus("pool", "show", "lab").out


def test_the_policy_of_a_pool_is_shown_with_its_looks(manager: FakeManager, domus: Domus) -> None:
    move = {"vm": "web", "server": "srv2", "reason": "memory: 90%"}
    found = {"moves": [move], "switches": [], "waiting": None, "job": "j7"}
    policy = {"spec": {"mode": "drs", "spare_servers": 1}, "on": True, "failures": 2, "waits": "server srv2 is offline", "found": found}
    policy |= {"looked_at": "2026-01-01T00:00:00Z", "next_at": "2026-01-01T00:10:00Z"}
    manager.answers["GET", "/api/v1/server-pools/pool1"] = {**POOL, "policy": policy}
    said = domus("pool", "show", "pool1").out
    for text in (
        "drs, every 10 minutes; room for the loss of 1 servers; backs off after 2 failed jobs",
        "web to srv2: memory: 90%",
        "job j7",
        "srv2 is offline",
    ):
        assert text in said
    policy.update(spec={}, on=False, failures=0, found={"moves": [], "switches": [], "waiting": "2 servers are to stay on"})
    said = domus("pool", "show", "pool1").out
    assert "off: it does nothing by itself" in said and "nothing to do: 2 servers are to stay on" in said


def test_a_pool_is_shown_with_what_is_wrong_and_what_to_do(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/server-pools/pool1"] = POOL
    said = domus("pool", "show", "pool1").out
    for text in (
        "1 of 2, 1 are needed",
        "offline",
        "10.0.0.1",
        "1 of 1 passed, since 2026-01-01 00:00",
        "never tested",
        "web",
        "could not cut the power of h2",
        "pool1-fs",
        "90 s",
        "about 93 s: noticed after 6.6 s",
        "drift: token; corosync.service does not run",
    ):
        assert text in said
    assert "-> domus-agent pool fence-test" in said
    assert domus("pool", "show", "pool1", "-o", "json").json() == POOL


def test_fence_devices_are_tested_and_a_failure_is_an_exit_code(manager: FakeManager, domus: Domus) -> None:
    path = "/api/v1/server-pools/pool1/fence-test"
    manager.answers["POST", path] = {"passed": True, "tests": [TEST], "failed": []}
    said = domus("pool", "fence-test", "pool1")
    assert said.code == 0 and "power" in said.out and manager.asked[-1][:3] == ("POST", path, {})
    broken = {**TEST, "state": None, "problem": "no route to host"}
    manager.answers["POST", path] = {"passed": False, "tests": [broken], "failed": [{"by": "srv2", "problem": "does not answer"}]}
    said = domus("pool", "fence-test", "pool1")
    assert said.code == 1 and "no route to host" in said.out and "srv2 could not test: does not answer" in said.out
    assert domus("pool", "fence-test", "pool1", "-o", "json").json()["passed"] is False
    manager.answers["GET", "/api/v1/server-pools/pool1"] = {**POOL, "fence_devices": [{"name": "power", "watched_by": [], "tests": [TEST, broken]}]}
    assert "1 of 2 passed" in domus("pool", "show", "pool1").out and "h2 by srv1: no route to host" in domus("pool", "show", "pool1").out


def test_power_is_cut_only_when_somebody_says_yes(manager: FakeManager, domus: Domus) -> None:
    path = "/api/v1/server-pools/pool1/fence-test"
    manager.answers["POST", path] = {"passed": True, "tests": [{**TEST, "cut": True}], "failed": []}
    assert domus("pool", "fence-test", "pool1", "--cut", "h2").code != 0 and manager.asked == []
    said = domus("pool", "fence-test", "pool1", "--cut", "h2", "--yes")
    assert said.code == 0 and "cut, and on again" in said.out and manager.asked[-1][:3] == ("POST", path, {"cut": "h2"})
