"""The Ansible face of the engine, and the only file that knows AnsibleModule: options from the field tables, one way to run all modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule

from .domus_core.documents import load_document
from .domus_core.driver import Driver
from .domus_core.engine import ObjectResult, Report, apply
from .domus_core.errors import DomusError, InvalidSpec
from .domus_core.model.document import Site, parse_document
from .domus_core.model.field_types import Choice, ListOf, Name
from .domus_core.model.fields import Field, Object, Objects, fields_of, plain
from .domus_core.model.kind import Kind
from .domus_core.model.kinds import BY_NAME
from .domus_core.model.snapshot import Found
from .domus_core.planning.comparison import waiting
from .domus_core.rendering import render_diff

CONNECTION: dict[str, Any] = {
    "uri": {"type": "str", "default": "qemu:///system"},
    "state_directory": {"type": "path", "default": "/var/lib/domus"},
}
CHANGE: dict[str, Any] = {
    "site": {"type": "str", "default": "default"},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int", "default": 120},
}
WAIT_FOR: dict[str, Any] = {"wait_for": {"type": "str", "choices": ["state", "address"], "default": "state"}}
DOCUMENT: dict[str, Any] = {
    "file": {"type": "path", "required": True},
    "server": {"type": "str"},
    "document_json": {"type": "str", "no_log": True},
}
MOST_ERRORS_TOLD = 20


def options_of(spec: type) -> dict[str, Any]:
    """The options of a kind, or of an object nested in it, as its field table has them."""
    return {field.name: _option(field) for field in fields_of(spec)}


def _option(field: Field) -> dict[str, Any]:
    kind, item = field.type, field.type.item if isinstance(field.type, ListOf) else field.type
    option: dict[str, Any] = {"type": kind.ansible}
    if isinstance(kind, (Object, Objects)):
        option["options"] = options_of(kind.spec)
    if kind.ansible == "list":
        option["elements"] = "dict" if isinstance(kind, Objects) else item.ansible
    if isinstance(item, Choice):
        option["choices"] = list(item.words)
    if field.required:
        option["required"] = True
    if field.secret:
        option["no_log"] = True
    return option


def resource_options(kind: Kind) -> dict[str, Any]:
    """All options of the module that manages one object of a kind."""
    return {**options_of(kind.spec), **CONNECTION, **CHANGE, **(WAIT_FOR if kind.name == "vm" else {})}


def info_options(kind: Kind) -> dict[str, Any]:
    """All options of the module that tells of the objects of a kind."""
    own: dict[str, Any] = {"name": {"type": "str"}}
    if kind.name == "virtual_disk":
        own["repository"] = {"type": "str"}
    if kind.name == "vm":
        own.update(as_document={"type": "bool", "default": False}, site=CHANGE["site"])
    return {**own, **CONNECTION}


def apply_options() -> dict[str, Any]:
    """All options of the module that applies a document."""
    common = {name: option for name, option in CHANGE.items() if name != "site"}
    return {**DOCUMENT, **CONNECTION, **common, **WAIT_FOR}


def run_resource_module(kind_name: str) -> None:
    """Make one object as the task wants it, and tell Ansible what that did."""
    kind = BY_NAME[kind_name]
    module = AnsibleModule(resource_options(kind), supports_check_mode=True)
    wanted = without_none({field.name: module.params[field.name] for field in fields_of(kind.spec)})
    _run(module, lambda: _apply_object(module, kind, {"site": module.params["site"], kind.section: [wanted]}))


def run_info_module(kind_name: str) -> None:
    """Tell what objects of a kind there are; nothing is changed."""
    kind = BY_NAME[kind_name]
    module = AnsibleModule(info_options(kind), supports_check_mode=True)
    _run(module, lambda: _tell(module.params, kind))


def run_apply_module() -> None:
    """Make everything as the document wants it, and tell Ansible what that did."""
    module = AnsibleModule(apply_options(), supports_check_mode=True)
    _run(module, lambda: _apply_document(module))


def open_driver_for(parameters: Mapping[str, Any]) -> Driver:
    """The driver for the task's `uri`: libvirt, or a server kept in a file (`fake:///path.json`). Raises DomusError."""
    uri = parameters["uri"]
    if uri.startswith("fake:"):
        from .domus_core.fake_driver.file_driver import open_file_driver

        return open_file_driver(uri)
    from .domus_core.libvirt_driver.driver import open_driver

    return open_driver(uri, parameters["state_directory"])


def without_none(value: Any) -> Any:
    """The options that were given: None stands for one that was left out, at every depth."""
    if isinstance(value, dict):
        return {name: without_none(entry) for name, entry in value.items() if entry is not None}
    return [without_none(entry) for entry in value] if isinstance(value, list) else value


def _run(module: AnsibleModule, work: Any) -> None:
    failure: Optional[dict[str, Any]] = None
    outcome: dict[str, Any] = {}
    try:
        outcome = work()
    except DomusError as error:
        failure = {"msg": str(error), "error": error.as_dict()}
    if failure is not None:  # outside of the except clause, or Ansible adds a traceback
        module.fail_json(changed=False, **failure)
    if "msg" in outcome:
        module.fail_json(**outcome)
    module.exit_json(**outcome)


def _apply_object(module: AnsibleModule, kind: Kind, document: dict[str, Any]) -> dict[str, Any]:
    site = parse_document(document)
    report = _apply(module, site)
    key = next(iter(site.wanted(kind.name)))
    (own,) = (result for result in report.results if (result.kind, result.key) == (kind.name, key))
    return {**_told(module, report), "object": _measured(own.kind, own.key, own.found), "restart_required": list(own.restart_required)}


def _apply_document(module: AnsibleModule) -> dict[str, Any]:
    text = module.params["document_json"]
    if text is None:
        raise InvalidSpec("is filled in by the action plugin", field="document_json", remedy="Call domus.virt.apply as a task, with file")
    report = _apply(module, parse_document(load_document(text), server=module.params["server"]))
    late = [f"{result.kind} {result.key}" for result in report.results if result.restart_required]
    return {**_told(module, report), "objects": [_result(result) for result in report.results], "restart_required": late}


def _apply(module: AnsibleModule, site: Site) -> Report:
    seconds = module.params["wait_timeout"] if module.params["wait"] else 0
    if seconds < 0:
        raise InvalidSpec("is less than 0", field="wait_timeout", value=seconds)
    driver = open_driver_for(module.params)
    try:
        for_address = seconds if module.params.get("wait_for") == "address" else 0
        return apply(site, driver, check=module.check_mode, wait_for_address=for_address, patience=seconds)
    finally:
        driver.close()


def _told(module: AnsibleModule, report: Report) -> dict[str, Any]:
    """What every module that changes something returns."""
    outcome: dict[str, Any] = {"changed": report.changed, "actions": [f"{step.action} {step.name}" for result in report.results for step in result.steps]}
    if module._diff:
        outcome["diff"] = [_diff(result) for result in report.results if result.changes]
    if report.errors:
        told = [str(error) for error in report.errors[:MOST_ERRORS_TOLD]]
        more = [f"and {len(report.errors) - MOST_ERRORS_TOLD} more"] if len(report.errors) > MOST_ERRORS_TOLD else []
        outcome.update(msg="\n".join(told + more), error=report.errors[0].as_dict())
    return outcome


def _diff(result: ObjectResult) -> dict[str, str]:
    header = f"{result.kind} {result.key}"
    return {"before_header": header, "after_header": header, **render_diff(result.changes)}


def _result(result: ObjectResult) -> dict[str, Any]:
    data = {**_measured(result.kind, result.key, result.found), "changed": result.changed, "actions": [step.action for step in result.steps]}
    data["restart_required"] = list(result.restart_required)
    if result.error is not None:
        data["error"] = result.error.as_dict()
    return data


def _measured(kind: str, key: str, found: Optional[Found]) -> dict[str, Any]:
    """One object as it was found: what it is known by, in which state it is, and what was measured of it."""
    data: dict[str, Any] = {"kind": kind, "name": key, "state": "absent"}
    if found is None:
        return data
    measured = dataclasses.asdict(found.state)
    data["state"] = "present" if "active" not in measured else "active" if measured["active"] else "inactive"
    return {**data, **measured}


def _tell(parameters: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    name, repository = (None if parameters.get(field) is None else Name().parse(parameters[field]) for field in ("name", "repository"))
    driver = open_driver_for(parameters)
    try:
        if parameters.get("as_document"):
            from .domus_core.libvirt_driver.adoption import adopt

            return {"changed": False, **adopt(driver, None if name is None else [name], parameters["site"])}
        snapshot = driver.read(Site("default", {}))
        chosen = [(key, found) for key, found in snapshot.all(kind.name) if _is_chosen(found.spec, name, repository)]
        if kind.name == "vm":
            chosen = [(key, _with_addresses(driver, found)) for key, found in chosen]
    finally:
        driver.close()
    told: dict[str, Any] = {"changed": False, kind.section: [_description(kind.name, key, found) for key, found in chosen]}
    if kind.name == "server":
        told["measured"] = dataclasses.asdict(snapshot.server)
    return told


def _with_addresses(driver: Driver, vm: Found) -> Found:
    if vm.state.state != "running":
        return vm
    return dataclasses.replace(vm, state=dataclasses.replace(vm.state, addresses=driver.addresses(vm.spec.name)))


def _is_chosen(spec: Any, name: Optional[str], repository: Optional[str]) -> bool:
    return name in (None, spec.name) and (repository is None or spec.repository == repository)


def _description(kind: str, key: str, found: Found) -> dict[str, Any]:
    described = {**_measured(kind, key, found), "spec": plain(found.spec), "restart_required": list(waiting(found.spec, found.running))}
    if found.recorded is not None:
        described["asked"] = plain(found.recorded)
    return described
