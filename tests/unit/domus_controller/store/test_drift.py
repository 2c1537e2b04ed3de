"""Drift is what the engine itself would call a difference."""

from __future__ import annotations

import copy
from typing import Any, Optional

import pytest
from domus_controller.store.drift import VIEWS, drift
from domus_core.errors import Conflict
from domus_core.model.document import parse_document
from domus_core.model.fields import plain
from domus_core.model.kinds import BY_NAME
from domus_core.model.secrets import MASK
from domus_core.planning.comparison import compare
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domus_core.strategies import entry_of


def parsed(entry: dict[str, Any]) -> Optional[Any]:
    """The VM that a random entry describes, if it is a valid one."""
    try:
        return parse_document({"vms": [entry]}).wanted("vm")[entry["name"]]
    except Exception:
        return None


VMS = entry_of(BY_NAME["vm"].spec).map(parsed).filter(lambda spec: spec is not None)


@given(VMS)
def test_what_agrees_has_no_drift(spec: Any) -> None:
    data = plain(spec)
    assert drift("vm", data, data, data, True) == []
    assert drift("vm", None, data, data, data) == drift("vm", None, None, data, None) == drift("vm", data, None, copy.deepcopy(data), None) == []


@given(VMS, VMS)
def test_it_finds_what_the_engine_would_change(wanted: Any, found: Any) -> None:
    try:
        changes = compare(wanted, found)
    except Conflict:
        return  # a field that only creation sets: the engine stops at the first
    shown = {entry["field"] for entry in drift("vm", plain(wanted), None, plain(found), None)}
    secret = {change.field for change in changes if MASK in (plain(change.before), plain(change.after))}
    assert shown == {change.field for change in changes if change.field != "state" and not change.field.startswith("name")} - secret


@given(VMS, VMS, VMS, VMS, st.sampled_from(["running", "stopped", None]))
def test_every_entry_is_a_difference_and_shows_no_secret(asked: Any, recorded: Any, defined: Any, running: Any, state: Optional[str]) -> None:
    views = [plain(view) for view in (asked, recorded, defined, running)]
    before = copy.deepcopy(views)
    found = drift("vm", *views, state=state)
    assert views == before
    for entry in found:
        assert set(entry) == {"field", *VIEWS}
        assert len({repr(entry[view]) for view in VIEWS}) > 1
        assert MASK not in repr(entry)
    assert len({entry["field"] for entry in found}) == len(found)


@pytest.mark.parametrize(
    ("asked", "recorded", "defined", "running", "wanted"),
    [
        ({"cpus": 2}, {"cpus": 1}, {"cpus": 1}, True, {"cpus": (2, 1, 1, 1)}),
        ({}, {"cpus": 1}, {"cpus": 2}, None, {"cpus": (None, 1, 2, None)}),
        ({}, {}, {"cpus": 2}, {"cpus": 1}, {"cpus": (None, None, 2, 1)}),
        ({}, {}, {"cpus": 2}, None, {}),
        ({"machine": "q35"}, {"machine": "q35"}, {"machine": "pc-q35-7.2"}, True, {}),
        ({"stop_timeout": 5, "exact": True}, {"stop_timeout": 6}, {}, True, {}),
        ({"description": "x"}, {"description": "x"}, {}, True, {"description": ("x", "x", None, None)}),
        ({"description": ""}, {"description": ""}, {}, True, {}),
        ({"vnc": {"password": MASK}}, {"vnc": {"password": "other"}}, {"vnc": {}}, True, {}),
        ({"nics": [{"name": "a", "network": "lan"}]}, None, {"nics": [{"name": "a", "network": "dmz"}]}, None, {"nics[a].network": ("lan", None, "dmz", None)}),
        ({"nics": []}, {"nics": []}, {"nics": [{"name": "b", "network": "lan"}]}, True, {}),
        ({"disks": [{"name": "a", "size": 5}]}, None, {"disks": []}, None, {"disks[a]": ({"name": "a", "size": 5}, None, None, None)}),
        ({"disks": [{"name": "a", "template": "debian"}]}, None, {"disks": [{"name": "a"}]}, None, {}),
    ],
)
def test_examples(asked: Any, recorded: Any, defined: Any, running: Any, wanted: dict[str, Any]) -> None:
    assert {entry["field"]: tuple(entry[view] for view in VIEWS) for entry in drift("vm", asked, recorded, defined, running)} == wanted


@pytest.mark.parametrize(
    ("asked", "recorded", "state", "wanted"),
    [("running", "running", "running", []), ("stopped", "running", "running", ["state"]), (None, "running", "crashed", ["state"]), (None, None, "running", [])],
)
def test_the_run_state_counts_as_measured(asked: Any, recorded: Any, state: str, wanted: list[str]) -> None:
    assert [entry["field"] for entry in drift("vm", {"state": asked}, {"state": recorded}, {}, None, state=state)] == wanted


def test_other_kinds_have_drift_too() -> None:
    assert [one["field"] for one in drift("network", {"name": "lan", "subnet": "192.0.2.0/24"}, None, {"name": "lan", "subnet": "198.51.100.0/24"}, None)] == [
        "subnet"
    ]


GIB = 1 << 30


@pytest.mark.parametrize("memory", [GIB // 2, GIB, 2 * GIB, None])
def test_where_a_balloon_is_just_now_is_no_drift(memory: Optional[int]) -> None:
    spec = {"memory": GIB, "memory_max": 2 * GIB}
    assert drift("vm", {"memory": GIB}, spec, spec, True, measured={"memory": memory}) == []


def test_a_changed_definition_shows_the_memory_that_really_runs() -> None:
    asked = {"memory": GIB}
    (found,) = drift("vm", asked, asked, {"memory": GIB // 2, "memory_max": GIB}, True, measured={"memory": GIB})
    assert found == {"field": "memory", "asked": GIB, "recorded": GIB, "defined": GIB // 2, "running": GIB}


def test_a_vm_without_a_definition_has_drift_if_somebody_wanted_it() -> None:
    spec = {"name": "web1"}
    wanted = [{"field": "name", "asked": "web1", "recorded": None, "defined": None, "running": "web1"}]
    assert drift("vm", spec, None, spec, True, measured={"persistent": False}) == wanted
    assert drift("vm", None, None, spec, True, measured={"persistent": False}) == []
    assert drift("vm", spec, spec, spec, True, measured={"persistent": True}) == []
