"""How the reference says what a field table says."""

from __future__ import annotations

import dataclasses

from plugins.module_utils.domus_core.model.fields import LIVE, Field, Object, fields_of


def nested_fields(field: Field) -> tuple[Field, ...]:
    """The table of a nested object; what is inside an object changes no earlier than the object itself."""
    table = fields_of(field.type.spec)
    if isinstance(field.type, Object) and field.effect != LIVE:
        return tuple(dataclasses.replace(one, effect=field.effect) if one.effect == LIVE else one for one in table)
    return table


def default_text(field: Field, spec: type) -> str:
    """What a new object gets, as text."""
    value = field.default
    if value in {one.name for one in fields_of(spec)}:
        return f"the value of `{value}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return value if " " in str(value) else f"`{value}`"
