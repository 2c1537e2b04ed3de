"""Server pools on a whole Domus, with real agents: from a document to what the manager shows, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import DomusError

from tests.support.stack import Stack

LAB = {"name": "lab", "servers": ["s0", "s1"], "clustered": False}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(("test:///default", "test:///default"))
    try:
        yield made.up()
    finally:
        made.close()


def applied(stack: Stack, *pools: dict[str, Any], **sections: Any) -> dict[str, Any]:
    job = stack.client.follow(stack.client.post("/api/v1/apply", {"server_pools": list(pools), **sections})["id"], patience=60)
    return dict(job)


def shown(stack: Stack) -> dict[str, Any]:
    return dict(stack.client.get("/api/v1/server-pools/lab"))


def test_a_pool_is_made_shown_changed_and_ended(stack: Stack) -> None:
    job = applied(stack, LAB)
    assert (job["state"], job["changed"]) == ("succeeded", True), job["error"]
    assert not applied(stack, LAB)["changed"]
    stack.wait_for(lambda: [one["state"] for one in shown(stack)["servers"]].count("present") == 2 or _never(), "both servers' word")
    assert (shown(stack)["state"], shown(stack)["spec"]["servers"]) == ("not_clustered", ["s0", "s1"])
    trust = {one["name"]: one["pool"] for one in stack.client.pages("/api/v1/servers")}
    assert trust == {"s0": "lab", "s1": "lab"}
    job = applied(stack, {"name": "lab", "servers": ["s1"], "description": "one is enough"})
    assert job["state"] == "succeeded", job["error"]
    stack.wait_for(lambda: [one["server"] for one in shown(stack)["servers"]] == ["s1"] or _never(), "the other having left")
    assert {one["name"]: one["pool"] for one in stack.client.pages("/api/v1/servers")} == {"s0": "default", "s1": "lab"}
    assert applied(stack, {"name": "lab", "state": "absent"})["state"] == "succeeded"
    stack.wait_for(lambda: stack.client.get("/api/v1/server-pools")["items"] == [] or _never(), "its end")


def test_a_clustered_pool_whose_servers_are_one_machine_is_refused_before_anything_is_touched(stack: Stack, tmp_path: Path) -> None:
    """Both agents tell the same addresses and the same name: two members can not be one."""
    file_system = {"name": "fs", "path": str(tmp_path / "fs"), "shared": True}
    whole = {"name": "rack1", "servers": ["s0", "s1"], "file_system": "fs"}
    with pytest.raises(DomusError, match="same address"):
        applied(stack, whole, repositories=[file_system])
    assert stack.client.get("/api/v1/server-pools")["items"] == []


def test_what_a_server_lacks_for_a_cluster_is_told_with_what_mends_it(stack: Stack, tmp_path: Path) -> None:
    file_system = {"name": "fs", "path": str(tmp_path / "fs"), "shared": True, "servers": ["s0"]}
    device = {"name": "bmc", "agent": "fence_of_nobody", "servers": [{"name": "s0"}], "options": [{"name": "password", "secret": "s3cret"}]}
    alone = {"name": "rack1", "servers": ["s0"], "file_system": "fs", "fencing": [device]}
    job = applied(stack, alone, repositories=[file_system])
    assert job["state"] == "failed"
    assert "the program fence_of_nobody" in json.dumps(job["error"]) and "ansible-playbook domus.virt.server_pools" in json.dumps(job["error"])
    assert "s3cret" not in json.dumps(stack.client.get(f"/api/v1/jobs/{job['id']}/events"))


def _never() -> bool:
    raise AssertionError
