"""Saved snapshots: the same in any layout, one object a line, damaged ones refused."""

from __future__ import annotations

import json

import pytest
from domus_core.errors import InvalidSpec
from domus_core.model.document import parse_document
from domus_core.model.snapshot import Snapshot, snapshot_as_dict, snapshot_from_dict
from domus_core.planning.reconcile import plan
from domus_core.snapshots import dump_snapshot, load_snapshot

from tests.scenarios.harness import end_of, load_scenario, scenario_files, snapshot_of

SCENARIOS = [load_scenario(path) for path in scenario_files()]


def test_any_layout_holds_the_same() -> None:
    for scenario in SCENARIOS:
        snapshot = snapshot_of(scenario)
        for text in (dump_snapshot(snapshot), json.dumps(snapshot_as_dict(snapshot)), json.dumps(snapshot_as_dict(snapshot), indent=1)):
            loaded = load_snapshot(text)
            assert end_of(loaded) == end_of(snapshot)
            assert (loaded.server, loaded.files) == (snapshot.server, snapshot.files)
            assert {kind: list(entries) for kind, entries in loaded.objects.items() if entries} == {
                kind: list(entries) for kind, entries in snapshot.objects.items() if entries
            }
            assert [found.fingerprint for _, found in loaded.all("vm")] == [found.fingerprint for _, found in snapshot.all("vm")]


def test_every_object_has_a_line() -> None:
    snapshot = max((snapshot_of(scenario) for scenario in SCENARIOS), key=lambda one: sum(len(entries) for entries in one.objects.values()))
    lines = dump_snapshot(snapshot).splitlines()
    for kind, entries in snapshot.objects.items():
        assert f'"{kind}": {{' in lines
        for key in entries:
            assert sum(line.startswith(f"{json.dumps(key)}: {{") and len(line) > 40 for line in lines) >= 1


def test_objects_are_restored_when_they_are_looked_at() -> None:
    snapshot = next(snapshot_of(scenario) for scenario in SCENARIOS if len(scenario["snapshot"]["objects"].get("vm", {})) == 1)
    text = dump_snapshot(snapshot).replace('"running": true', '"running": 7')
    loaded = load_snapshot(text)
    assert list(loaded.objects["vm"]) == list(snapshot.objects["vm"]) and "x" not in loaded.objects["vm"]
    assert loaded.find("vm", "x") is None and loaded.find("x", "y") is None
    with pytest.raises(InvalidSpec) as caught:
        loaded.find("vm", next(iter(loaded.objects["vm"])))
    assert "damaged" in caught.value.message and caught.value.remedy


def test_what_runs_and_what_is_defined_stay_one_object() -> None:
    """Comparing them costs nothing when there is no difference."""
    for scenario in SCENARIOS:
        for _, found in load_snapshot(dump_snapshot(snapshot_of(scenario))).all("vm"):
            assert found.running is None or found.running is found.spec or found.running != found.spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        "1",
        "null",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "server": {}, "objects": []}',
        '{"format": 1, "server": [], "objects": {}}',
        '{"format": 1, "server": {}, "objects": {"x": {"y": {}}}}',
    ]
    + [
        '{"format": 1, "server": {}, "objects": {"vm": {"a": {}}}}',
        '{"format": 1, "server": {}, "objects": {"vm": {"a": {"spec": {"disks": 5}}}}}',
        '{"format": 1, "server": {}, "objects": {}, "files": {"a": {"x": 1}}}',
        "[" * 100_000,
    ]
    + [
        '{"format": 1, "server": {}, "files": {}, "objects": {\n"vm": {\n"a": 5\n}\n}}\n',
        '{"format": 1, "server": {}, "files": {}, "objects": {\n"vm": 5\n}}\n',
        '{"format": 1, "server": {}, "files": {}, "objects": {\nx\n}}\n',
    ],
)
def test_a_damaged_snapshot_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        plan(parse_document({"vms": [{"name": "a"}]}), load_snapshot(text))
    assert caught.value.object in ("snapshot", "vm a")


def test_what_a_newer_version_wrote_is_left_out() -> None:
    data = {
        "format": 1,
        "server": {"virtualization": "kvm", "new": 1},
        "objects": {"vm": {"a": {"spec": {"name": "a", "new": 1}, "state": {"uuid": "u", "new": 1}}}},
    }
    found = snapshot_from_dict(data).find("vm", "a")
    assert found is not None and vars(found.spec) == {"name": "a"} and found.state.uuid == "u"


def test_an_empty_server_is_saved_too() -> None:
    empty = Snapshot(snapshot_of(SCENARIOS[0]).server, {})
    assert load_snapshot(dump_snapshot(empty)) == empty
