#!/usr/bin/env python3
"""Write the modules' documentation and docs/reference/site-document.md from the field tables; --check only says what has drifted."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from reference_texts import EXAMPLES, INTRODUCTION, MEASURED, MODULES  # noqa: E402

from plugins.module_utils import module_glue as glue  # noqa: E402
from plugins.module_utils.domus_core.model.field_types import Choice, ListOf, Size  # noqa: E402
from plugins.module_utils.domus_core.model.fields import CREATION, IGNORE, LIVE, RESTART, Field, Object, Objects, fields_of  # noqa: E402
from plugins.module_utils.domus_core.model.kind import Kind  # noqa: E402
from plugins.module_utils.domus_core.model.kinds import KINDS  # noqa: E402

AUTHOR = "The Domus developers (!UNKNOWN)"
VERSION = "0.1.0"
EFFECTS = {
    RESTART: "A change waits for the next restart.",
    CREATION: "It can be set only when the object is made; a difference later is refused.",
}


class Dumper(yaml.SafeDumper):
    """Indents the entries of lists, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def dump(data: Any) -> str:
    """Data as YAML that reads like hand-written."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, width=150, allow_unicode=True)


# --- the modules


def nested_fields(field: Field) -> tuple[Field, ...]:
    """The table of a nested object; what is inside an object changes no earlier than the object itself."""
    table = fields_of(field.type.spec)
    if isinstance(field.type, Object) and field.effect != LIVE:
        return tuple(dataclasses.replace(one, effect=field.effect) if one.effect == LIVE else one for one in table)
    return table


def option_doc(field: Field, spec: type, option: dict[str, Any]) -> dict[str, Any]:
    """The documentation of one option: what the table says, and the same constraints as the argument spec."""
    documented = {"description": [marked(sentence) for sentence in sentences(field, spec)]}
    documented |= {name: option[name] for name in ("type", "elements", "required", "choices") if name in option}
    if isinstance(field.type, (Object, Objects)):
        nested = field.type.spec
        documented["suboptions"] = {one.name: option_doc(one, nested, option["options"][one.name]) for one in nested_fields(field)}
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


def default_text(field: Field, spec: type) -> str:
    """What a new object gets, as text."""
    value = field.default
    if value in {one.name for one in fields_of(spec)}:
        return f"the value of `{value}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return value if " " in str(value) else f"`{value}`"


def marked(text: str) -> str:
    """Backticks as Ansible's own markup."""
    return re.sub(r"`([^`]*)`", r"C(\1)", text)


def module_files() -> dict[Path, tuple[dict[str, Any], dict[str, Any]]]:
    """Every module file with its documentation and what it returns."""
    files = {}
    for kind in KINDS:
        files[module_path(kind.name)] = (resource_doc(kind), resource_return(kind))
        files[module_path(f"{kind.name}_info")] = (info_doc(kind), info_return(kind))
    files[module_path("apply")] = (apply_doc(), apply_return())
    return files


def module_path(name: str) -> Path:
    """Where a module is."""
    return ROOT / "plugins" / "modules" / f"{name}.py"


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
    fragments = ["common", "common.site", "common.wait", "attributes"] if kind.name != "vm" else ["common", "common.site", "common.wait", "common.address", "attributes"]
    accepted = glue.resource_options(kind)
    options = {field.name: option_doc(field, kind.spec, accepted[field.name]) for field in fields_of(kind.spec)}
    return {**header(kind.name, fragments), "options": options, "seealso": [{"module": f"domus.virt.{kind.name}_info"}, {"module": "domus.virt.apply"}]}


def info_doc(kind: Kind) -> dict[str, Any]:
    """The documentation of the module that tells of the objects of a kind."""
    texts = {
        "name": "Tell only of the one with this name.",
        "repository": "Tell only of those in this repository.",
        "as_document": "Return a site document with every field of the VMs, as they are now, and a list of what in their definitions Domus does not manage."
        " Applying that document changes nothing and makes Domus manage them.",
    }
    own = {name: option for name, option in glue.info_options(kind).items() if name not in glue.CONNECTION}
    options = {name: {"description": texts[name], **option} for name, option in own.items()}
    return {**header(f"{kind.name}_info", ["common", "attributes.info"]), "options": options, "seealso": [{"module": f"domus.virt.{kind.name}"}]}


def apply_doc() -> dict[str, Any]:
    """The documentation of the module that applies a document."""
    texts = {
        "file": "The site document on the control node, YAML or JSON, if need be encrypted by Ansible Vault. Looked for like the files of M(ansible.builtin.copy).",
        "server": "Which of the document's servers this host is. Left out, it is the one with the host's name in the inventory.",
        "document_json": "What was read from O(file). It is filled in by the action plugin, and refused in tasks.",
    }
    accepted = glue.apply_options()
    options = {name: {"description": texts[name], **{key: value for key, value in accepted[name].items() if key != "no_log"}} for name in texts}
    documented = header("apply", ["common", "common.wait", "common.address", "attributes"])
    return {**documented, "options": options, "seealso": [{"module": f"domus.virt.{kind.name}"} for kind in KINDS]}


# --- what they return


def measured_doc(kind: Kind) -> dict[str, Any]:
    """What is told of one object. Raises KeyError for a measured field that has no text."""
    told = {"kind": ("The kind of the object.", "str"), "name": ("What it is known by; `repository/name` for a virtual disk.", "str"), "state": ("In which state it is.", "str")}
    told |= {field.name: MEASURED[kind.name][field.name] for field in dataclasses.fields(kind.state) if field.name != "state"}
    return {name: {"description": marked(text), "returned": "always" if name in ("kind", "name", "state") else "when the object exists", "type": type_} for name, (text, type_) in told.items()}


def common_return() -> dict[str, Any]:
    """What every module that changes something returns."""
    return {
        "actions": {
            "description": "The steps that were taken, or would be in check mode: action, kind and name.",
            "returned": "always",
            "type": "list",
            "elements": "str",
            "sample": ["create virtual_disk main/web1-root", "create vm web1", "start vm web1"],
        },
        "error": {
            "description": "What was wrong: a stable C(code), the message, and where known C(object), C(field), C(value) and C(remedy).",
            "returned": "on failure",
            "type": "dict",
            "sample": {"code": "conflict", "message": "a disk can not shrink: it has 20GiB", "object": "vm web1", "field": "disks[root].size", "value": "10GiB"},
        },
    }


def resource_return(kind: Kind) -> dict[str, Any]:
    """What the module that manages one object returns."""
    return common_return() | {
        "restart_required": {
            "description": "The fields whose definition has changed and that wait for a restart of the object.",
            "returned": "always",
            "type": "list",
            "elements": "str",
            "sample": ["memory_max"] if kind.name == "vm" else [],
        },
        "object": {
            "description": "The object as it was measured after the task, in check mode before it.",
            "returned": "always",
            "type": "dict",
            "contains": measured_doc(kind),
        },
    }


def info_return(kind: Kind) -> dict[str, Any]:
    """What the module that tells of the objects of a kind returns."""
    more = {
        "spec": {"description": "Its definition, in the fields of the module that manages it; sizes in bytes, secrets masked.", "returned": "always", "type": "dict"},
        "asked": {"description": "What Domus was asked for, in the same fields.", "returned": "when Domus manages it and keeps a record of that", "type": "dict"},
        "restart_required": {"description": "The fields that wait for a restart of it.", "returned": "always", "type": "list", "elements": "str"},
    }
    told = {kind.section: {"description": "The objects.", "returned": "always", "type": "list", "elements": "dict", "contains": measured_doc(kind) | more}}
    if kind.name == "server":
        told["measured"] = {"description": "This server, whether or not it is in a document.", "returned": "always", "type": "dict", "contains": measured_doc(kind)}
        told["measured"]["contains"] = {name: text for name, text in told["measured"]["contains"].items() if name not in ("kind", "name", "state")}
    if kind.name == "vm":
        told["vms"]["returned"] = "unless O(as_document=true)"
        told["document"] = {"description": "A site document with the VMs and what they need.", "returned": "when O(as_document=true)", "type": "dict"}
        told["not_managed"] = {"description": "For each VM, what in its definition Domus does not manage.", "returned": "when O(as_document=true)", "type": "dict"}
    return told


def apply_return() -> dict[str, Any]:
    """What the module that applies a document returns."""
    each = {"kind": "The kind of the object.", "name": "What it is known by.", "state": "In which state it is."}
    contains: dict[str, Any] = {name: {"description": text, "returned": "always", "type": "str"} for name, text in each.items()}
    contains["changed"] = {"description": "Whether it was changed, or would be.", "returned": "always", "type": "bool"}
    contains["actions"] = {"description": "The actions of its steps.", "returned": "always", "type": "list", "elements": "str"}
    contains["restart_required"] = {"description": "The fields that wait for a restart of it.", "returned": "always", "type": "list", "elements": "str"}
    contains["error"] = {"description": "What went wrong with it; independent objects go on.", "returned": "on failure", "type": "dict"}
    objects = "Every object of the document, and what it brought along, with what was measured of it (see the module of its kind)."
    return common_return() | {
        "restart_required": {"description": "The objects with fields that wait for a restart.", "returned": "always", "type": "list", "elements": "str", "sample": ["vm web1"]},
        "objects": {"description": objects, "returned": "unless refused", "type": "list", "elements": "dict", "contains": contains},
    }


def module_text(path: Path, documentation: dict[str, Any], returned: dict[str, Any]) -> str:
    """The module's file with its two generated constants renewed."""
    text = path.read_text()
    for constant, data in (("DOCUMENTATION", documentation), ("RETURN", returned)):
        pattern = re.compile(rf'^{constant} = r"""\n.*?^"""$', re.MULTILINE | re.DOTALL)
        renewed = f'{constant} = r"""\n---\n{dump(data)}"""' if constant == "DOCUMENTATION" else f'{constant} = r"""\n{dump(data)}"""'
        text, count = pattern.subn(lambda _, renewed=renewed: renewed, text)
        if count != 1:
            raise SystemExit(f"{path}: there must be one {constant}")
    return text


# --- the site document


def site_document() -> str:
    """The reference of the site document."""
    parts = [INTRODUCTION, "| section | what |\n|---|---|\n" + "".join(f"| [`{kind.section}`](#{kind.section}) | {kind.doc} |\n" for kind in KINDS)]
    for kind in KINDS:
        parts.append(f"## {kind.section}\n\n{kind.doc} Module: `domus.virt.{kind.name}`.\n\n```yaml\n{EXAMPLES[kind.section].strip()}\n```\n")
        parts += tables(kind.section, kind.spec, fields_of(kind.spec))
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


def main() -> int:
    """Write what differs, or with --check fail when something does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file has drifted from the tables")
    check = parser.parse_args().check
    wanted = {path: module_text(path, *docs) for path, docs in module_files().items()}
    wanted[ROOT / "docs" / "reference" / "site-document.md"] = site_document()
    drifted = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in drifted:
        print(f"{path.relative_to(ROOT)} {'has drifted from the tables: run make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
