"""The modules' documentation: options from the field tables, with the constraints of the argument specs."""

from __future__ import annotations

import re
from typing import Any

from plugins.module_utils import module_glue as glue
from plugins.module_utils.domus_core.model.field_types import Size
from plugins.module_utils.domus_core.model.fields import CREATION, IGNORE, RESTART, Field, Object, Objects, public_fields
from plugins.module_utils.domus_core.model.kind import Kind
from plugins.module_utils.domus_core.model.kinds import KINDS

from .texts import MODULES, OPTIONS
from .words import default_text, nested_fields

AUTHOR = "The Domus developers (!UNKNOWN)"
VERSION = "0.1.0"
EFFECTS = {
    RESTART: "A change waits for the next restart.",
    CREATION: "It can be set only when the object is made; a difference later is refused.",
}


def option_doc(field: Field, spec: type, option: dict[str, Any]) -> dict[str, Any]:
    """The documentation of one option: what the table says, and the same constraints as the argument spec."""
    documented = {"description": [marked(sentence) for sentence in sentences(field, spec)]}
    documented |= {name: option[name] for name in ("type", "elements", "required", "choices") if name in option}
    if isinstance(field.type, (Object, Objects)):
        documented["suboptions"] = {one.name: option_doc(one, field.type.spec, option["options"][one.name]) for one in nested_fields(field)}
    return documented


def sentences(field: Field, spec: type) -> list[str]:
    """What there is to say about a field: its line, its unit, its default for a new object, when it takes effect, that it is secret."""
    told = [field.doc]
    if isinstance(field.type, Size):
        told.append("Bytes, or a number with `KiB`, `MiB`, `GiB` or `TiB`.")
    if field.default is not None:
        told.append(f"A new object gets {default_text(field, spec)}.")
    if field.effect in EFFECTS and field.compare != IGNORE:
        told.append(EFFECTS[field.effect])
    if field.secret:
        told.append("Secret: it is never shown, logged or told in a difference.")
    return told


def marked(text: str) -> str:
    """Backticks as Ansible's own markup."""
    return re.sub(r"`([^`]*)`", r"C(\1)", text)


def header(name: str, fragments: list[str]) -> dict[str, Any]:
    """What stands above the options of every module."""
    short, *description = MODULES[name]
    fragments = [f"domus.virt.{fragment}" for fragment in fragments]
    return {
        "module": name,
        "short_description": short,
        "version_added": VERSION,
        "description": [marked(line) for line in description],
        "author": AUTHOR,
        "extends_documentation_fragment": fragments,
    }


def resource_doc(kind: Kind) -> dict[str, Any]:
    """The documentation of the module that manages one object."""
    waited = ["common.address"] if kind.name == "vm" else []
    fragments = ["common", "common.transport", "common.site", "common.wait", *waited, "attributes"]
    accepted = glue.resource_options(kind)
    options = {field.name: option_doc(field, kind.spec, accepted[field.name]) for field in public_fields(kind.spec)}
    return {**header(kind.name, fragments), "options": options, "seealso": [{"module": f"domus.virt.{kind.name}_info"}, {"module": "domus.virt.apply"}]}


def info_doc(kind: Kind) -> dict[str, Any]:
    """The documentation of the module that tells of the objects of a kind."""
    own = {name: option for name, option in glue.info_options(kind).items() if name not in glue.COMMON}
    options = {name: {"description": OPTIONS[name], **option} for name, option in own.items()}
    return {
        **header(f"{kind.name}_info", ["common", "common.transport", "attributes.info"]),
        "options": options,
        "seealso": [{"module": f"domus.virt.{kind.name}"}],
    }


def apply_doc() -> dict[str, Any]:
    """The documentation of the module that applies a document."""
    accepted = glue.apply_options()
    options = {
        name: {"description": OPTIONS[name], **{key: value for key, value in accepted[name].items() if key not in ("no_log", "fallback")}}
        for name in (*glue.DOCUMENT, "transport")
    }
    documented = header("apply", ["common", "common.wait", "common.address", "attributes"])
    return {**documented, "options": options, "seealso": [{"module": f"domus.virt.{kind.name}"} for kind in KINDS]}
