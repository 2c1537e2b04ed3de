"""The manager's database without room, read-only or damaged: it says so, loses nothing that it promised, and comes back."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.clients.agent import AgentClient
from domus_core.errors import DomusError, DriverError, NoCapacity, Unreachable

from tests.support.stack import MANAGER_USER, Stack
from tests.support.stack_faults import agent_client, all_jobs, ended, items, nothing_is_left, outbox

SIZE = "16m"
PAGE = 8192


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack()
    user = pwd.getpwnam(MANAGER_USER)
    options = f"size={SIZE},mode=700,uid={user.pw_uid},gid={user.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(made.manager_directory)], check=True)
    try:
        made.up()
        assert apply(made, "first")["state"] == "succeeded"
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def it_works_afterwards(stack: Stack) -> Iterator[None]:
    """Whatever a test did: the manager works, agents are heard, and what they gathered has arrived."""
    yield
    assert apply(stack, f"after-{uuid.uuid4().hex[:8]}")["state"] == "succeeded"
    stack.wait_for(lambda: outbox(stack, 0) == 0, "the last acknowledgement")
    nothing_is_left(stack)
    assert "Traceback" not in stack.log("manager") + stack.log("agent0")


def apply(stack: Stack, name: str) -> dict[str, Any]:
    """Apply one VM; the ended job."""
    return ended(stack, stack.client.post("/api/v1/apply", {"vms": [{"name": name, "memory": "16MiB", "state": "running"}]})["id"])


@pytest.fixture
def server(stack: Stack) -> Iterator[AgentClient]:
    """The agent, as the manager asks it, but without the manager."""
    client = agent_client(stack, 0)
    yield client
    client.close()


def happens_on(server: AgentClient, verb: str) -> str:
    """Something that the agent has to tell; the operation's id."""
    operation = str(uuid.uuid4())
    server.call("submit", operation=operation, kind="verb", vm="first", verb=verb)
    status = server.call("status", operation=operation, wait=20)
    assert status["state"] == "succeeded", status
    return operation


def health(stack: Stack) -> tuple[int, str, str]:
    """The status and the words of the health route."""
    connection = http.client.HTTPSConnection("127.0.0.1", stack.port, context=stack.client.context, timeout=30)
    connection.request("GET", "/api/v1/health")
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told["state"], told["database"]


def shown_state(stack: Stack) -> str:
    """What the API says of the VM that the agent tells about."""
    return str(stack.client.get("/api/v1/vms/first")["state"])


def test_a_full_disk_is_told_and_what_was_promised_is_kept(stack: Stack, server: AgentClient) -> None:
    ballast, promised = stack.manager_directory / "ballast", []
    refused: DomusError | None = None
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    try:
        for number in range(2000):
            try:
                promised.append(stack.client.post("/api/v1/tokens", {"name": f"token {number}"})["id"])
            except DomusError as error:
                refused = error
                break
        assert isinstance(refused, NoCapacity) and "room" in (refused.remedy or ""), refused
        with pytest.raises(NoCapacity):
            stack.client.post("/api/v1/apply", {"vms": [{"name": "never", "memory": "16MiB"}]})
        assert stack.client.get("/api/v1/vms", limit=1)["items"], "reading goes on"
        assert health(stack) == (503, "failed", "the file system is full, nothing was stored")
        operation = happens_on(server, "stop")
        time.sleep(3)
        assert outbox(stack, 0) > 0, "the agent keeps what the manager could not store"
    finally:
        ballast.unlink()
    stack.wait_for(lambda: outbox(stack, 0) == 0, "the last acknowledgement")
    stack.wait_for(lambda: shown_state(stack) == "stopped", "what happened meanwhile")
    assert health(stack)[:2] == (200, "ok")
    kept = {one["id"] for one in items(stack, "tokens")}
    assert set(promised) <= kept
    assert not [job for job in all_jobs(stack) if any(one["name"] == "never" for one in job["objects"])]
    finished = [one["operation"] for one in stack.client.get("/api/v1/events", kind="operation.finished", limit=1000)["items"]]
    assert finished.count(operation) == 1


def test_a_job_that_ends_while_the_disk_is_full_has_its_end_once_there_is_room(stack: Stack) -> None:
    job = stack.client.post("/api/v1/apply", {"vms": [{"name": f"full-{number}", "memory": "16MiB", "state": "running"} for number in range(3)]})
    ballast = stack.manager_directory / "ballast"
    try:
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass
        time.sleep(5)
    finally:
        ballast.unlink()
    assert ended(stack, job["id"])["state"] in ("succeeded", "failed")


def test_a_database_that_can_not_be_written_is_told_and_the_agents_gather(stack: Stack, server: AgentClient) -> None:
    stack.end("manager")
    subprocess.run(["mount", "-o", "remount,ro", str(stack.manager_directory)], check=True)
    before = len(stack.log("manager"))
    try:
        stack.start("manager")
        stack.wait_for(lambda: "can not be written" in stack.log("manager")[before:], "the reason in the manager's log")
        with pytest.raises(Unreachable):
            stack.client.get("/api/v1/health")
        happens_on(server, "start")
        assert outbox(stack, 0) > 0
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(stack.manager_directory)], check=True)
        restart(stack)


def restart(stack: Stack) -> None:
    """Start the manager anew, whether it runs or not, as systemd would."""
    kill(stack)
    stack.start("manager")
    stack.wait_until_up()


def kill(stack: Stack) -> None:
    """End the manager, if it runs."""
    if "manager" in stack.processes:
        stack.end("manager", signal.SIGKILL)


def damage(path: Path) -> None:
    """Overwrite everything but the first page."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(PAGE)
        file.write(os.urandom(size - PAGE))


@pytest.mark.parametrize("at_work", [False, True], ids=["while it is stopped", "at work"])
def test_a_damaged_database_is_told_and_a_backup_brings_it_back(stack: Stack, server: AgentClient, at_work: bool) -> None:
    backup = stack.directory / "tmp" / f"backup-{at_work}.db"
    name = f"backed-up-{at_work:d}"
    assert apply(stack, name)["state"] == "succeeded"
    jobs = {job["id"] for job in all_jobs(stack)}
    stack.command("backup", str(backup))
    assert backup.stat().st_mode & 0o077 == 0
    later = apply(stack, f"later-{at_work:d}")
    stack.command("verify-audit")
    if not at_work:
        stack.end("manager")
    before = len(stack.log("manager"))
    damage(stack.manager_directory / "manager.db")
    if at_work:
        stack.wait_for(lambda: health(stack)[:2] == (503, "failed"), "the problem")
        with pytest.raises(DriverError, match="damaged"):
            apply(stack, "never")
        stack.end("manager", signal.SIGKILL)
    stack.start("manager")
    stack.wait_for(lambda: "is damaged" in stack.log("manager")[before:], "the reason in the manager's log")
    assert "domus-manager restore" in stack.log("manager")[before:]
    operation = happens_on(server, "restart")
    kill(stack)
    said = stack.command("restore", str(backup))
    assert "kept" in said
    restart(stack)
    stack.wait_for(lambda: outbox(stack, 0) == 0, "the last acknowledgement")
    found = {job["id"]: job for job in all_jobs(stack)}
    assert jobs <= set(found) and later["id"] not in found
    told = stack.client.get("/api/v1/events", kind="operation.finished", limit=1000)["items"]
    assert [one["operation"] for one in told].count(operation) == 1
    # Made after the backup, and there all the same: the server is asked, and nothing is changed there.
    stack.wait_for(lambda: stack.client.get(f"/api/v1/vms/later-{at_work:d}")["state"] == "running", "what the backup did not know")
