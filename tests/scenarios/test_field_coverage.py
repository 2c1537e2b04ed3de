"""Every field of every table stands in a scenario that is planned, so it is parsed, planned, taken and compared at least once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from domus_core.model.fields import Object, Objects, fields_of
from domus_core.model.kinds import KINDS

from tests.scenarios.harness import load_scenario, scenario_files


def test_every_field_stands_in_a_scenario() -> None:
    used: set[tuple[str, str]] = set()
    for scenario in map(load_scenario, scenario_files()):
        if "plan" in scenario:
            for kind in KINDS:
                for entry in scenario["wanted"].get(kind.section, ()):
                    used.update(_used(kind.spec, entry))
    missing = {field for kind in KINDS for field in _all(kind.spec)} - used
    assert not missing, f"write these into tests/scenarios/all-fields.json: {sorted(missing)}"


def _used(spec: type, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field in fields_of(spec):
        if field.name in entry:
            yield spec.__name__, field.name
            value = entry[field.name]
            if isinstance(field.type, (Object, Objects)):
                for inner in value if isinstance(field.type, Objects) else (value,):
                    yield from _used(field.type.spec, inner)


def _all(spec: type) -> Iterator[tuple[str, str]]:
    for field in fields_of(spec):
        yield spec.__name__, field.name
        if isinstance(field.type, (Object, Objects)):
            yield from _all(field.type.spec)
