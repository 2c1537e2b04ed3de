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
    "problems": [{"kind": "fencing_failed", "server": "h2", "text": "could not cut the power of h2", "remedy": "domus-agent pool fence-test"}],
}


def test_pools_are_listed(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/server-pools"] = {"items": []}
    assert "No server told of a clustered pool" in domus("pool", "list").out
    manager.answers["GET", "/api/v1/server-pools"] = {"items": [POOL]}
    line = domus("pool", "list").out.splitlines()[1]
    assert "pool1" in line and "problems" in line and "1 of 2 online" in line
    assert domus("pool", "list", "-o", "json").json() == [POOL]


def test_a_pool_is_shown_with_what_is_wrong_and_what_to_do(manager: FakeManager, domus: Domus) -> None:
    manager.answers["GET", "/api/v1/server-pools/pool1"] = POOL
    said = domus("pool", "show", "pool1").out
    for text in ("1 of 2, 1 are needed", "offline", "10.0.0.1", "h2: on (2026-01-01 00:00)", "never tested", "web", "could not cut the power of h2"):
        assert text in said
    assert "-> domus-agent pool fence-test" in said
    assert domus("pool", "show", "pool1", "-o", "json").json() == POOL
