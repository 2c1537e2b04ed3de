"""`python -m domus_core`: what it prints and returns for a document on a saved snapshot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from domus_core.__main__ import main

from tests.scenarios.harness import FOLDER, load_scenario

ROOT = Path(__file__).parents[3]


def split(name: str, folder: Path) -> tuple[str, str]:
    """The document (as YAML) and the snapshot of a scenario as two files."""
    scenario = load_scenario(FOLDER / f"{name}.json")
    import yaml

    (folder / "wanted.yml").write_text(yaml.safe_dump(scenario["wanted"]))
    (folder / "snapshot.json").write_text(json.dumps(scenario["snapshot"]))
    return str(folder / "wanted.yml"), str(folder / "snapshot.json")


def test_as_a_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins" / "module_utils")}
    done = subprocess.run([sys.executable, "-m", "domus_core", *split("limits-raised", tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == ""
    assert done.stdout.splitlines()[0] == "~ update vm web1  (it differs)" and done.stdout.splitlines()[-1] == "1 object to change, 1 step"


def test_nothing_to_change_returns_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(split("unchanged", tmp_path))) == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_a_scenario_file_serves_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FOLDER / "new-site.json")]) == 2
    assert "+ create vm web1" in capsys.readouterr().out


def test_json_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FOLDER / "disk-grown-live.json"), "--output", "json"]) == 2
    printed = json.loads(capsys.readouterr().out)
    assert [(step["action"], step["kind"], step["name"]) for step in printed["steps"]] == [("update", "vm", "web1")]
    assert printed["steps"][0]["changes"][0]["after"] == 20 << 30


def test_a_refusal_returns_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FOLDER / "disk-shrunk.json")]) == 1
    assert "can not shrink" in capsys.readouterr().err
    assert main([str(FOLDER / "disk-shrunk.json"), "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().err)["code"] == "conflict"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b"a: 1", b"\x00"])
def test_unreadable_files_return_one(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(content)
    wanted, snapshot = split("unchanged", tmp_path)
    assert main([str(tmp_path / "x")]) == 1
    assert main([wanted, str(tmp_path / "x")]) == 1
    assert main([wanted, str(tmp_path / "missing")]) == 1
    assert main([str(tmp_path), snapshot]) == 1
    assert capsys.readouterr().err.count("error: ") == 4


def test_only_one_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = tmp_path / "wanted.json"
    wanted.write_text(json.dumps({"vms": [{"name": "here", "server": "srv1"}, {"name": "there", "server": "srv2"}]}))
    assert main([str(wanted), split("unchanged", tmp_path)[1], "--server", "srv1"]) == 2
    printed = capsys.readouterr().out
    assert "vm here" in printed and "vm there" not in printed
