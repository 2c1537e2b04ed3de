"""`domus-agent` on the server itself, with neither manager nor daemon, on libvirt's test driver."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_agent import commands, contact, service
from domus_agent.__main__ import main, parser
from domus_agent.commands import is_serving
from domus_agent.output import table
from domus_core import owner
from domus_core.errors import Unreachable
from domus_core.libvirt_driver.connection import connect
from domus_core.model.kinds import BY_NAME
from domus_core.verbs import NOT_MANAGED, VERBS

DOCUMENT = {"site": "paris", "vms": [{"name": "a", "memory": "64MiB", "state": "running"}]}


class Server:
    """A server with settings of its own, and the command on it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.state.mkdir()
        self.document = directory / "site.json"
        self.document.write_text(json.dumps(DOCUMENT))
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a command."""
        code = main(list(words))
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *words: str) -> Any:
        """The output of a command that must do well."""
        code, output, errors = self.run(*words, "-o", "json")
        assert (code, errors) == (0, "")
        return json.loads(output)

    def forced(self) -> list[dict[str, Any]]:
        """What will be reported to the manager."""
        path = self.state / "forced-changes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Server]:
    settings = {"directory": str(tmp_path / "agent"), "state_directory": str(tmp_path / "state"), "uri": "test:///default"}
    (tmp_path / "agent.yml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("DOMUS_AGENT_CONFIG", str(tmp_path / "agent.yml"))
    connection = connect("test:///default")  # while it is open, the test driver keeps its domains
    made = Server(tmp_path, capsys)
    assert made.run("secret")[0] == 0  # sets the agent up
    yield made
    connection.close()


def test_the_words_are_those_of_the_tables() -> None:
    choices: Any
    (choices,) = [action.choices for action in parser()._actions if action.dest == "command"]
    assert set(choices) == {"serve", "status", "secret", "list", "plan", "apply", "doctor", "pool", *VERBS}
    assert {choices[verb].description for verb in VERBS} == {verb.doc for verb in VERBS.values()}


def test_status_and_the_secret_of_a_free_server(server: Server) -> None:
    told = server.json("status")
    assert (told["manager"], told["agent"], told["libvirt"][:7], told["operations_under_way"]) == (None, "not running", "answers", 0)
    code, output, dummy = server.run("secret")
    fingerprint, secret = output.strip().split(":")
    assert (code, len(fingerprint), len(secret)) == (0, 64, 32)
    assert server.json("secret") == {"secret": output.strip()}
    assert secret not in server.run("status")[1]


def test_an_agent_that_runs_holds_its_lock(tmp_path: Path) -> None:
    assert not is_serving(str(tmp_path))
    with (tmp_path / "agent.lock").open("w") as file:
        assert not is_serving(str(tmp_path))
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_serving(str(tmp_path))


@pytest.mark.parametrize("kind", list(BY_NAME))
def test_every_kind_can_be_listed(server: Server, kind: str) -> None:
    assert all(one["kind"] == kind for one in server.json("list", kind))
    assert server.run("list", kind)[0] == 0


def test_list_shows_vms_for_people(server: Server) -> None:
    code, output, dummy = server.run("list")
    assert code == 0
    assert [line.split() for line in output.splitlines()] == [
        ["NAME", "STATE", "CPUS", "MEMORY", "ADDRESSES", "MANAGED"],
        ["test", "running", "2", "2GiB", "no"],
    ]


def test_verbs_are_idempotent_and_one_failure_stops_no_other(server: Server) -> None:
    assert server.json("stop", "test") == [{"name": "test", "changed": True, "state": "stopped", "note": NOT_MANAGED}]
    code, output, errors = server.run("stop", "nope", "test", "-o", "json")
    assert code == 1 and json.loads(errors)["code"] == "not_found"
    assert json.loads(output)[0]["state"] == "stopped"
    assert server.json("start", "test")[0]["state"] == "running"
    assert server.json("start", "test") == [{"name": "test", "changed": False, "state": "running", "note": NOT_MANAGED}]
    assert server.run("start", "test")[2] == f"vm test {NOT_MANAGED}\n"


def test_plan_apply_and_nothing_left(server: Server) -> None:
    code, output, dummy = server.run("plan", "-f", str(server.document))
    assert code == 2 and "+ create vm a" in output
    code, output, errors = server.run("apply", "-f", str(server.document))
    assert (code, output.strip(), errors.splitlines()) == (0, "1 object changed, 0 failed", ["create vm a", "start vm a"])
    assert server.run("plan", "-f", str(server.document))[:2] == (0, "nothing to change\n")
    assert server.json("apply", "-f", str(server.document))["changed"] is False
    assert server.forced() == []


def test_a_server_with_a_manager_can_be_changed_and_the_manager_hears_of_it(server: Server) -> None:
    owner.mark(str(server.state), "m1", "https://manager:7002")
    assert server.run("plan", "-f", str(server.document))[0] == 2
    code, dummy, errors = server.run("apply", "-f", str(server.document))
    assert code == 0 and "https://manager:7002" in errors
    assert server.run("apply", "-f", str(server.document))[2] == ""
    assert "will be told" in server.run("stop", "a")[2]
    assert server.run("stop", "a")[2] == ""
    assert [(one["site"], one["actions"]) for one in server.forced()] == [("paris", ["create vm a", "start vm a"]), ("default", ["stop vm a"])]


def test_what_can_not_be_reported_is_not_done(server: Server) -> None:
    owner.mark(str(server.state), "m1", "https://manager:7002")
    (server.state / "forced-changes.jsonl").mkdir()
    code, output, errors = server.run("apply", "-f", str(server.document))
    assert (code, output) == (1, "") and "must be reported" in errors
    assert [one["name"] for one in server.json("list")] == ["test"]


@pytest.mark.parametrize("document", ["{", '{"vms": [{"name": "a", "memory": "much"}]}', None])
def test_a_bad_document_is_one_error_and_no_traceback(server: Server, document: str) -> None:
    if document is None:
        server.document.unlink()
    else:
        server.document.write_text(document)
    for command in ("plan", "apply"):
        code, output, errors = server.run(command, "-f", str(server.document))
        assert (code, output) == (1, "") and errors.startswith("error: ") and "Traceback" not in errors


def test_libvirt_that_is_away_is_one_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = server.directory / "away.yml"
    settings.write_text(yaml.safe_dump({"uri": "qemu:///system?socket=/nowhere/libvirt-sock", "directory": str(server.directory / "agent")}))
    monkeypatch.setenv("DOMUS_AGENT_CONFIG", str(settings))
    for words in (("list",), ("start", "test"), ("plan", "-f", str(server.document))):
        code, dummy, errors = server.run(*words)
        assert code == 1 and "libvirt does not answer" in errors
    assert "does not answer" in server.json("status")["libvirt"]


def test_a_table_keeps_control_characters_from_the_terminal() -> None:
    text = table([{"name": "a\x1b[2J", "on": True}, {"name": "b", "on": None}])
    assert text == "NAME      ON\na\\x1b[2J  yes\nb         -"


@pytest.mark.parametrize("words", [("status",), ("list",), ("stop", "test"), ("plan", "-f", "x"), ("apply", "-f", "x", "--server", "s0"), ("doctor",)])
def test_only_serve_and_secret_set_an_agent_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Any) -> None:
    settings = {"directory": str(tmp_path / "agent"), "state_directory": str(tmp_path / "state"), "uri": "test:///default"}
    (tmp_path / "agent.yml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("DOMUS_AGENT_CONFIG", str(tmp_path / "agent.yml"))
    code = main(list(words))
    told = "".join(capsys.readouterr())
    assert "no agent has been set up in" in told and (words == ("doctor",) or (code == 1 and f"{tmp_path}/agent." in told and "DOMUS_AGENT_CONFIG" in told))
    assert [path.name for path in tmp_path.iterdir()] == ["agent.yml"]


@pytest.mark.parametrize("words", [[], ["nonsense"], ["plan"], ["plan", "site.yml"], ["stop"]])
def test_wrong_usage_is_64_and_not_a_plan_with_changes(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 64


def test_a_guest_that_does_not_stop_is_answered_with_this_commands_option(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*dummy: Any, **rest: Any) -> None:
        raise Unreachable("its guest did not shut down within 1 s", field="state", remedy="Look at its console; force_stop: true powers it off")

    monkeypatch.setattr(commands, "carry_out_verb", refuse)
    code, dummy, errors = server.run("stop", "test", "--timeout", "1")
    assert code == 1 and "--force powers it off" in errors and "force_stop" not in errors


def test_a_manager_that_is_silent_is_told(server: Server) -> None:
    identity = server.directory / "agent/identity/identity.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "manager": "m1", "url": "https://manager:7002", "name": "s0"}))
    contact.note(str(server.directory / "agent"))
    with (server.directory / "agent/agent.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert server.json("status")["manager_problem"] is None
        os.utime(server.directory / "agent" / contact.FILE, (1_800_000_000, 1_800_000_000 - 365 * 86400))
        told = "the manager at https://manager:7002 does not answer since 2026-01-15T08:00:00Z"
        assert server.json("status")["manager_problem"] == told and told in server.run("status")[1]
        assert {"check": "manager", "verdict": "warn", "message": told}.items() <= server.json("doctor")[2].items()


def test_what_the_doctor_says_fits_the_terminal(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, output, dummy = server.run("doctor")
    assert code == 0 and all(len(line) <= 80 for line in output.splitlines()), output
    assert any(line.split()[:2] == ["warn", "agent"] for line in output.splitlines()) and "-> " in output


@pytest.mark.parametrize("systemd, told", [("/", "systemctl status domus-agent"), ("/nowhere", "End that one")])
def test_systemctl_is_named_where_systemd_runs(monkeypatch: pytest.MonkeyPatch, systemd: str, told: str) -> None:
    monkeypatch.setattr(service, "SYSTEMD", systemd)
    assert service.advice("status", "End that one") == told
