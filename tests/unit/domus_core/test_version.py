"""One version, wherever it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from domus_cli.__main__ import main
from domus_core.version import VERSION, is_older

ROOT = Path(__file__).resolve().parents[3]


def test_the_collection_and_the_distribution_have_the_same() -> None:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None and found[1] == VERSION == yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]


def test_the_command_tells_it_wherever_it_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert VERSION in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [("0.1.0", "0.2.0", True), ("0.2.0", "0.2.0", False), ("0.10.0", "0.9.1", False), ("1.0rc1", "1.0.1", True), (None, "1.0", False), ("x", "1.0", False)],
)
def test_which_version_is_older(version: object, than: str, older: bool) -> None:
    assert is_older(version, than) is older
