"""Plans and results of applies as text: `+` is made, `~` changed, `-` deleted, as users of Terraform know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from domus_core.planning.steps import CREATE, DELETE, Change
from domus_core.rendering import render_change
from rich.text import Text

STYLES = {"+": "green", "~": "yellow", "-": "red"}
WORDS = {"+": "created", "~": "changed", "-": "deleted"}


def sign_of(actions: Iterable[str]) -> str:
    """How a change to an object is marked."""
    known = set(actions)
    return "+" if CREATE in known else "-" if DELETE in known else "~"


def lines_of_plan(objects: Iterable[Mapping[str, Any]]) -> list[Text]:
    """What would be done: a line for each object that changes, a line for each of its fields, and a summary."""
    changed = [one for one in objects if one.get("changed")]
    return [*_lines(changed, "to be "), Text(summary(changed), style="bold")]


def lines_of_result(objects: Iterable[Mapping[str, Any]]) -> list[Text]:
    """What was done: how many objects were made and deleted, and what exactly was changed."""
    changed = [one for one in objects if one.get("changed")]
    if not changed:
        return []
    signs = [sign_of(one.get("actions") or []) for one in changed]
    counts = ", ".join(f"{signs.count(sign)} {word}" for sign, word in WORDS.items() if sign in signs)
    return [*_lines([one for one, sign in zip(changed, signs) if sign == "~"], ""), Text(f"  {counts}")]


def _lines(changed: Iterable[Mapping[str, Any]], tense: str) -> list[Text]:
    lines: list[Text] = []
    for one in changed:
        lines.append(_headline(one, tense))
        if one.get("placement"):
            lines.append(Text(f"      placed there: {one['placement']}"))
        if one.get("note"):
            lines.append(Text(f"      {one['note']}"))
        lines += [Text(f"      {line}") for line in _fields(one)]
    return lines


def _headline(one: Mapping[str, Any], tense: str) -> Text:
    actions = one.get("actions") or []
    sign = sign_of(actions)
    others = [action for action in actions if action not in (CREATE, DELETE, "update")]
    verbs = f" ({', '.join(others)})" if others else ""
    place = f" on {one['server']}" if one.get("server") else ""
    return Text(f"  {sign} {one['kind']} {one['name']}{place}: {tense}{WORDS[sign]}{verbs}", style=STYLES[sign])


def _fields(one: Mapping[str, Any]) -> Iterable[str]:
    for change in one.get("changes") or ():
        made = Change(str(change["field"]), change.get("before"), change.get("after"), str(change.get("effect", "")))
        if made.after is not None or made.before is not None:
            yield render_change(made)


def summary(changed: Iterable[Mapping[str, Any]]) -> str:
    """The number of objects to be created, changed and deleted."""
    signs = [sign_of(one.get("actions") or []) for one in changed]
    if not signs:
        return "No changes. The servers match the document."
    return f"Plan: {signs.count('+')} to create, {signs.count('~')} to change, {signs.count('-')} to delete."
