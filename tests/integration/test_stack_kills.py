"""The manager killed while jobs work: each job has an end, nothing of it is left, and the same document applied again completes it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stack import Stack
from tests.support.stack_faults import all_jobs, ended, errors_ignored, items, nothing_is_left, worker

POINTS = 50
# The life of an apply job of this stack, and of the manager's start, in seconds: the points are spread over them.
LIFE = 1.3
START = 0.6
EVERY = 10
VERBS = ("stop", "start", "suspend", "resume", "restart", "kill", "start")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(["test:///default"] * 2)
    try:
        yield made.up()
    finally:
        made.close()


def document(name: str, number: int) -> dict[str, Any]:
    """Two VMs on each of two servers."""
    vms = [{"name": f"{name}-{server}{one}", "server": server, "memory": "16MiB", "state": "running"} for server in ("s0", "s1") for one in range(2)]
    return {"vms": [{**vm, "description": f"version {number}"} for vm in vms]}


def kill_manager(stack: Stack, *, whole: bool) -> None:
    """SIGKILL its worker, which its master starts again; or both, as a power failure of the manager does."""
    if whole:
        stack.end("manager", signal.SIGKILL)
        stack.start("manager")
        stack.wait_for(lambda: worker(stack), "a worker")
    else:
        before = worker(stack)
        os.kill(before, signal.SIGKILL)
        stack.wait_for(lambda: worker(stack) != before, "another worker")


def test_killed_at_fifty_points_every_job_has_an_end_and_nothing_is_left(stack: Stack) -> None:
    servers = {"servers": [{"name": name, "virtualization": "qemu"} for name in ("s0", "s1")]}
    first = ended(stack, stack.client.post("/api/v1/apply", {**servers, **document("vm0", 0)})["id"])
    assert first["state"] == "succeeded", first
    vms = [vm["id"] for vm in items(stack, "vms") if vm["name"].startswith("vm0")]
    promised: list[str] = [first["id"]]
    for point in range(POINTS):
        # Every other time it is killed again while it starts, and settles what it finds.
        if point % 2 == 0:
            stack.wait_until_up()
            with errors_ignored():
                promised.append(stack.client.post("/api/v1/apply", document(f"vm{point % 3}", point))["id"])
                promised.append(stack.client.post(f"/api/v1/vms/{vms[point % len(vms)]}/{VERBS[point % len(VERBS)]}")["id"])
                promised.append(stack.client.post("/api/v1/apply", document(f"vm{(point + 1) % 3}", point))["id"])
        time.sleep(point * 7 % POINTS / POINTS * (LIFE if point % 2 == 0 else START))
        kill_manager(stack, whole=point % EVERY == 0)
    stack.wait_until_up()
    nothing_is_left(stack, (0, 1))
    jobs = {job["id"]: job for job in all_jobs(stack)}
    assert not set(promised) - set(jobs), "a job that was answered for is lost"
    assert {job["state"] for job in jobs.values() if job["kind"] == "apply"} >= {"succeeded", "failed"}, "no kill hit a job at work"
    assert "interrupted" in {(job["error"] or {}).get("code") for job in jobs.values()}
    stack.command("verify-audit")


def test_afterwards_the_same_documents_complete_what_was_half_done(stack: Stack) -> None:
    for name in ("vm0", "vm1", "vm2"):
        again = ended(stack, stack.client.post("/api/v1/apply", document(name, POINTS))["id"])
        assert again["state"] == "succeeded", again
        unchanged = ended(stack, stack.client.post("/api/v1/apply", document(name, POINTS))["id"])
        assert (unchanged["state"], unchanged["changed"]) == ("succeeded", False), unchanged
    found = items(stack, "vms")
    wanted = {vm["name"] for name in ("vm0", "vm1", "vm2") for vm in document(name, 0)["vms"]}
    assert {vm["name"] for vm in found if vm["asked"]} == wanted
    for vm in found:
        if vm["name"] in wanted:
            assert (vm["state"], vm["spec"]["description"], vm["request"]["state"]) == ("running", f"version {POINTS}", "effective"), vm
    assert not [one for one in items(stack, "drift") if one["name"] in wanted]
