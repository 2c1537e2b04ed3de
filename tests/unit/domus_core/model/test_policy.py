"""Policies as data: what they mean for the planners."""

from __future__ import annotations

from typing import Any

import pytest
from domus_core.model.fields import fields_of, parse_spec
from domus_core.model.policy import DPM_THRESHOLD, PolicySpec, thresholds, weights


def policy(**given: Any) -> PolicySpec:
    problems: list[Any] = []
    made = parse_spec(PolicySpec, given, problems)
    assert made is not None, problems
    return made


def test_every_example_is_valid() -> None:
    examples = {field.name: field.example for field in fields_of(PolicySpec) if field.name not in ("mode", "servers")}
    assert policy(**examples).most_moves == 2


@pytest.mark.parametrize("wrong", [{"mode": "on"}, {"cpu_threshold": 0}, {"most_moves": 0}, {"mode": "drs", "servers": ["a"]}, {"period": 0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    problems: list[Any] = []
    assert parse_spec(PolicySpec, wrong, problems) is None and problems


def test_without_thresholds_drs_always_evens_out_and_dpm_has_a_limit_of_its_own() -> None:
    assert set(thresholds(policy(mode="drs")).values()) == {None}
    told = thresholds(policy(mode="dpm", cpu_threshold=60))
    assert (told["cpu"], told["memory"], told["vcpus"]) == (0.6, DPM_THRESHOLD / 100, None)


def test_weights_are_shares_of_what_is_said() -> None:
    assert weights(policy()) == {"memory": 1.0, "vcpus": 0.5, "cpu": 0.5, "network": 1.0}
    assert weights(policy(cpu_weight=0, network_weight=2)) == {"memory": 1.0, "vcpus": 0.0, "cpu": 0.0, "network": 2.0}
