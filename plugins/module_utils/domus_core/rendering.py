"""Plans and changes as text for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .model.fields import plain
from .model.quantities import format_size
from .model.secrets import Secret
from .planning.reconcile import Plan
from .planning.steps import CREATE, DELETE, KILL, Change

SIZES = frozenset({"memory", "memory_max", "size"})
SIGNS = {CREATE: "+", DELETE: "-", KILL: "-"}


def render_value(field: str, value: Any) -> str:
    """One value of a field as short text, secrets masked."""
    if value is None:
        return "(none)"
    if isinstance(value, int) and not isinstance(value, bool) and field.rsplit(".", 1)[-1] in SIZES:
        return format_size(value)
    shown = plain(value)
    if isinstance(shown, str) and shown.isprintable():
        return shown
    text = json.dumps(_readable(shown), ensure_ascii=False)
    return text if text.isprintable() else json.dumps(_readable(shown))


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: format_size(entry) if name in SIZES and isinstance(entry, int) else _readable(entry) for name, entry in value.items()}
    return [_readable(entry) for entry in value] if isinstance(value, list) else value


def render_plan(plan: Plan) -> str:
    """A plan as text: one line a step, one line a change, and a summary."""
    lines = []
    for step in plan.steps:
        lines.append(f"{SIGNS.get(step.action, '~')} {step.action} {step.name}  ({step.reason})")
        lines += [f"    {render_change(change)}" for change in step.changes]
    objects = {(step.kind, step.key) for step in plan.steps}
    lines.append(f"{counted(len(objects), 'object')} to change, {counted(len(plan.steps), 'step')}" if plan.steps else "nothing to change")
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """So many of them, in the singular or the plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def render_change(change: Change) -> str:
    """A change as one line, with a word on when it takes effect if that is not now."""
    after = render_value(change.field, change.after)
    late = "  (at the next restart)" if change.effect == "restart" else ""
    if change.before is None:
        return f"{change.field}: {after}{late}"
    return f"{change.field}: {render_value(change.field, change.before)} -> {after}{late}"


def _side(change: Change, side: str) -> str:
    value = getattr(change, side)
    changed = " (another)" if side == "after" and isinstance(value, Secret) and change.before is not None else ""
    return f"{change.field}: {render_value(change.field, value)}{changed}\n"


def render_diff(changes: Iterable[Change]) -> dict[str, str]:
    """Changes as the two texts that Ansible's diff compares."""
    texts: dict[str, str] = {}
    for side in ("before", "after"):
        texts[side] = "".join(_side(change, side) for change in changes if getattr(change, side) is not None)
    return texts
