"""What the fault tests do to a stack, and how they see what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from domus_core.clients.agent import AgentClient
from domus_core.errors import DomusError

from .stack import MANAGER_USER, Stack, descendants

ENDED = ("succeeded", "failed", "cancelled")
Item = dict[str, Any]
# A verb, the state before it, its options (no guest here listens to a request to shut down), and the state after it.
FORCED: Item = {"force": True, "timeout": 1}
VERBS: list[tuple[str, str, Item, str]] = [
    ("start", "stopped", {}, "running"),
    ("stop", "running", FORCED, "stopped"),
    ("kill", "running", {}, "stopped"),
    ("restart", "running", FORCED, "running"),
    ("suspend", "running", {}, "suspended"),
    ("resume", "suspended", {}, "running"),
]
ISSUE = """
import json, sys, time
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from domus_controller.security.authority import Authority

wanted, directory = json.loads(sys.argv[1]), Path(sys.argv[2])
clock = time.time() - wanted.get("days_ago", 0) * 86400
authority = Authority(directory, lambda: clock)
if wanted["kind"] == "job":
    certificate, key, serial, until = authority.issue_job(wanted["id"], wanted["servers"], 600)
else:
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(secret, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    issued = authority.issue_server(request, wanted["id"], ["127.0.0.1"]) if wanted["kind"] == "server" else authority.issue_person(request, wanted["id"])
    key = secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    certificate, serial, until = issued.pem, issued.serial, issued.not_after
if wanted.get("current"):
    from domus_controller.store import servers
    from domus_controller.store.database import Store
    store = Store(directory)
    servers.set_serial(store, wanted["id"], serial)
    store.close()
print(json.dumps({"certificate": certificate, "key": key, "serial": serial, "until": until}))
"""


def worker(stack: Stack) -> int:
    """The process id of the manager's gunicorn worker. Raises LookupError when there is none."""
    for pid in descendants_of(stack, "manager"):
        return pid
    raise LookupError("the manager has no worker now")


def ended(stack: Stack, job_id: str, patience: float = 60.0) -> Item:
    """The job once it has ended."""

    def look() -> Any:
        job = stack.client.get(f"/api/v1/jobs/{job_id}")
        return job if job["state"] in ENDED else False

    return dict(stack.wait_for(look, f"the end of job {job_id}", patience))


def all_jobs(stack: Stack) -> list[Item]:
    """Every job of the manager."""
    return list(stack.client.pages("/api/v1/jobs"))


def unended(stack: Stack) -> list[Item]:
    """The jobs that have not ended."""
    return [job for job in all_jobs(stack) if job["state"] not in ENDED]


def items(stack: Stack, path: str, **query: Any) -> list[Item]:
    """All items of a list."""
    return list(stack.client.pages(f"/api/v1/{path}", **query))


def processes_of_jobs(stack: Stack) -> list[str]:
    """The command lines of what jobs started, found by their home."""
    home = f"HOME={stack.run_directory}/jobs/".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if any(entry.startswith(home) for entry in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")):
                found.append(Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found + [str(pid) for pid in descendants_of(stack, "runner")]


def descendants_of(stack: Stack, name: str) -> list[int]:
    """What one of the stack's processes has started."""
    pid = stack.processes[name].pid
    return [one for one in descendants(pid) if one != pid]


def directories_of_jobs(stack: Stack) -> list[str]:
    """The directories of jobs."""
    return os.listdir(stack.run_directory / "jobs")


def operations(stack: Stack, number: int) -> dict[str, str]:
    """The operations that an agent has kept: their states by id."""
    with contextlib.closing(sqlite3.connect(stack.directory / f"agent{number}" / "agent.db")) as database:
        return dict(database.execute("SELECT id, state FROM operations"))


def outbox(stack: Stack, number: int) -> int:
    """How many records wait at an agent."""
    with contextlib.closing(sqlite3.connect(stack.directory / f"agent{number}" / "agent.db")) as database:
        return int(database.execute("SELECT count(*) FROM outbox").fetchone()[0])


def agent_client(stack: Stack, number: int) -> AgentClient:
    """A client of an agent with the manager's certificate."""
    directory, port = stack.manager_directory, stack.agent_ports[number]
    server = next(one for one in items(stack, "servers") if one["port"] == port)
    if not (directory / "manager.crt").exists():  # it is made when the manager first calls an agent
        stack.client.post(f"/api/v1/servers/{server['id']}/resync")
    return AgentClient("127.0.0.1", port, server["id"], str(directory / "servers.crt"), str(directory / "manager.crt"), str(directory / "manager.key"))


def kill_agent(stack: Stack, number: int) -> None:
    """SIGKILL an agent and start it again; return when it answers the manager's certificate."""
    stack.end(f"agent{number}", signal.SIGKILL)
    start_agent(stack, number)


def start_agent(stack: Stack, number: int) -> None:
    """Start an agent; return when it answers."""
    stack.start(f"agent{number}")

    def answers() -> bool:
        client = agent_client(stack, number)
        client.call("hello")
        client.close()
        return True

    stack.wait_for(answers, f"agent {number}")


def nothing_is_left(stack: Stack, agents: Iterable[int] = (0,)) -> None:
    """Fail unless every job and operation has ended, and no process and no directory of a job is left."""
    stack.wait_for(lambda: _empty(unended(stack)), "the end of all jobs")
    stack.wait_for(lambda: _empty(processes_of_jobs(stack)), "the end of the jobs' processes")
    stack.wait_for(lambda: _empty(directories_of_jobs(stack)), "the end of the jobs' directories")
    for number in agents:
        stack.wait_for(lambda: _empty([one for one in operations(stack, number).items() if one[1] not in ENDED]), "the end of the operations")  # noqa: B023
    for job in all_jobs(stack):
        assert job["finished_at"] and job["waiting_for"] is None and (job["state"] == "succeeded") == (job["error"] is None), job


def _empty(found: list[Any]) -> bool:
    assert not found, f"{len(found)} are left, one of them: {found[-1]}"
    return True


@contextlib.contextmanager
def errors_ignored() -> Iterator[None]:
    """Whatever the manager answers, or does not."""
    with contextlib.suppress(DomusError, OSError):
        yield


def issue(stack: Stack, kind: str, id: str, **more: Any) -> dict[str, Any]:
    """A certificate (server, person or job) of the stack's own authorities, its key, serial number and end.

    `servers` are those that a job may talk to, `days_ago` when it was issued, `current` makes it the one that is known of the server.
    """
    wanted = json.dumps({"kind": kind, "id": id, **more})
    command = [*stack.as_user(MANAGER_USER), str(stack.install / "venv/bin/python"), "-c", ISSUE, wanted, str(stack.manager_directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
