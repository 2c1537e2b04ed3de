"""Compare what is wanted with what is found, by the field table; the same for every kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from ..errors import Conflict
from ..model.fields import CREATION, IGNORE, LIVE, Field, Object, Objects, field_named, fields_of, once
from .steps import Change

NO_SKIP: frozenset[str] = frozenset()
EMPTY = ("", ())


def compare(wanted: Any, found: Any, *, exact: bool = False, skip: frozenset[str] = NO_SKIP, path: str = "") -> list[Change]:
    """Return the changes that turn `found` into `wanted`; what `wanted` leaves out is not compared.

    `skip` names fields that somebody else compares; `exact` takes away nested objects that are not mentioned.
    Raises Conflict when a field that only creation may set differs.
    """
    changes: list[Change] = []
    spec, values = type(wanted), vars(found)
    nested = _nested(spec)
    for name, value in vars(wanted).items():
        before = values.get(name)
        if value is None or name in skip or (name not in nested and value == before):
            continue
        if before is None and value in EMPTY:
            continue
        field = field_named(spec, name)
        if field.compare == IGNORE or (field.matches and before is not None and field.matches(value, before)):
            continue
        changes += _compare_field(field, value, before, exact=exact, skip=skip, path=f"{path}{name}")
    if exact:
        changes += [change for field in _not_mentioned(spec, wanted, found) for change in _taken_away(field, getattr(found, field.name), path)]
    return changes


@once
def _nested(spec: Any) -> frozenset[str]:
    """The fields that are compared inside: comparing them as a whole first is slow and rarely enough."""
    return frozenset(field.name for field in fields_of(spec) if isinstance(field.type, (Object, Objects)))


def _compare_field(field: Field, wanted: Any, found: Any, *, exact: bool, skip: frozenset[str], path: str) -> list[Change]:
    kind = field.type
    if isinstance(kind, Objects):
        return _compare_objects(field, wanted, found or (), exact=exact, skip=skip, path=path)
    if isinstance(kind, Object) and found is not None:
        return compare(wanted, found, exact=exact, skip=skip, path=f"{path}.")
    if field.effect == CREATION:
        if found is None:
            return []
        raise Conflict(
            "can be set only when the object is made",
            field=path,
            value=None if field.secret else wanted,
            remedy=f"It is {found!r}: leave it so, or delete the object and make it again",
        )
    return [Change(path, found, wanted, field.effect)]


def _compare_objects(field: Field, wanted: tuple[Any, ...], found: tuple[Any, ...], *, exact: bool, skip: frozenset[str], path: str) -> list[Change]:
    by_name: Mapping[str, Any] = {one.name: one for one in found}
    changes: list[Change] = []
    for one in wanted:
        place = f"{path}[{one.name}]"
        existing = by_name.get(one.name)
        if existing is None:
            changes.append(Change(place, None, one, field.effect))
        else:
            changes += compare(one, existing, skip=skip, path=f"{place}.")
    if exact:
        mentioned = {one.name for one in wanted}
        changes += [Change(f"{path}[{name}]", by_name[name], None, field.effect) for name in by_name if name not in mentioned]
    return changes


def _not_mentioned(spec: type, wanted: Any, found: Any) -> list[Field]:
    return [field for field in fields_of(spec) if isinstance(field.type, Objects) and getattr(wanted, field.name) is None and getattr(found, field.name)]


def _taken_away(field: Field, entries: tuple[Any, ...], path: str) -> list[Change]:
    return [Change(f"{path}{field.name}[{entry.name}]", entry, None, field.effect) for entry in entries]


def creation(spec: Any) -> tuple[Change, ...]:
    """Everything given, as changes from nothing."""
    values = vars(spec)
    table = [field for field in fields_of(type(spec)) if field.compare != IGNORE and values.get(field.name) not in (None, ())]
    return tuple(Change(field.name, None, values[field.name], CREATION) for field in table)


def deletion(state: str = "present") -> tuple[Change, ...]:
    """The end of an object, as the one change that a person sees."""
    return (Change("state", state, "absent", LIVE),)


def waiting(defined: Any, running: Optional[Any], *, path: str = "") -> tuple[str, ...]:
    """The fields in which what runs differs from its definition: they wait for a restart."""
    if running is None or running is defined:
        return ()
    names: list[str] = []
    for field in fields_of(type(defined)):
        ours, theirs = (None if value in EMPTY else value for value in (getattr(defined, field.name), getattr(running, field.name)))
        if ours == theirs or field.compare == IGNORE or field.effect == CREATION:
            continue
        if field.matches and ours is not None and theirs is not None and field.matches(ours, theirs):
            continue
        place = f"{path}{field.name}"
        if isinstance(field.type, Objects):
            names += _waiting_objects(ours or (), theirs or (), place)
        elif isinstance(field.type, Object) and ours is not None and theirs is not None:
            names += waiting(ours, theirs, path=f"{place}.")
        else:
            names.append(place)
    return tuple(names)


def _waiting_objects(ours: tuple[Any, ...], theirs: tuple[Any, ...], place: str) -> list[str]:
    defined, running = {one.name: one for one in ours}, {one.name: one for one in theirs}
    names = [f"{place}[{name}]" for name in (*defined, *running) if name not in running or name not in defined]
    for name, one in defined.items():
        if name in running:
            names += waiting(one, running[name], path=f"{place}[{name}].")
    return list(dict.fromkeys(names))
