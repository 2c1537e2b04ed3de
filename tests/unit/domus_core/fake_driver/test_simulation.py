"""The simulation: a step changes what it says, and nothing else, and never the snapshot it was given."""

from __future__ import annotations

import copy

import pytest
from domus_core.fake_driver.driver import EMPTY, FakeDriver
from domus_core.fake_driver.simulation import simulate, with_changes
from domus_core.model.fields import LIVE
from domus_core.model.vm import VmSpec
from domus_core.model.vm_devices import NicSpec, VncSpec
from domus_core.planning.reconcile import plan
from domus_core.planning.steps import Change

from tests.scenarios.harness import load_scenario, scenario_files, site_of, snapshot_of

PLANNED = [scenario for scenario in map(load_scenario, scenario_files()) if scenario.get("plan")]
SPEC = VmSpec(name="a", cpus=1, nics=(NicSpec(name="eth0", network="lan"), NicSpec(name="eth1", network="dmz")), vnc=VncSpec(enabled=True))


def test_a_step_changes_its_object_and_no_snapshot_that_was() -> None:
    for scenario in PLANNED:
        site, snapshot = site_of(scenario), snapshot_of(scenario)
        for step in plan(site, snapshot).steps:
            before = {kind: dict(entries) for kind, entries in snapshot.objects.items()}
            kept = copy.deepcopy(before)
            after = simulate(snapshot, step, site.name)
            assert {kind: dict(entries) for kind, entries in snapshot.objects.items()} == before == kept
            old, new = snapshot.find(step.kind, step.key), after.find(step.kind, step.key)
            assert (old.fingerprint if old else "") != (new.fingerprint if new else "")
            for kind, entries in before.items():
                for key, found in entries.items():
                    touched = (kind, key) == (step.kind, step.key) or {kind, step.kind} == {"vm", "virtual_disk"}
                    assert touched or after.find(kind, key) is found
            assert getattr(getattr(new, "running", None), "state", None) is None, "a run state is measured, it is not in what runs"
            snapshot = after


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("cpus", 4, VmSpec(name="a", cpus=4, nics=SPEC.nics, vnc=SPEC.vnc)),
        ("cpus", None, VmSpec(name="a", nics=SPEC.nics, vnc=SPEC.vnc)),
        ("vnc.listen", "::1", VmSpec(name="a", cpus=1, nics=SPEC.nics, vnc=VncSpec(enabled=True, listen="::1"))),
        ("nics[eth1]", None, VmSpec(name="a", cpus=1, nics=SPEC.nics[:1], vnc=SPEC.vnc)),
        ("nics[eth2]", NicSpec(name="eth2"), VmSpec(name="a", cpus=1, nics=(*SPEC.nics, NicSpec(name="eth2")), vnc=SPEC.vnc)),
        ("nics[eth0].link", "down", VmSpec(name="a", cpus=1, nics=(NicSpec(name="eth0", network="lan", link="down"), SPEC.nics[1]), vnc=SPEC.vnc)),
    ],
)
def test_a_change_reaches_its_place(place: str, value: object, expected: VmSpec) -> None:
    assert with_changes(SPEC, [Change(place, None, value, LIVE)]) == expected


def test_a_place_that_is_none_is_a_mistake() -> None:
    with pytest.raises(ValueError):
        with_changes(SPEC, [Change("nics[eth0", None, 1, LIVE)])


def test_the_driver_notes_what_it_took() -> None:
    driver = FakeDriver()
    assert driver.read(site_of(PLANNED[0])) is EMPTY and driver.fingerprint("vm", "a") == "" and driver.read_one("vm", "a") is None
    for scenario in PLANNED:
        driver = FakeDriver(snapshot_of(scenario))
        steps = plan(site_of(scenario), driver.snapshot).steps
        for step in steps:
            driver.carry_out(step, "paris")
        assert tuple(driver.taken) == steps
        found = driver.read_one(steps[-1].kind, steps[-1].key)
        assert driver.fingerprint(steps[-1].kind, steps[-1].key) == (found.fingerprint if found else "")
        driver.close()
