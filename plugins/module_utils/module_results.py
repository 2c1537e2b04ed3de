"""What modules return, made of a report's objects as data: the same whether the engine ran here, or behind a manager."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from .domus_core.errors import error_from_dict
from .domus_core.model.secrets import MASK, Secret
from .domus_core.planning.steps import Change
from .domus_core.rendering import render_diff

MOST_ERRORS_TOLD = 20

Data = Mapping[str, Any]
# The objects of a report, and all errors.
Outcome = tuple[Sequence[Data], Sequence[Data]]


def told(objects: Sequence[Data], errors: Sequence[Data], *, diff: bool) -> dict[str, Any]:
    """What every module that changes something returns; with errors also `msg`, which makes the task fail."""
    outcome: dict[str, Any] = {
        "changed": any(one["changed"] for one in objects),
        "actions": [f"{action} {name_of(one)}" for one in objects for action in one["actions"]],
    }
    if diff:
        outcome["diff"] = [_diff(one) for one in objects if one["changes"]]
    if errors:
        lines = [str(error_from_dict(error)) for error in errors[:MOST_ERRORS_TOLD]]
        more = [f"and {len(errors) - MOST_ERRORS_TOLD} more"] if len(errors) > MOST_ERRORS_TOLD else []
        outcome.update(msg="\n".join(lines + more), error=dict(errors[0]))
    return outcome


def told_of_object(objects: Sequence[Data], errors: Sequence[Data], kind: str, key: str, *, diff: bool) -> dict[str, Any]:
    """What a module that manages one object returns; of an object on several servers, the first that has changed is shown."""
    own = sorted((one for one in objects if (one["kind"], one["name"]) == (kind, key)), key=lambda one: not one["changed"])
    late = list(dict.fromkeys(field for one in own for field in one["restart_required"]))
    shown = {"object": measured(kind, key, own[0].get("state"))} if own else {}
    return {**told(objects, errors, diff=diff), **shown, "restart_required": late}


def told_of_document(objects: Sequence[Data], errors: Sequence[Data], *, diff: bool) -> dict[str, Any]:
    """What domus.virt.apply returns."""
    late = [name_of(one) for one in objects if one["restart_required"]]
    return {**told(objects, errors, diff=diff), "objects": [_result(one) for one in objects], "restart_required": late}


def errors_of(objects: Iterable[Data]) -> list[Data]:
    """The errors of all objects."""
    return [one["error"] for one in objects if one.get("error")]


def name_of(one: Data) -> str:
    """What a person calls the object: kind and key."""
    return f"{one['kind']} {one['name']}"


def measured(kind: str, key: str, state: Optional[Data]) -> dict[str, Any]:
    """One object as it was found: what it is known by, in which state it is, and what was measured of it (None: it is not there)."""
    data: dict[str, Any] = {"kind": kind, "name": key, "state": "absent"}
    if state is None:
        return data
    data["state"] = "present" if "active" not in state else "active" if state["active"] else "inactive"
    return {**data, **state}


def _result(one: Data) -> dict[str, Any]:
    more = {name: one[name] for name in ("changed", "actions", "restart_required", "error", "server") if one.get(name) is not None}
    return {**measured(one["kind"], one["name"], one.get("state")), **more}


def _diff(one: Data) -> dict[str, str]:
    header = name_of(one)
    return {"before_header": header, "after_header": header, **render_diff([_change(change) for change in one["changes"]])}


def _change(change: Data) -> Change:
    """A change as it was before it became data; that it is a secret is told by the mask."""
    values = (Secret("") if change[side] == MASK else change[side] for side in ("before", "after"))
    return Change(change["field"], *values, effect=change["effect"])
