"""Plans and changes as text: one line each, whatever the values are."""

from __future__ import annotations

from typing import Any

import pytest
from domus_core.model.fields import LIVE, RESTART
from domus_core.model.secrets import MASK, Secret
from domus_core.model.vm_devices import DiskSpec
from domus_core.planning.reconcile import Plan
from domus_core.planning.steps import Change, Step
from domus_core.rendering import render_change, render_diff, render_plan, render_value

from tests.scenarios.harness import FOLDER, load_scenario, site_of, snapshot_of

DISK = DiskSpec(name="root", size=10 << 30)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("memory", 2 << 30, "2GiB"),
        ("disks[a].size", 1536 << 20, "1536MiB"),
        ("memory", 1000, "1000"),
        ("memory", None, "(none)"),
        ("cpus", 2, "2"),
        ("autostart", True, "true"),
        ("description", "front end", "front end"),
        ("description", "two\nlines", '"two\\nlines"'),
        ("description", "\x1b[31m", '"\\u001b[31m"'),
        ("description", "", ""),
        ("tags", ("a", "b"), '["a", "b"]'),
        ("vnc.password", Secret("canary"), MASK),
        ("disks[root]", DISK, '{"name": "root", "size": "10GiB"}'),
    ],
)
def test_a_value(field: str, value: Any, shown: str) -> None:
    assert render_value(field, value) == shown


def test_a_change() -> None:
    assert render_change(Change("cpus", 1, 2, LIVE)) == "cpus: 1 -> 2"
    assert render_change(Change("cpus_max", 1, 2, RESTART)) == "cpus_max: 1 -> 2  (at the next restart)"
    assert render_change(Change("cpus", None, 2, LIVE)) == "cpus: 2"
    assert render_change(Change("disks[root]", DISK, None, LIVE)).endswith(" -> (none)")


def test_a_whole_plan() -> None:
    from domus_core.planning.reconcile import plan

    scenario = load_scenario(FOLDER / "network-and-its-vm-deleted.json")
    lines = render_plan(plan(site_of(scenario), snapshot_of(scenario))).splitlines()
    assert lines[0] == "- kill vm web1  (it is to be absent)" and lines[-1] == "2 objects to change, 3 steps"
    assert render_plan(Plan("paris", ())) == "nothing to change"


def test_no_value_breaks_a_line() -> None:
    change = Change("description", "a\nb", "c\u2028d\re\x00", LIVE)
    step = Step("update", "vm", "a", None, (change,), "it differs")
    assert len(render_plan(Plan("paris", (step,))).splitlines()) == 3


def test_a_diff_holds_both_sides() -> None:
    diff = render_diff([Change("cpus", 1, 2, LIVE), Change("tags", None, ("a",), LIVE), Change("disks[root]", DISK, None, LIVE)])
    assert diff == {"before": 'cpus: 1\ndisks[root]: {"name": "root", "size": "10GiB"}\n', "after": 'cpus: 2\ntags: ["a"]\n'}
