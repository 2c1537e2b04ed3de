"""Comparing by the table, for every field of every kind: what differs is one change at its place, with its effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import Conflict
from domus_core.model.fields import CREATION, IGNORE, LIVE, RESTART, Field, Object, Objects, fields_of, make, merge
from domus_core.model.kinds import KINDS
from domus_core.model.secrets import MASK, Secret
from domus_core.model.vm import VmSpec
from domus_core.model.vm_devices import CdromSpec, DiskSpec, NicSpec, VncSpec
from domus_core.planning.comparison import compare, creation, waiting

BEFORE, AFTER = "one", "two"


def nested(spec: type) -> Iterator[type]:
    """A table and all inside it."""
    yield spec
    for field in fields_of(spec):
        if isinstance(field.type, (Object, Objects)):
            yield from nested(field.type.spec)


PLAIN = {
    f"{spec.__name__}.{field.name}": (spec, field)
    for kind in KINDS
    for spec in nested(kind.spec)
    for field in fields_of(spec)
    if not isinstance(field.type, (Object, Objects)) and field.name != "name"
}
NAMED = {spec: {"name": "a"} for spec, _ in PLAIN.values() if any(field.name == "name" for field in fields_of(spec))}


@pytest.mark.parametrize(("spec", "field"), PLAIN.values(), ids=PLAIN.keys())
def test_each_field(spec: type, field: Field) -> None:
    wanted, found, nothing = (make(spec, {**NAMED.get(spec, {}), **value}) for value in ({field.name: AFTER}, {field.name: BEFORE}, {}))
    assert compare(wanted, wanted) == [] and compare(nothing, found) == [], "equal, and not managed"
    if field.compare == IGNORE:
        assert compare(wanted, found) == []
    elif field.effect == CREATION:
        with pytest.raises(Conflict) as caught:
            compare(wanted, found)
        error = caught.value
        assert (error.code, error.field, error.value) == ("conflict", field.name, None if field.secret else AFTER) and error.remedy
        assert compare(wanted, nothing) == [], "what is not known can not contradict"
    else:
        (change,) = compare(wanted, found)
        assert (change.field, change.before, change.after, change.effect) == (field.name, BEFORE, AFTER, field.effect)
        assert compare(wanted, found, skip=frozenset({field.name})) == []
        assert compare(merge(found, wanted), merge(found, wanted)) == []


def test_objects_known_by_name() -> None:
    found = VmSpec(name="a", nics=(NicSpec(name="x", model="virtio"), NicSpec(name="y")))
    wanted = VmSpec(name="a", nics=(NicSpec(name="z"), NicSpec(name="x", model="e1000")))
    changes = {change.field: change for change in compare(wanted, found)}
    assert set(changes) == {"nics[z]", "nics[x].model"} and changes["nics[x].model"].effect == RESTART and changes["nics[z]"].before is None
    assert {change.field for change in compare(wanted, found, exact=True)} == {"nics[z]", "nics[x].model", "nics[y]"}


def test_exact_takes_away_groups_that_are_left_out_with_the_effect_of_their_kind() -> None:
    found = VmSpec(name="a", nics=(NicSpec(name="x"),), disks=(DiskSpec(name="d"),), cdroms=(CdromSpec(name="c"),))
    changes = compare(VmSpec(name="a"), found, exact=True)
    assert {(change.field, change.effect, change.after) for change in changes} == {
        ("nics[x]", LIVE, None),
        ("disks[d]", LIVE, None),
        ("cdroms[c]", RESTART, None),
    }
    assert compare(VmSpec(name="a"), found) == []


@pytest.mark.parametrize("empty", ["", ()])
def test_empty_is_as_good_as_none(empty: Any) -> None:
    assert compare(VmSpec(name="a", tags=empty), VmSpec(name="a")) == []
    assert waiting(VmSpec(name="a", tags=empty), VmSpec(name="a")) == ()
    (change,) = compare(VmSpec(name="a", tags=()), VmSpec(name="a", tags=("x",)))
    assert change.after == ()


def test_an_alias_is_content_and_what_is_found_stays() -> None:
    wanted, found = VmSpec(name="a", machine="q35", virtualization="auto"), VmSpec(name="a", machine="pc-q35-7.2", virtualization="kvm")
    assert compare(wanted, found) == [] and merge(found, wanted) == found
    assert [change.field for change in compare(VmSpec(name="a", machine="pc"), found)] == ["machine"]


def test_a_secret_matches_its_digest() -> None:
    found = VmSpec(name="a", vnc=VncSpec(password=Secret("x").digest("00")))  # type: ignore[arg-type]
    assert compare(VmSpec(name="a", vnc=VncSpec(password=Secret("x"))), found) == []  # type: ignore[arg-type]
    (change,) = compare(VmSpec(name="a", vnc=VncSpec(password=Secret("y"))), found)  # type: ignore[arg-type]
    assert change.as_dict() == {"field": "vnc.password", "before": MASK, "after": MASK, "effect": RESTART}


def test_what_runs_differs_from_its_definition() -> None:
    defined = VmSpec(name="a", cpus=2, nics=(NicSpec(name="x", model="e1000"), NicSpec(name="new")), vnc=VncSpec(listen="::1"), autostart=True)
    running = VmSpec(name="a", cpus=1, nics=(NicSpec(name="x", model="virtio"), NicSpec(name="old")), vnc=VncSpec(listen="::"), autostart=True)
    assert sorted(waiting(defined, running)) == ["cpus", "nics[new]", "nics[old]", "nics[x].model", "vnc.listen"]
    assert waiting(defined, defined) == waiting(defined, None) == ()


def test_creation_lists_what_is_given() -> None:
    changes = creation(VmSpec(name="a", cpus=2, exact=True, tags=()))
    assert [(change.field, change.before, change.after) for change in changes] == [("name", None, "a"), ("cpus", None, 2)]
