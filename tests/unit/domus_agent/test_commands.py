"""`domus-agent` on the server itself, with neither manager nor daemon, on libvirt's test driver."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_agent.__main__ import main, parser
from domus_agent.commands import is_serving
from domus_agent.output import table
from domus_core import owner
from domus_core.libvirt_driver.connection import connect
from domus_core.model.kinds import BY_NAME
from domus_core.verbs import VERBS

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
    yield Server(tmp_path, capsys)
    connection.close()


def test_the_words_are_those_of_the_tables() -> None:
    choices: Any
    (choices,) = [action.choices for action in parser()._actions if action.dest == "command"]
    assert set(choices) == {"serve", "status", "secret", "list", "plan", "apply", "doctor", *VERBS}
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
    assert server.json("stop", "test") == [{"name": "test", "changed": True, "state": "stopped"}]
    code, output, errors = server.run("stop", "nope", "test", "-o", "json")
    assert code == 1 and json.loads(errors)["code"] == "not_found"
    assert json.loads(output)[0]["state"] == "stopped"
    assert server.json("start", "test")[0]["state"] == "running"
    assert server.json("start", "test") == [{"name": "test", "changed": False, "state": "running"}]


def test_plan_apply_and_nothing_left(server: Server) -> None:
    code, output, dummy = server.run("plan", str(server.document))
    assert code == 2 and "+ create vm a" in output
    code, output, errors = server.run("apply", str(server.document))
    assert (code, output.strip(), errors.splitlines()) == (0, "1 objects changed, 0 failed", ["create vm a", "start vm a"])
    assert server.run("plan", str(server.document))[:2] == (0, "nothing to change\n")
    assert server.json("apply", str(server.document))["changed"] is False
    assert server.forced() == []


def test_a_server_with_a_manager_can_be_changed_and_the_manager_hears_of_it(server: Server) -> None:
    owner.mark(str(server.state), "m1", "https://manager:7002")
    assert server.run("plan", str(server.document))[0] == 2
    code, dummy, errors = server.run("apply", str(server.document))
    assert code == 0 and "https://manager:7002" in errors
    assert server.run("apply", str(server.document))[2] == ""
    assert "will be told" in server.run("stop", "a")[2]
    assert server.run("stop", "a")[2] == ""
    assert [(one["site"], one["actions"]) for one in server.forced()] == [("paris", ["create vm a", "start vm a"]), ("default", ["stop vm a"])]


def test_what_can_not_be_reported_is_not_done(server: Server) -> None:
    owner.mark(str(server.state), "m1", "https://manager:7002")
    (server.state / "forced-changes.jsonl").mkdir()
    code, output, errors = server.run("apply", str(server.document))
    assert (code, output) == (1, "") and "must be reported" in errors
    assert [one["name"] for one in server.json("list")] == ["test"]


@pytest.mark.parametrize("document", ["{", '{"vms": [{"name": "a", "memory": "much"}]}', None])
def test_a_bad_document_is_one_error_and_no_traceback(server: Server, document: str) -> None:
    if document is None:
        server.document.unlink()
    else:
        server.document.write_text(document)
    for command in ("plan", "apply"):
        code, output, errors = server.run(command, str(server.document))
        assert (code, output) == (1, "") and errors.startswith("error: ") and "Traceback" not in errors


def test_libvirt_that_is_away_is_one_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = server.directory / "away.yml"
    settings.write_text(yaml.safe_dump({"uri": "qemu:///system?socket=/nowhere/libvirt-sock", "directory": str(server.directory / "agent")}))
    monkeypatch.setenv("DOMUS_AGENT_CONFIG", str(settings))
    for words in (("list",), ("start", "test"), ("plan", str(server.document))):
        code, dummy, errors = server.run(*words)
        assert code == 1 and "libvirt does not answer" in errors
    assert "does not answer" in server.json("status")["libvirt"]


def test_a_table_keeps_control_characters_from_the_terminal() -> None:
    text = table([{"name": "a\x1b[2J", "on": True}, {"name": "b", "on": None}])
    assert text == "NAME      ON\na\\x1b[2J  yes\nb         -"
