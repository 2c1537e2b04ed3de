"""What the tests of the scenarios do with one: plan it, apply it, break it off after each step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from domus_core.documents import load_document
from domus_core.engine import Report
from domus_core.fake_driver.simulation import simulate
from domus_core.model.document import Site, parse_document
from domus_core.model.snapshot import Snapshot, snapshot_from_dict
from domus_core.planning.reconcile import Plan, plan
from domus_core.planning.steps import UPDATE, Step
from domus_core.rendering import SIGNS, render_change

FOLDER = Path(__file__).parent


def scenario_files() -> list[Path]:
    """All scenarios."""
    return sorted(FOLDER.glob("*.json"))


def load_scenario(path: Path) -> dict[str, Any]:
    """The data of a scenario file."""
    data: dict[str, Any] = load_document(path.read_text(encoding="utf-8"), name=path.name)
    return data


def site_of(scenario: dict[str, Any]) -> Site:
    """The checked document of a scenario."""
    return parse_document(scenario["wanted"])


def snapshot_of(scenario: dict[str, Any]) -> Snapshot:
    """The server of a scenario."""
    return snapshot_from_dict(json.loads(json.dumps(scenario["snapshot"])))


def plan_lines(planned: Plan) -> list[str]:
    """A plan as a scenario writes it: one line a step, below an update one line a change."""
    lines = []
    for step in planned.steps:
        lines.append(f"{SIGNS.get(step.action, '~')} {step.action} {step.name}")
        if step.action == UPDATE:
            lines += [f"    {render_change(change)}" for change in step.changes]
    return lines


def take(snapshot: Snapshot, steps: tuple[Step, ...], site: str) -> Snapshot:
    """The server after the steps."""
    for step in steps:
        snapshot = simulate(snapshot, step, site)
    return snapshot


def end_of(snapshot: Snapshot) -> dict[str, Any]:
    """A server without what only counts how often it was changed: where two ways of getting there must meet."""
    return {
        f"{kind} {key}": (_by_name(found.spec), _uncounted(found.state), _by_name(found.running), _by_name(found.recorded))
        for kind, entries in snapshot.objects.items()
        for key, found in entries.items()
    }


def _uncounted(state: Any) -> Any:
    return dataclasses.replace(state, generation=0) if hasattr(state, "generation") else state


def _by_name(value: Any) -> Any:
    """Fields and devices in any order."""
    if dataclasses.is_dataclass(value):
        return {name: _by_name(entry) for name, entry in vars(value).items() if entry is not None}
    if isinstance(value, tuple) and value and hasattr(value[0], "name"):
        return {entry.name: _by_name(entry) for entry in value}
    return value


def assert_survives_interruption(site: Site, snapshot: Snapshot) -> None:
    """Every prefix of the plan, planned again, ends where the whole plan ends; there, nothing is left to do."""
    steps = plan(site, snapshot).steps
    end = take(snapshot, steps, site.name)
    assert plan(site, end).steps == ()
    for taken in range(len(steps)):
        middle = take(snapshot, steps[:taken], site.name)
        rest = plan(site, middle).steps
        assert end_of(take(middle, rest, site.name)) == end_of(end), f"after {taken} of {len(steps)} steps: {[f'{step.action} {step.name}' for step in rest]}"


def told(report: Report) -> list[dict[str, Any]]:
    """What a report says that check mode and apply must agree on."""
    names = ("kind", "name", "changed", "actions", "changes", "restart_required", "error")
    return [{name: result.get(name) for name in names} for result in report.as_dict()["objects"]]
