"""`domus-agent pool`: what a person reads on a member, and the exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from domus_agent import pool_commands
from domus_agent.__main__ import main
from domus_core.cluster.corosync_state import read_links, read_votes
from domus_core.cluster.fence_tests import FenceTest
from domus_core.cluster.pool_document import PoolDocument
from domus_core.cluster.pool_state import pool_state
from domus_core.cluster.pool_status import status_from
from domus_core.cluster.waking import SwitchedOn

SAMPLES = Path(__file__).parents[1] / "domus_core" / "cluster" / "samples"


def show(monkeypatch: pytest.MonkeyPatch, sample: str) -> None:
    """This server is h1 of the pool in the sample, and has tested its fence device once."""
    text = {name: (SAMPLES / f"{sample}-{name}").read_text() for name in ("crm_mon.xml", "quorum.txt", "links.txt")}
    links = read_links(text["links.txt"], {"h1": 1, "h2": 2, "h3": 3})
    state = pool_state("pool1", "h1", status_from(text["crm_mon.xml"].encode()), read_votes(text["quorum.txt"]), links)
    monkeypatch.setattr(pool_commands, "read_pool_state", lambda: state)
    monkeypatch.setattr(pool_commands, "recall", lambda directory: [FenceTest("power", "h2", 0.0, "on"), FenceTest("power", "h3", 0.0, None, "no route")])


def test_a_healthy_pool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show(monkeypatch, "healthy")
    assert main(["pool", "status"]) == 0
    said = capsys.readouterr().out
    for text in ("pool1", "3 of 3", "h2      online", "10.213.5.11", "power", "no route", "1970-01-01T00:00:00Z", "vm0  h2"):
        assert text in said
    assert "->" not in said


def test_what_is_wrong_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show(monkeypatch, "no-quorum")
    assert main(["pool", "status"]) == 1
    said = capsys.readouterr().out
    assert "1 of 3" in said and "have no quorum" in said and "-> Mend its fence device" in said
    assert main(["pool", "status", "-o", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["quorate"] is False and len(told["problems"]) == 4 and told["fence_tests"][1]["problem"] == "no route"


def test_a_server_of_no_pool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pool_commands, "read_pool_state", lambda: None)
    assert main(["pool", "status"]) == 1 and "in no pool" in capsys.readouterr().err


def test_another_member_is_switched_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(pool_commands, "power_on", lambda own, server: asked.append(server) or [SwitchedOn("ipmi")])
    assert main(["pool", "power-on", "h3", "-o", "json"]) == 0
    assert asked == ["h3"] and json.loads(capsys.readouterr().out) == {"devices": [{"device": "ipmi", "problem": None}]}


def test_a_failed_fence_test_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tests = [FenceTest("power", "h2", 0.0, "on")]
    monkeypatch.setattr(pool_commands, "ask_devices", lambda directory, own: tests)
    monkeypatch.setattr(pool_commands, "cut_power", lambda directory, own, server: [FenceTest("power", server, 0.0, "on", None, True)])
    assert main(["pool", "fence-test"]) == 0
    tests.append(FenceTest("power", "h3", 0.0, None, "no route"))
    assert main(["pool", "fence-test"]) == 1 and "no route" in capsys.readouterr().out
    assert main(["pool", "fence-test", "--cut", "h3", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["tests"][0]["cut"] is True


def test_a_member_is_made_by_what_comes_on_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, bool]] = []

    def realize(document: PoolDocument, applies: bool) -> list[str]:
        asked.append((document.pool.name, applies))
        return ["Corosync started"]

    monkeypatch.setattr(pool_commands, "realize", realize)
    document = {"pool": {"name": "rack1", "members": [{"name": "h1", "addresses": ["192.0.2.1"]}]}, "applies": True}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(document)))
    assert main(["pool", "realize", "-o", "json", "-f", "-"]) == 0
    assert asked == [("rack1", True)] and json.loads(capsys.readouterr().out) == {"changes": ["Corosync started"]}


def test_a_member_leaves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pool_commands, "resign", lambda: ["Pacemaker stopped"])
    monkeypatch.setattr(pool_commands, "stop_member", lambda check: ["Pacemaker stopped"])
    assert main(["pool", "leave", "-o", "json"]) == 0 and main(["pool", "leave", "-o", "json", "--check"]) == 2


def test_a_fence_test_for_the_agent_tells_a_failure_by_its_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pool_commands, "ask_devices", lambda directory, own: [FenceTest("power", "h3", 0.0, None, "no route")])
    assert main(["pool", "fence-test", "--report", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["tests"][0]["problem"] == "no route"
