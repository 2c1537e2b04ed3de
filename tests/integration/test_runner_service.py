"""The job runner with real Ansible: what a job tells, and that nothing of it is ever left."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs.processes import processes_at_home
from domus_controller.jobs.runner_client import RunnerConnection
from domus_core.errors import DomusError, Unreachable

from tests.support.stack import install

SECRET = "swordfish-4711"
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Read the file
      ansible.builtin.set_fact:
        length: "{{ lookup('file', domus_targets_file) | length }}"
    - name: Write the result
      ansible.builtin.copy:
        content: "{{ {'length': length | int, 'check': ansible_check_mode} | to_json }}"
        dest: "{{ domus_targets_file | dirname }}/result.json"
        mode: "0600"
      check_mode: false
"""
LONG = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Leave a process in a session of its own
      ansible.builtin.command: setsid sh -c 'trap "" TERM HUP; sleep 600 & wait' MARK
"""
STARTER = "import sys; from domus_controller.jobs.runner_service import serve; serve(*sys.argv[1:])"


# The service hangs up: before the request is sent, or after.
OTHERS_SCRIPT = """
from domus_controller.jobs.runner_client import RunnerConnection
from domus_core.errors import Unreachable
try:
    print(list(RunnerConnection({socket!r}, {{"job": "x"}}).lines()))
except Unreachable:
    print([])
"""


def _accepts(path: str) -> bool:
    """A socket is a file before it listens."""
    with socket.socket(socket.AF_UNIX) as door:
        return door.connect_ex(path) == 0


class Service:
    """A runner service of this test's own, under the account nobody when that is possible."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.jobs = directory / "jobs"
        self.socket = str(directory / "runner.socket")
        playbooks = directory / "collections/ansible_collections/domus/virt/playbooks"
        playbooks.mkdir(parents=True)
        (playbooks / "short.yml").write_text(PLAYBOOK)
        (playbooks / "long.yml").write_text(LONG.replace("MARK", str(directory)))
        self.start()

    def start(self) -> None:
        """Start it, and wait for its socket."""
        Path(self.socket).unlink(missing_ok=True)
        # Installed, since other accounts may not read this checkout.
        words = [self.socket, str(self.directory), str(self.directory / "collections"), str(self.directory), "nobody"]
        command = [install() / "venv/bin/python", "-c", STARTER, *words]
        self.process = subprocess.Popen(command, cwd="/", start_new_session=True)
        wait_until(lambda: self.process.poll() is None and _accepts(self.socket), "the service listens")

    def job(self, playbook: str = "short.yml", name: str = "job-1", **more: Any) -> RunnerConnection:
        """Begin a job."""
        files = {"targets.json": json.dumps({"password": SECRET})}
        request = {"job": name, "playbook": playbook, "files": files, "time_limit": 60, **more}
        return RunnerConnection(self.socket, request)

    def running_job(self, **more: Any) -> RunnerConnection:
        """Begin a job, and wait until its module has started a process that ignores SIGTERM in a session of its own."""
        connection = self.job("long.yml", **more)
        wait_until(lambda: bool(self.left()), "the job's process runs")
        return connection

    def left(self) -> list[str]:
        """The command lines of what jobs of this service started."""
        lines = []
        for name in os.listdir("/proc"):
            try:
                line = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if name.isdigit() and line.startswith(("sh -c", "sleep")) and int(name) in processes_at_home(str(self.jobs)):
                lines.append(line)
        return lines

    def children(self) -> list[int]:
        """The job processes."""
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def is_clean(self) -> bool:
        """Is neither a process nor a file of any job left?"""
        return not processes_at_home(str(self.jobs)) and not any(entry.is_dir() for entry in self.jobs.iterdir())

    def stop(self) -> None:
        """End it as systemd does."""
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def service() -> Iterator[Service]:
    # Not below pytest's own directory: another account must get there.
    with tempfile.TemporaryDirectory(prefix="domus-runner-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        made = Service(Path(name))
        yield made
        if made.process.poll() is None:
            made.stop()
        assert made.is_clean()


def wait_until(holds: Any, what: str, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def uid_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[1])


def end_of(connection: RunnerConnection) -> dict[str, Any]:
    lines = list(connection.lines())
    assert lines and "end" in lines[-1], lines
    end: dict[str, Any] = lines[-1]["end"]
    return end


def test_a_job_tells_its_output_and_its_result(service: Service) -> None:
    lines = list(service.job().lines())
    assert lines[-1]["end"] == {"status": "successful", "rc": 0, "error": "", "result": {"length": len(json.dumps({"password": SECRET})), "check": False}}
    assert any("Write the result" in line["event"]["stdout"] for line in lines[:-1])
    assert service.is_clean()


def test_check_mode_reaches_the_playbook(service: Service) -> None:
    assert end_of(service.job(check=True))["result"]["check"] is True


def test_full_verbosity_tells_no_secret_and_writes_nothing_elsewhere(service: Service) -> None:
    text = json.dumps(list(service.job(verbosity=5).lines()))
    assert "TASK" in text and SECRET not in text
    assert sorted(entry.name for entry in service.directory.iterdir()) == ["collections", "jobs", "runner.socket"]


def test_jobs_run_under_the_other_account_in_a_private_directory(service: Service) -> None:
    connection = service.running_job()
    status = (service.jobs / "job-1").stat()
    assert status.st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (service.jobs / "job-1").rglob("targets.json"))
    if os.geteuid() == 0:
        assert status.st_uid == pwd.getpwnam("nobody").pw_uid == uid_of(service.children()[0])
    connection.cancel()
    assert end_of(connection)["status"] == "cancelled"


def test_cancel_ends_every_process(service: Service) -> None:
    connection = service.running_job()
    connection.cancel()
    assert end_of(connection)["status"] == "cancelled"
    assert service.is_clean()


def test_cancel_right_after_the_request_is_heard(service: Service) -> None:
    connection = service.job("long.yml")
    connection.cancel()
    assert end_of(connection)["status"] == "cancelled"
    assert service.is_clean()


def test_the_time_limit_ends_every_process(service: Service) -> None:
    assert end_of(service.job("long.yml", time_limit=3))["status"] == "timeout"
    assert service.is_clean()


def test_a_manager_that_is_gone_leaves_no_process(service: Service) -> None:
    service.running_job().close()
    wait_until(service.is_clean, "the job is gone")


def test_a_killed_job_process_leaves_none(service: Service) -> None:
    connection = service.running_job()
    os.kill(service.children()[0], signal.SIGKILL)
    wait_until(service.is_clean, "the job is gone")
    assert not any("end" in line for line in connection.lines())
    assert end_of(service.job())["status"] == "successful"


def test_a_killed_service_leaves_none(service: Service) -> None:
    connection = service.running_job()  # the manager's end stays open: it must not be what ends the job
    service.process.kill()
    service.process.wait()
    wait_until(service.is_clean, "the job is gone")
    connection.close()


def test_what_died_together_with_its_service_is_killed_when_it_starts_again(service: Service) -> None:
    connection = service.running_job()
    jobs = service.children()
    os.kill(service.process.pid, signal.SIGSTOP)
    for pid in (*jobs, service.process.pid):
        os.kill(pid, signal.SIGKILL)
    service.process.wait()
    assert not service.is_clean()
    service.start()
    wait_until(service.is_clean, "the leftovers are gone")
    connection.close()


def test_a_stopped_service_ends_its_jobs_and_says_so(service: Service) -> None:
    connection = service.running_job()
    stopper = threading.Thread(target=service.stop)
    stopper.start()
    assert end_of(connection)["status"] == "ended"
    stopper.join()
    assert service.is_clean()
    with pytest.raises(Unreachable):
        service.job()


def test_jobs_run_side_by_side(service: Service) -> None:
    slow = service.running_job(name="slow")
    assert end_of(service.job(name="quick"))["status"] == "successful"
    assert (service.jobs / "slow").is_dir()
    slow.cancel()
    assert end_of(slow)["status"] == "cancelled"


WRONG: list[dict[str, Any]] = [
    {"name": "../up"},
    {"playbook": "../../x.yml"},
    {"playbook": "none.yml"},
    {"files": {"a/b": ""}},
    {"files": {"a": 1}},
    {"time_limit": "x"},
    {"verbosity": 9},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_request_is_refused(service: Service, wrong: dict[str, Any]) -> None:
    end = end_of(service.job(**wrong))
    assert end["status"] == "error" and end["error"]


def test_others_than_the_manager_are_not_served(service: Service) -> None:
    if os.geteuid() != 0:
        pytest.fail("run this test as root: it speaks to the service under another account")
    Path(service.socket).chmod(0o666)
    script = OTHERS_SCRIPT.format(socket=service.socket)
    answer = subprocess.run(
        [install() / "venv/bin/python", "-c", script],
        cwd="/",
        user=pwd.getpwnam("daemon").pw_uid,
        group=pwd.getpwnam("daemon").pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "[]\n"


def test_two_services_do_not_share_a_directory(service: Service) -> None:
    from domus_controller.jobs.runner_service import serve

    with pytest.raises(DomusError, match="runs already"):
        serve(str(service.directory / "other.socket"), str(service.directory), "", str(service.directory))
