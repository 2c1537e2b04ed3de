"""Secrets of documents: in no file, no argument, no environment and no answer, whatever becomes of the job; and who a job runs as."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs.runner_client import RunnerConnection

from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import JOB_USER, MANAGER_USER, Stack
from tests.support.stack_faults import descendants_of, directories_of_jobs, ended, issue, items, nothing_is_left

pytestmark = pytest.mark.libvirt

USER_DATA, NETWORK_CONFIG, PASSWORD = "CanaryUserData4711", "CanaryNetwork4711", "Canary47"
SECRETS = (USER_DATA.encode(), NETWORK_CONFIG.encode(), PASSWORD.encode())


@pytest.fixture(scope="module")
def stack(libvirt_stack: Stack) -> Stack:
    return libvirt_stack


@pytest.fixture
def document(private_libvirtd: PrivateLibvirtd) -> dict[str, Any]:
    """A VM with a secret in every field that takes one; its repository is not below the stack's directory."""
    repository = private_libvirtd.directory / "canaries"
    repository.mkdir(mode=0o711, exist_ok=True)
    told = {"user_data": f"#cloud-config\npassword: {USER_DATA}\n", "network_config": f"version: 2\n# {NETWORK_CONFIG}\n"}
    disks = [{"name": "root", "repository": "main", "size": "1MiB"}]
    vm = {"name": "canary", "memory": "16MiB", "state": "running", "cloud_init": told, "vnc": {"password": PASSWORD}, "disks": disks}
    return {
        "servers": [{"name": "s0", "virtualization": "qemu"}],
        "repositories": [{"name": "main", "path": str(repository)}],
        "vms": [vm],
    }


def files_with_secrets(directory: Path) -> list[str]:
    """The files below a directory with a secret in them."""
    found = []
    for folder, dummy, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and any(secret in path.read_bytes() for secret in SECRETS):
                    found.append(str(path))
    return found


@contextlib.contextmanager
def watched(stack: Stack) -> Iterator[list[str]]:
    """What is seen of secrets while this lasts: arguments and environments of all processes, and files of jobs that others may read."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    if any(secret in Path(f"/proc/{pid}/{name}").read_bytes() for secret in SECRETS):
                        found.append(f"{name} of {Path(f'/proc/{pid}/comm').read_text()}")
        for folder, dummy, names in os.walk(stack.run_directory / "jobs"):
            for path in (Path(folder, name) for name in names):
                with contextlib.suppress(OSError):
                    if path.stat().st_mode & 0o077 and path.is_file() and any(secret in path.read_bytes() for secret in SECRETS):
                        found.append(str(path))

    def watch() -> None:
        while not over.wait(0.03):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def everything_told(stack: Stack, job_id: str) -> str:
    """All that the API says after a job."""
    paths = [f"/api/v1/jobs/{job_id}", f"/api/v1/jobs/{job_id}/events", "/api/v1/events"]
    answers = [stack.client.get(path, **({"since": 0} if path.endswith("/events") else {})) for path in paths]
    lists = [items(stack, path) for path in ("vms", "virtual-disks", "repositories", "servers", "drift", "jobs")]
    return repr((answers, lists))


def look_everywhere(stack: Stack, job_id: str) -> None:
    """No secret is left anywhere in what the stack wrote or tells."""
    nothing_is_left(stack)
    told = everything_told(stack, job_id)
    assert not [secret for secret in SECRETS if secret.decode() in told]
    assert files_with_secrets(stack.directory) == []


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_after_a_job_its_secrets_are_nowhere(stack: Stack, document: dict[str, Any], fails: bool) -> None:
    if fails:
        document["vms"] = [{**document["vms"][0], "name": "failing", "nics": [{"name": "eth0", "network": "missing"}]}]
    with watched(stack) as seen:
        plan = stack.client.post("/api/v1/apply", document, check=True)
        job = ended(stack, stack.client.post("/api/v1/apply", document)["id"])
    assert job["state"] == ("failed" if fails else "succeeded"), job
    assert seen == []
    assert not [secret for secret in SECRETS if secret.decode() in repr(plan)]
    look_everywhere(stack, job["id"])


def test_a_relaunched_and_a_planned_document_leave_none_either(stack: Stack, document: dict[str, Any]) -> None:
    vm = {**document["vms"][0], "name": "relaunched", "nics": [{"name": "eth0", "network": "missing"}]}
    failed = ended(stack, stack.client.post("/api/v1/apply", {**document, "vms": [vm]})["id"])
    again = ended(stack, stack.client.post(f"/api/v1/jobs/{failed['id']}/relaunch")["id"])
    assert again["state"] == "failed"
    made = stack.client.post("/api/v1/plans", document)
    job = ended(stack, stack.client.post(f"/api/v1/plans/{made['id']}/apply")["id"])
    assert job["state"] == "succeeded", job
    look_everywhere(stack, job["id"])


def test_a_job_that_is_cancelled_or_loses_its_manager_leaves_none(stack: Stack, document: dict[str, Any]) -> None:
    document["vms"] = [{**document["vms"][0], "name": "cancelled"}]
    job = stack.client.post("/api/v1/apply", document)
    stack.wait_for(lambda: bool(directories_of_jobs(stack)), "the job's directory")
    stack.client.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert ended(stack, job["id"])["state"] in ("cancelled", "succeeded")
    look_everywhere(stack, job["id"])


def test_full_verbosity_tells_none(stack: Stack, document: dict[str, Any]) -> None:
    server, job = stack.client.get("/api/v1/servers/s0"), str(uuid.uuid4())
    vm = {**document["vms"][0], "name": "verbose", "nics": [{"name": "eth0", "network": "missing"}]}
    target = {name: server[name] for name in ("name", "address", "port")} | {"operation": job, "document_file": "document-1.json", "expected": None}
    targets = {"job": job, "authority": "authority.pem", "certificate": "job.pem", "key": "job.key", "result_file": "result.json"}
    issued = issue(stack, "job", job, servers=[server["id"]])
    files = {
        "authority.pem": (stack.manager_directory / "servers.crt").read_text(),
        "job.pem": issued["certificate"],
        "job.key": issued["key"],
        "document-1.json": json.dumps({**document, "vms": [vm]}),
        "targets.json": json.dumps({**targets, "servers": {server["id"]: target}}),
    }
    request = {"job": job, "playbook": "apply.yml", "files": files, "time_limit": 60, "verbosity": 5}
    with watched(stack) as seen:
        lines = list(RunnerConnection(str(stack.directory / "runner" / "runner.sock"), request).lines())
    told = json.dumps(lines)
    assert lines[-1]["end"]["status"] == "failed" and "missing" in told and "ansible-playbook" in told, told[-2000:]
    assert not [secret for secret in SECRETS if secret.decode() in told] and "PRIVATE KEY" not in told
    assert seen == []
    nothing_is_left(stack)
    assert files_with_secrets(stack.directory) == []


def test_the_looking_finds_a_secret(stack: Stack) -> None:
    planted = stack.directory / "agent0" / "planted"
    planted.write_text(USER_DATA)
    assert files_with_secrets(stack.directory) == [str(planted)]
    planted.unlink()
    with watched(stack) as seen:
        subprocess.run(["sleep", "0.3"], env={"SECRET": PASSWORD}, check=True)
    assert any("environ" in one for one in seen)


# --- who a job runs as


def test_jobs_run_under_their_own_account_and_can_not_read_the_managers_directory(stack: Stack) -> None:
    job_user, manager_user = pwd.getpwnam(JOB_USER), pwd.getpwnam(MANAGER_USER)
    seen: set[tuple[int, int]] = set()
    modes: set[int] = set()
    job = stack.client.post("/api/v1/apply", {"vms": [{"name": "watched", "memory": "16MiB", "state": "stopped"}]})

    def look() -> bool:
        for pid in descendants_of(stack, "runner"):
            with contextlib.suppress(OSError):
                seen.add((os.stat(f"/proc/{pid}").st_uid, os.stat(f"/proc/{pid}").st_gid))
        modes.update(path.stat().st_mode & 0o7777 for path in (stack.run_directory / "jobs").iterdir())
        return bool(seen and modes)

    stack.wait_for(look, "the job's processes")
    ended(stack, job["id"])
    assert seen == {(job_user.pw_uid, job_user.pw_gid)} and modes == {0o700}
    status = stack.manager_directory.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (manager_user.pw_uid, 0o700)
    for path in [*stack.manager_directory.rglob("*.key"), *stack.manager_directory.glob("*.db*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    own_files = [stack.manager_directory / "manager.db", stack.manager_directory / "servers.key"]
    for path in own_files:
        assert may(manager_user, f"open({str(path)!r})")
    for path in [*own_files, stack.directory / "agent0" / "agent.db"]:
        assert not may(job_user, f"open({str(path)!r})"), path
    for path in (stack.directory / "runner" / "runner.sock", stack.run_directory / "manager.sock"):
        assert not may(job_user, f"socket.socket(socket.AF_UNIX).connect({str(path)!r})"), path
    nothing_is_left(stack)


def may(user: pwd.struct_passwd, work: str) -> bool:
    """Whether this account may do that in Python, or is not permitted to."""
    command = ["/usr/bin/python3", "-c", f"import socket; {work}"]
    done = subprocess.run(command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0
