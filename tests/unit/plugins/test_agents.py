"""The transport `agent`: the documents of a job go to all agents at once, and nothing is lost on the way."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from domus_core.errors import Busy, InvalidSpec

from tests.unit.plugins.fake_agents import Authority, FakeAgent, Status

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
SECRET = "canary-4711"
sys.path.insert(0, str(ROOT / ".collections"))
agents: Any = importlib.import_module("ansible_collections.domus.virt.plugins.plugin_utils.agents")


def status(state: str, *lines: str, first: int = 1, changed: bool = True, errors: tuple[Any, ...] = (), **more: Any) -> Status:
    """The status of an operation."""
    progress = [{"n": number, "at": 0.0, "line": line} for number, line in enumerate(lines, first)]
    objects = [{"kind": "vm", "name": "web1", "changed": changed, "actions": [], "changes": [], "restart_required": [], "error": error} for error in errors]
    result = {"site": "default", "changed": changed, "check": False, "objects": objects} if state in ("succeeded", "failed") else None
    return {"operation": "o", "state": state, "progress": progress, "result": result, "error": None, "mark": 7 if result else None, **more}


class Job:
    """A job's directory with its targets, and the agents that it talks to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.authority.issue("urn:domus:job:1", "job")
        self.agents: dict[str, FakeAgent] = {}
        self.targets: dict[str, Any] = {"job": "1", "authority": "ca.pem", "certificate": "job.pem", "key": "job.key", "servers": {}}
        self.targets |= {"check": False, "wait_for_address": 30, "patience": 5, "result_file": "result.json"}

    def add(self, server_id: str, work: Callable[[Any], list[Status]]) -> FakeAgent:
        """One more server."""
        agent = self.agents[server_id] = FakeAgent(self.authority, server_id, work)
        (self.directory / f"{server_id}.json").write_text(json.dumps({"vms": [{"name": "web1", "cloud_init": {"user_data": SECRET}}]}))
        target = {"name": f"name-{server_id}", "address": "127.0.0.1", "port": agent.port, "operation": f"op-{server_id}"}
        self.targets["servers"][server_id] = {**target, "document_file": f"{server_id}.json", "expected": None}
        return agent

    def write(self) -> str:
        """Write the targets, and return the name of their file."""
        path = self.directory / "targets.json"
        path.write_text(json.dumps(self.targets))
        return str(path)

    def run(self) -> tuple[dict[str, Any], list[str]]:
        """The outcomes, and the lines of progress."""
        lines: list[str] = []
        return agents.carry_out(agents.read_targets(self.write()), lambda text: lines.extend(text.split("\n"))), lines


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job without servers."""
    made = Job(tmp_path)
    yield made
    for agent in made.agents.values():
        agent.close()


def test_progress_is_shown_once_and_the_end_is_returned(job: Job) -> None:
    end = status("succeeded", "start vm web1", first=2)
    agent = job.add("a", lambda document: [status("queued"), status("running", "create vm web1"), status("running", "create vm web1"), end])
    outcomes, lines = job.run()
    assert lines == ["name-a: create vm web1", "name-a: start vm web1"]
    assert outcomes == {"a": {"state": "succeeded", "result": end["result"], "error": None, "mark": 7}}
    method, parameters = agent.calls[0]
    assert method == "submit" and parameters["document"]["vms"][0]["cloud_init"] == {"user_data": SECRET}
    expected = {"operation": "op-a", "kind": "apply", "server": "name-a", "check": False, "wait_for_address": 30, "patience": 5, "expected": None}
    assert {name: parameters[name] for name in expected} == expected
    assert [call[1]["since"] for call in agent.calls[1:]] == [0, 1, 1]


def test_all_agents_work_at_the_same_time(job: Job) -> None:
    together = threading.Barrier(3, timeout=30)

    def work(document: Any) -> list[Status]:
        together.wait()
        return [status("succeeded")]

    for name in ("a", "b", "c"):
        job.add(name, work)
    outcomes, dummy = job.run()
    assert {outcome["state"] for outcome in outcomes.values()} == {"succeeded"}


def test_an_agent_that_breaks_off_is_asked_again_for_the_same_operation(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "PAUSE", 0.01)
    made: list[Any] = []
    agent = job.add("a", lambda document: made.append(document) or [status("queued"), status("succeeded")])  # type: ignore[func-returns-value]
    agent.silent = 3
    outcomes, lines = job.run()
    assert outcomes["a"]["state"] == "succeeded" and len(made) == 1
    assert len(lines) == 1 and re.fullmatch(r"name-a: does not answer; tried again until \d\d:\d\d:\d\d UTC", lines[0]), lines
    assert len([call for call in agent.calls if call[0] == "submit"]) >= 3 and {call[1]["operation"] for call in agent.calls} == {"op-a"}


def test_an_agent_that_stays_away_is_told_again_and_again_and_then_what_to_do(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("PAUSE", 0.01), ("TOLD_AGAIN", 0.02), ("RETRIED", 0.3)):
        monkeypatch.setattr(agents, name, seconds)
    job.add("a", lambda document: [status("succeeded")])
    job.agents.pop("a").close()
    outcomes, lines = job.run()
    assert outcomes["a"]["state"] == "unreachable" and "relaunch the job" in outcomes["a"]["error"]["remedy"]
    assert len(lines) > 1 and all("does not answer" in line for line in lines)


def test_one_agent_that_is_gone_does_not_stop_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RETRIED", 0)
    job.add("a", lambda document: [status("succeeded")])
    job.agents.pop("a").close()
    job.add("b", lambda document: [status("succeeded")])
    outcomes, dummy = job.run()
    assert outcomes["a"]["state"] == "unreachable" and outcomes["a"]["error"]["code"] == "unreachable"
    assert outcomes["b"]["state"] == "succeeded"
    told = agents.summary(outcomes, {})
    assert told["servers"] == {"unreachable": 1, "succeeded": 1} and "server name-a" in told["msg"]


def test_an_agent_of_another_server_gets_no_document(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "RETRIED", 0)
    agent = job.add("a", lambda document: [status("succeeded")])
    job.targets["servers"]["b"] = job.targets["servers"].pop("a")
    outcomes, dummy = job.run()
    assert outcomes["b"]["state"] == "unreachable" and agent.calls == []


def test_what_an_agent_refuses_and_what_nobody_foresaw_are_told(job: Job) -> None:
    def refuse(document: Any) -> list[Status]:
        raise Busy("somebody else is at it")

    job.add("a", refuse)
    job.add("b", lambda document: [{"state": "running"}])
    outcomes, dummy = job.run()
    assert outcomes["a"]["error"]["code"] == "busy" and outcomes["a"]["error"]["object"] == "server name-a"
    assert outcomes["b"]["error"]["code"] == "unexpected" and "Please report this" in outcomes["b"]["error"]["remedy"]


def test_the_summary_is_small_and_fails_when_something_has_failed() -> None:
    errors = tuple({"code": "conflict", "message": f"wrong {number}", "object": "vm web1"} for number in range(100))
    outcomes = {"a": status("failed", errors=errors), "b": status("cancelled"), "c": status("succeeded", changed=False)}
    told = agents.summary(outcomes, {"a": "name-a"})
    assert told["changed"] is True and told["servers"] == {"failed": 1, "cancelled": 1, "succeeded": 1}
    assert (
        told["error"]["message"] == "wrong 0"
        and "vm web1 on server name-a: wrong 0" in told["msg"]
        and "and 80 more" in told["msg"]
        and len(json.dumps(told)) < 3000
    )
    good = agents.summary({"c": outcomes["c"]}, {})
    assert good["changed"] is False and "msg" not in good
    assert "msg" in agents.summary({"b": outcomes["b"]}, {})


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"servers": {"a": {}}}'])
def test_targets_that_can_not_be_read_are_refused(text: Any, tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Exception, match="targets_file") as caught:
        agents.read_targets(str(path))
    assert getattr(caught.value, "code", None) == InvalidSpec.code


@pytest.mark.slow
def test_the_playbook_of_the_jobs_writes_the_result_and_tells_little(job: Job, tmp_path: Path) -> None:
    job.add("a", lambda document: [status("queued", "create vm web1"), status("succeeded")])
    job.add("b", lambda document: [status("failed", errors=({"code": "conflict", "message": "is in use", "object": "vm web1"},))])
    job.write()
    (tmp_path / "hosts").write_text("localhost ansible_connection=local\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "DOMUS_"))},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "true",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [str(BIN / "ansible-playbook"), "domus.virt.apply", "-vvv", "-i", "hosts"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "name-a: create vm web1" in done.stdout and "vm web1 on server name-b: is in use" in done.stdout, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr
    result = tmp_path / "result.json"
    assert result.stat().st_mode & 0o777 == 0o600 and list(tmp_path.glob("tmp*")) == []
    assert {name: one["state"] for name, one in json.loads(result.read_text())["servers"].items()} == {"a": "succeeded", "b": "failed"}
