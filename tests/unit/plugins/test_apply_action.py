"""The control node's half of `apply`: what it refuses before a server hears of it."""

from __future__ import annotations

import datetime
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / ".collections"))
action = importlib.import_module("ansible_collections.domus.virt.plugins.action.apply")


def code_of(call: Any, *arguments: Any) -> str:
    """The message with which the call refuses."""
    with pytest.raises(action.InvalidSpec) as caught:
        call(*arguments)
    return str(caught.value)


def test_a_document_becomes_the_same_json() -> None:
    document = {"site": "paris", "vms": [{"name": "web1", "cpus": 2, "tags": [], "description": "ä {{ x }}", "autostart": None}]}
    assert json.loads(action.json_of(document)) == document


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 1), b"bytes", {"a", "b"}, float, object()])
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    assert "Put it in quotes" in code_of(action.json_of, {"vms": [{"name": value}]})


def test_aliases_do_not_fill_the_memory() -> None:
    bomb: Any = ["lol"] * 10
    for _level in range(9):
        bomb = [bomb] * 10
    assert "aliases" in code_of(action.json_of, {"vms": bomb})


def test_a_document_that_aliases_nest_too_deep_is_refused() -> None:
    deep: Any = []
    for _level in range(100_000):
        deep = [deep]
    assert "too deep" in code_of(action.json_of, {"vms": deep})


def test_a_value_that_is_repeated_is_written_out_each_time() -> None:
    shared = {"name": "lan"}
    assert json.loads(action.json_of({"a": shared, "b": [shared, shared]})) == {"a": shared, "b": [shared, shared]}


def test_a_document_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless += [endless] * 1000
    assert "aliases" in code_of(action.json_of, {"vms": endless})


@pytest.mark.parametrize("document", [None, [], "text", {"vms": None}, {"vms": "text"}, {"vms": [None, 1, {"name": ["x"], "server": {}}]}, {"vms": {"a": 1}}])
def test_a_malformed_document_is_left_to_the_engine(document: Any) -> None:
    assert action._check_servers(document, ["one", "two"]) == []


def test_one_host_needs_no_server_and_several_do() -> None:
    vms = {"vms": [{"name": "a", "server": "one"}, {"name": "b"}, {"name": "c", "server": "elsewhere"}]}
    assert action._check_servers(vms, ["one"]) == ["elsewhere"]
    assert "vm b server: 1 VMs" in code_of(action._check_servers, vms, ["one", "two"])
