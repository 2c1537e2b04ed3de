"""Every scenario: its plan or refusal, its interruption after each step, and check mode against apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domus_core.engine import apply
from domus_core.errors import DomusError
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.snapshot import snapshot_as_dict, snapshot_from_dict
from domus_core.planning.reconcile import plan

from tests.scenarios.harness import assert_survives_interruption, end_of, load_scenario, plan_lines, scenario_files, site_of, snapshot_of, told

FILES = {path.stem: path for path in scenario_files()}


@pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())
def test_scenario(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.keys() - {"about", "wanted", "snapshot"} in ({"plan"}, {"refused"})
    if "refused" in scenario:
        _assert_refused(scenario)
    else:
        _assert_planned(scenario)


def _assert_refused(scenario: dict[str, Any]) -> None:
    """The refusal says code, object, field, value and remedy; nothing is touched, also not in check mode."""
    driver = FakeDriver(snapshot_of(scenario))
    for check in (True, False):
        with pytest.raises(DomusError) as refusal:
            apply(site_of(scenario), driver, check=check)
        told_error = refusal.value.as_dict()
        told_error.pop("errors", None)
        assert told_error == scenario["refused"]
    assert driver.taken == []


def _assert_planned(scenario: dict[str, Any]) -> None:
    site, snapshot = site_of(scenario), snapshot_of(scenario)
    planned = plan(site, snapshot)
    assert plan_lines(planned) == scenario["plan"]
    assert_survives_interruption(site, snapshot)
    driver = FakeDriver(snapshot)
    predicted = apply(site, driver, check=True)
    assert driver.taken == []
    applied = apply(site, driver)
    assert told(predicted) == told(applied)
    assert applied.changed == bool(scenario["plan"])
    assert driver.taken == list(planned.steps) or sorted(map(repr, driver.taken)) == sorted(map(repr, planned.steps))
    again = apply(site, driver)
    assert not again.changed and not apply(site, driver, check=True).changed
    assert end_of(snapshot_from_dict(snapshot_as_dict(driver.snapshot))) == end_of(driver.snapshot)
