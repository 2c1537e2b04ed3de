"""The reference of the site document."""

from __future__ import annotations

from plugins.module_utils.domus_core.model.field_types import Choice, ListOf
from plugins.module_utils.domus_core.model.fields import CREATION, IGNORE, RESTART, Field, Object, Objects, public_fields
from plugins.module_utils.domus_core.model.kinds import KINDS

from .texts import EXAMPLES, INTRODUCTION
from .words import default_text, nested_fields


def site_document() -> str:
    """The reference of the site document."""
    parts = [INTRODUCTION, "| section | what |\n|---|---|\n" + "".join(f"| [`{kind.section}`](#{kind.section}) | {kind.doc} |\n" for kind in KINDS)]
    for kind in KINDS:
        parts.append(f"## {kind.section}\n\n{kind.doc} Module: `domus.virt.{kind.name}`.\n\n```yaml\n{EXAMPLES[kind.section].strip()}\n```\n")
        parts += tables(kind.section, kind.spec, public_fields(kind.spec))
    return "\n".join(parts)


def tables(place: str, spec: type, fields: tuple[Field, ...]) -> list[str]:
    """The table of a specification, and below it those of the objects nested in it."""
    lines = "".join(row(place, field, spec) for field in fields)
    parts = [f"| field | type | a new object gets | a change takes effect | |\n|---|---|---|---|---|\n{lines}"]
    for field in fields:
        if isinstance(field.type, (Object, Objects)):
            parts.append(f"### {place}.{field.name}\n\n{(field.type.spec.__doc__ or '').strip()}\n")
            parts += tables(f"{place}.{field.name}", field.type.spec, nested_fields(field))
    return parts


def row(place: str, field: Field, spec: type) -> str:
    """One line of a table."""
    kind = field.type
    item = kind.item if isinstance(kind, ListOf) else kind
    noun = kind.noun
    if isinstance(item, Choice):
        noun = " · ".join(f"`{word}`" for word in item.words)
    if isinstance(kind, (Object, Objects)):
        anchor = f"{place}.{field.name}".replace(".", "")
        noun = f"[{'an object' if isinstance(kind, Object) else 'objects'}](#{anchor})"
    effect = {RESTART: "at the next restart", CREATION: "never: only when it is made"}.get(field.effect, "at once")
    default = "**required**" if field.required else default_text(field, spec) if field.default is not None else ""
    doc = field.doc + (" **Secret.**" if field.secret else "")
    return f"| `{field.name}` | {noun} | {default} | {'' if field.compare == IGNORE or field.name == 'name' else effect} | {doc.replace('|', '&#124;')} |\n"
