"""What the modules return, as their documentation has it."""

from __future__ import annotations

import dataclasses
from typing import Any

from plugins.module_utils.domus_core.model.kind import Kind

from .modules import marked
from .texts import MEASURED

Described = dict[str, Any]


def value(description: str, type_: str, returned: str = "always", **more: Any) -> Described:
    """The documentation of one value."""
    return {"description": marked(description), "returned": returned, "type": type_, **more}


def texts(description: str, returned: str = "always", **more: Any) -> Described:
    """The documentation of a list of texts."""
    return {**value(description, "list", returned), "elements": "str", **more}


def measured_doc(kind: Kind) -> Described:
    """What is told of one object. Raises SystemExit when the texts and the measured fields are not the same."""
    fields = [field.name for field in dataclasses.fields(kind.state) if field.name != "state"]
    if {*fields} != {*MEASURED[kind.name]}:
        raise SystemExit(f"scripts/reference/texts.py: MEASURED for {kind.name} must have exactly {', '.join(fields)}")
    return {name: value(*MEASURED[kind.name][name], "when the object exists") for name in fields}


def known_as() -> Described:
    """What every object is told with."""
    return {
        "kind": value("The kind of the object.", "str"),
        "name": value("What it is known by; `repository/name` for a virtual disk.", "str"),
        "state": value("In which state it is.", "str"),
    }


def common_return() -> Described:
    """What every module that changes something returns."""
    error = "What was wrong: a stable `code`, the message, and where known `object`, `field`, `value` and `remedy`."
    sample = {"code": "conflict", "message": "a disk can not shrink: it has 20GiB", "object": "vm web1", "field": "disks[root].size", "value": "10GiB"}
    return {
        "actions": texts(
            "The steps that were taken, or would be in check mode: action, kind and name.",
            sample=["create virtual_disk main/web1-root", "create vm web1", "start vm web1"],
        ),
        "error": value(error, "dict", "on failure", sample=sample),
    }


def resource_return(kind: Kind) -> Described:
    """What the module that manages one object returns."""
    object_ = "The object as it was measured after the task, in check mode before it."
    return common_return() | {
        "restart_required": texts("The fields whose definition has changed and that wait for a restart of the object."),
        "object": value(object_, "dict", contains=known_as() | measured_doc(kind)),
    }


def info_return(kind: Kind) -> Described:
    """What the module that tells of the objects of a kind returns."""
    more = {
        "spec": value("Its definition, in the fields of the module that manages it; sizes in bytes, secrets masked.", "dict"),
        "asked": value("What Domus was asked for, in the same fields.", "dict", "when Domus keeps a record of that"),
        "server": value("The server that it is on.", "str", "when O(transport=manager), and it is not a server itself"),
        "restart_required": texts("The fields that wait for a restart of it."),
    }
    told = {kind.section: value("The objects.", "list", elements="dict", contains=known_as() | measured_doc(kind) | more)}
    if kind.name == "server":
        told["measured"] = value("This server, whether or not it is in a document.", "dict", "when O(transport=local)", contains=measured_doc(kind))
    if kind.name == "vm":
        asked = "when O(as_document=true)"
        told["vms"]["returned"] = "unless O(as_document=true)"
        told["document"] = value("A site document with the VMs, and the directories of their disks as repositories.", "dict", asked)
        told["not_managed"] = value("For each VM, what in its definition Domus does not manage.", "dict", asked)
    return told


def apply_return() -> Described:
    """What the module that applies a document returns."""
    each = known_as() | {
        "changed": value("Whether it was changed, or would be.", "bool"),
        "actions": texts("The actions of its steps."),
        "restart_required": texts("The fields that wait for a restart of it."),
        "error": value("What went wrong with it; independent objects go on.", "dict", "on failure"),
        "server": value("The server that it is on.", "str", "when O(transport=manager), and it is not a server itself"),
    }
    objects = "Every object of the document, and what it brought along, with what was measured of it (see the module of its kind)."
    return common_return() | {
        "restart_required": texts("The objects with fields that wait for a restart.", sample=["vm web1"]),
        "objects": value(objects, "list", "unless refused", elements="dict", contains=each),
    }
