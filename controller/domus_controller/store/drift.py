"""What differs between what was asked for, recorded, defined and running: a function of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from domus_core.model.fields import CREATION, IGNORE, Field, Object, Objects, fields_of, once
from domus_core.model.kinds import BY_NAME
from domus_core.model.secrets import MASK

# The four views of a field, in the order in which they follow from each other.
VIEWS = ("asked", "recorded", "defined", "running")
# What was not asked for, or not recorded, is not held against the next view.
UNSAID = ("asked", "recorded")
EMPTY: tuple[Any, ...] = (None, "", [], ())
# A balloon never hits its target to the page.

Views = dict[str, Any]


def drift(
    kind: str, asked: Any, recorded: Any, defined: Any, running: Any, *, state: Optional[str] = None, measured: Optional[Mapping[str, Any]] = None
) -> list[dict[str, Any]]:
    """The fields in which the views differ, each with the value in every view; only fields that were asked for are compared with `asked`.

    `running` is None (does not run: nothing to compare), True (as defined) or a specification; `state` is a VM's measured run state,
    `measured` what else was measured of it.
    Fields that hold a secret can not be known and are left out.
    """
    table = BY_NAME[kind].spec
    views = {"asked": asked, "recorded": recorded, "defined": defined, "running": defined if running is True else running}
    given = {name: view for name, view in views.items() if isinstance(view, Mapping)}
    found = _differences(table, given, "")
    if kind == "vm":
        found += _run_state(given, state)
        found = _with_memory(found, given, measured or {})
        found += _definition(given, measured or {})
    return found


def gone(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The drift of an object that was asked for and is not there any more."""
    return [_entry("state", {"asked": asked.get("state") or "present"})]


@once
def _compared(table: Any) -> tuple[Field, ...]:
    return tuple(field for field in fields_of(table) if field.compare != IGNORE and not field.secret and field.name not in ("name", "state"))


def _differences(table: Any, views: Mapping[str, Mapping[str, Any]], path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if len(views) < 2:
        return found
    for field in _compared(table):
        told = [view.get(field.name) for view in views.values()]
        if told.count(told[0]) == len(told):
            continue
        values = dict(zip(views, told))
        if _all_equal(values):
            continue
        place = f"{path}{field.name}"
        if isinstance(field.type, Objects):
            found += _named(field.type.spec, field, values, place)
        elif isinstance(field.type, Object):
            found += _nested(field.type.spec, field, values, place)
        elif _differs(field, values):
            found.append(_entry(place, values))
    return found


def _all_equal(values: Views) -> bool:
    """A view that says nothing is equal to all where `_pairs` leaves it out."""
    told = [value for view, value in values.items() if value is not None or view not in UNSAID]
    return not told or told.count(told[0]) == len(told)


def _named(table: Any, field: Field, values: Views, path: str) -> list[dict[str, Any]]:
    """Objects of a list by name; one that was not asked for is compared among the other views only."""
    by_name = {view: {one["name"]: one for one in entries or () if isinstance(one, Mapping) and "name" in one} for view, entries in values.items()}
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for entries in by_name.values() for name in entries):
        found += _nested(table, field, {view: entries.get(name) for view, entries in by_name.items()}, f"{path}[{name}]")
    return found


def _nested(table: Any, field: Field, values: Views, path: str) -> list[dict[str, Any]]:
    present = {view: value for view, value in values.items() if isinstance(value, Mapping)}
    if field.effect != CREATION and any((first in present) != (second in present) for first, second in _pairs(values)):
        return [_entry(path, {view: _without_secrets(value) for view, value in values.items()})]
    return _differences(table, present, f"{path}.")


def _differs(field: Field, values: Views) -> bool:
    return any(not _same(field, values[first], values[second]) for first, second in _pairs(values))


def _pairs(values: Views) -> list[tuple[str, str]]:
    """The neighbouring views that are to agree."""
    wanted = [view for view in VIEWS if view in values and not (view in UNSAID and values[view] is None)]
    return list(zip(wanted, wanted[1:]))


def _same(field: Field, first: Any, second: Any) -> bool:
    if first == second or (first in EMPTY and second in EMPTY):
        return True
    if field.effect == CREATION and (first in EMPTY or second in EMPTY):
        return True
    return bool(field.matches and first is not None and second is not None and field.matches(first, second))


def _run_state(views: Mapping[str, Mapping[str, Any]], state: Optional[str]) -> list[dict[str, Any]]:
    values = {view: views[view].get("state") for view in ("asked", "recorded") if view in views}
    if state is not None:
        values["running"] = state
    wanted = [value for value in values.values() if value is not None]
    return [] if len(set(wanted)) <= 1 else [_entry("state", values)]


def _with_memory(found: list[dict[str, Any]], views: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same with the memory that the guest really has, where the views differ.

    By itself that is no drift: a balloon moves slowly, a guest that boots or has no driver for it has all that is possible, and libvirt
    does not tell of each step.
    """
    memory = measured.get("memory")
    if not memory or not views.get("running"):
        return found
    return [{**entry, "running": memory} if entry["field"] == "memory" else entry for entry in found]


def _definition(views: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A VM that somebody undefined while it runs is gone with its end."""
    values = {view: views[view].get("name") for view in VIEWS if view in views and view != "defined"}
    wanted = any(values.get(view) for view in UNSAID)
    return [_entry("name", values)] if wanted and measured.get("persistent") is False else []


def _entry(path: str, values: Views) -> dict[str, Any]:
    return {"field": path, **{view: values.get(view) for view in VIEWS}}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_secrets(entry) for name, entry in value.items() if entry != MASK}
    return [_without_secrets(entry) for entry in value] if isinstance(value, list) else value
