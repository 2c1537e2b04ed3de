"""The agent's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domus_agent.config import AgentConfig, config_from, load_config
from domus_core.errors import InvalidSpec


def test_settings_come_from_the_file_that_the_environment_names(tmp_path: Path) -> None:
    path = tmp_path / "agent.yml"
    path.write_text("port: 7\nheartbeat: 3\n")
    assert load_config({"DOMUS_AGENT_CONFIG": str(path)}) == AgentConfig(port=7, heartbeat=3.0)
    path.write_text("")
    assert load_config({"DOMUS_AGENT_CONFIG": str(path)}) == AgentConfig()


@pytest.mark.parametrize(
    "wrong",
    [{"prot": 1}, {"port": "8899"}, {"port": 70000}, {"port": True}, {"heartbeat": 0}, {"heartbeat": float("nan")}, {"uri": ""}, {"uri": None}, [], "text"],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidSpec):
        config_from(wrong, "agent.yml")


@pytest.mark.parametrize("text", [None, "{", "a: [", "\0"])
def test_a_file_that_can_not_be_read_is_told(tmp_path: Path, text: Any) -> None:
    path = tmp_path / "agent.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidSpec) as caught:
        load_config({"DOMUS_AGENT_CONFIG": str(path)})
    assert caught.value.object == str(path)
