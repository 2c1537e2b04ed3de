"""The manager's configuration is checked as a whole, and a mistake is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from domus_controller.config import LEAST, ManagerConfig, load_config, parse_config
from domus_core.errors import InvalidSpec


def test_a_file_gives_its_values_and_the_defaults_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manager.yml"
    file.write_text("directory: /srv/domus\nrun_directory: /run/other\nurl: https://manager.example:7002/\njob_limit: 8\n")
    wanted = dataclasses.replace(
        ManagerConfig(),
        directory=Path("/srv/domus"),
        run_directory=Path("/run/other"),
        socket=Path("/run/other/manager.sock"),
        runner_socket=Path("/run/other/runner.sock"),
        url="https://manager.example:7002",
        job_limit=8,
    )
    assert load_config(file) == wanted
    monkeypatch.setenv("DOMUS_MANAGER_CONFIG", str(file))
    assert load_config() == wanted
    file.write_text("")
    assert load_config() == ManagerConfig()


def test_a_named_file_must_be_there_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMUS_MANAGER_CONFIG", str(tmp_path / "none.yml"))
    with pytest.raises(InvalidSpec, match="none.yml"):
        load_config()
    for content in (b"a: [", b"\xff\xfe\x00", b"- 1", b"!!python/object:os.system x"):
        (tmp_path / "bad.yml").write_bytes(content)
        with pytest.raises(InvalidSpec):
            load_config(tmp_path / "bad.yml")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"colour": 1}, "colour"),
        ({"job_limit": 0}, "job_limit"),
        ({"job_limit": "4"}, "job_limit"),
        ({"job_limit": True}, "job_limit"),
        ({"web_port": 70000}, "web_port"),
        ({"directory": "relative"}, "directory"),
        ({"directory": ""}, "directory"),
        ({"socket": "/a\0b"}, "socket"),
        ({"site": None}, "site"),
        ({"url": "http://manager.example"}, "url"),
        ({7: 1}, "7"),
    ],
)
def test_a_mistake_is_named(data: dict[Any, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_config(data)
    assert caught.value.field == field


def test_every_number_has_its_limits() -> None:
    assert set(LEAST) == {field.name for field in dataclasses.fields(ManagerConfig) if isinstance(field.default, int)}
