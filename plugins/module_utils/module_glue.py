"""The Ansible face of the engine, and the only file that knows AnsibleModule: options from the field tables, one way to run all modules."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any, Callable, Optional

from ansible.module_utils.basic import AnsibleModule, env_fallback

from .domus_core.documents import load_document
from .domus_core.driver import Driver
from .domus_core.engine import Report, apply
from .domus_core.errors import DomusError, InvalidSpec, Unsupported
from .domus_core.model.document import Site, parse_document
from .domus_core.model.field_types import Choice, ListOf, Name
from .domus_core.model.fields import Field, Object, Objects, plain, public, public_fields
from .domus_core.model.kind import Kind
from .domus_core.model.kinds import BY_NAME
from .domus_core.model.snapshot import Found
from .domus_core.owner import owner, require_free, write_down_forced
from .domus_core.planning.comparison import waiting
from .module_results import Outcome, errors_of, measured, told_of_document, told_of_object

CONNECTION: dict[str, Any] = {
    "uri": {"type": "str", "default": "qemu:///system"},
    "state_directory": {"type": "path", "default": "/var/lib/domus"},
}
TRANSPORT: dict[str, Any] = {
    "transport": {"type": "str", "choices": ["local", "manager"], "default": "local", "fallback": (env_fallback, ["DOMUS_TRANSPORT"])},
    "manager_url": {"type": "str", "fallback": (env_fallback, ["DOMUS_URL"])},
    "manager_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["DOMUS_TOKEN"])},
    "manager_ca": {"type": "path", "fallback": (env_fallback, ["DOMUS_CA"])},
    "force_local": {"type": "bool", "default": False},
}
COMMON: dict[str, Any] = {**CONNECTION, **TRANSPORT}
CHANGE: dict[str, Any] = {
    "site": {"type": "str", "default": "default"},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int", "default": 120},
}
WAIT_FOR: dict[str, Any] = {"wait_for": {"type": "str", "choices": ["state", "address"], "default": "state"}}
DOCUMENT: dict[str, Any] = {
    "file": {"type": "path"},
    "server": {"type": "str"},
    "targets_file": {"type": "path"},
    "document_json": {"type": "str", "no_log": True},
}

# The modules about a manager's servers: their own options.
SERVER_MODULES: dict[str, dict[str, Any]] = {
    "managed_server": {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["managed", "free"], "default": "managed"},
        "address": {"type": "str"},
        "port": {"type": "int"},
        "secret": {"type": "str", "no_log": True},
        "pool": {"type": "str"},
        "replace": {"type": "bool", "default": False},
        "force": {"type": "bool", "default": False},
        "fresh": {"type": "bool", "default": False},
        "wait": CHANGE["wait"],
        "wait_timeout": CHANGE["wait_timeout"],
    },
    "server_maintenance": {
        "name": {"type": "str", "required": True},
        "enabled": {"type": "bool", "default": True},
        "evacuate": {"type": "bool", "default": False},
        "copy_storage": {"type": "bool", "default": False},
        "stopped": {"type": "bool", "default": False},
        "reason": {"type": "str"},
        "wait_timeout": {"type": "int", "default": 3600},
    },
}


def options_of(spec: type) -> dict[str, Any]:
    """The options of a kind, or of an object nested in it, as its field table has them."""
    return {field.name: _option(field) for field in public_fields(spec)}


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
    elif "token" in field.name:  # Corosync's; Ansible would take it for a secret, and warn
        option["no_log"] = False
    return option


def resource_options(kind: Kind) -> dict[str, Any]:
    """All options of the module that manages one object of a kind."""
    return {**options_of(kind.spec), **COMMON, **CHANGE, **(WAIT_FOR if kind.name == "vm" else {})}


def info_options(kind: Kind) -> dict[str, Any]:
    """All options of the module that tells of the objects of a kind."""
    own: dict[str, Any] = {"name": {"type": "str"}}
    if kind.name == "virtual_disk":
        own["repository"] = {"type": "str"}
    if kind.name == "vm":
        own.update(as_document={"type": "bool", "default": False}, site=CHANGE["site"])
    return {**own, **COMMON}


def apply_options() -> dict[str, Any]:
    """All options of the module that applies a document."""
    common = {name: option for name, option in CHANGE.items() if name != "site"}
    agent = {"transport": {**TRANSPORT["transport"], "choices": [*TRANSPORT["transport"]["choices"], "agent"]}}
    return {**DOCUMENT, **COMMON, **agent, **common, **WAIT_FOR}


def run_resource_module(kind_name: str) -> None:
    """Make one object as the task wants it, and tell Ansible what that did."""
    kind = BY_NAME[kind_name]
    module = AnsibleModule(resource_options(kind), supports_check_mode=True)
    wanted = without_none({field.name: module.params[field.name] for field in public_fields(kind.spec)})
    run_guarded(module, lambda: _apply_object(module, kind, {"site": module.params["site"], kind.section: [wanted]}))


def run_info_module(kind_name: str) -> None:
    """Tell what objects of a kind there are; nothing is changed."""
    kind = BY_NAME[kind_name]
    module = AnsibleModule(info_options(kind), supports_check_mode=True)
    run_guarded(module, lambda: _tell(module.params, kind))


def run_apply_module() -> None:
    """Make everything as the document wants it, and tell Ansible what that did."""
    module = AnsibleModule(apply_options(), supports_check_mode=True, required_one_of=[("file", "targets_file")])
    run_guarded(module, lambda: _apply_document(module))


def server_options(name: str) -> dict[str, Any]:
    """All options of a module about a manager's servers."""
    return {**SERVER_MODULES[name], **{option: TRANSPORT[option] for option in ("manager_url", "manager_token", "manager_ca")}}


def run_server_module(name: str) -> None:
    """Ask the manager for something about one of its servers, and tell Ansible what that did."""
    from . import module_servers  # not above: HTTP and TLS take time to load, and most tasks need none

    module = AnsibleModule(server_options(name), supports_check_mode=True)
    work: Callable[[Mapping[str, Any], bool], dict[str, Any]] = getattr(module_servers, name)
    run_guarded(module, lambda: work(module.params, module.check_mode))


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


def run_guarded(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> None:
    """Do the work and end the module with its outcome; errors, unexpected ones as well, are told without a traceback."""
    failure: Optional[dict[str, Any]] = None
    outcome: dict[str, Any] = {}
    try:
        outcome = work()
    except DomusError as error:
        failure = {"msg": str(error), "error": error.as_dict()}
    except Exception as error:
        failure = unexpected(error)
    if failure is not None:  # outside of the except clause, or Ansible adds a traceback
        module.fail_json(changed=False, **failure)
    if "msg" in outcome:
        module.fail_json(**outcome)
    module.exit_json(**outcome)


def unexpected(error: Exception) -> dict[str, Any]:
    """What to tell of an error that nobody foresaw: its kind and its place, not its words, which may hold a secret."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place, trace = f"{os.path.basename(trace.tb_frame.f_code.co_filename)} line {trace.tb_lineno}", trace.tb_next
    message = f"unexpected {type(error).__name__} in {place} (Python {sys.version.split()[0]})"
    told = {"code": "unexpected", "message": message, "remedy": "Please report this"}
    return {"msg": f"{message}. Please report this", "error": told}


def _apply_object(module: AnsibleModule, kind: Kind, document: dict[str, Any]) -> dict[str, Any]:
    site = parse_document(document)
    objects, errors = _apply(module, document, site)
    return told_of_object(objects, errors, kind.name, next(iter(site.wanted(kind.name))), diff=module._diff)


def _apply_document(module: AnsibleModule) -> dict[str, Any]:
    text = module.params["document_json"]
    if text is None:
        raise InvalidSpec("is filled in by the action plugin", field="document_json", remedy="Call domus.virt.apply as a task, with file")
    document = load_document(text)
    site = parse_document(document, server=module.params["server"] if module.params["transport"] == "local" else None)
    return told_of_document(*_apply(module, document, site), diff=module._diff)


def _apply(module: AnsibleModule, document: dict[str, Any], site: Site) -> Outcome:
    """Carry a document out, here or through the manager: the objects of the report as data, and their errors."""
    seconds = patience_of(module.params)
    for_address = seconds if module.params.get("wait_for") == "address" else 0
    if module.params["transport"] != "local":
        from .module_manager import apply_through, manager_of  # not above: HTTP and TLS take time to load, and most tasks need none

        manager = manager_of(module.params)
        return apply_through(manager, document, check=module.check_mode, wait_for_address=for_address, patience=seconds)
    driver = open_driver_for(module.params)
    try:
        report = _foreseen(module, site, driver, seconds) or apply(site, driver, check=module.check_mode, wait_for_address=for_address, patience=seconds)
    finally:
        driver.close()
    objects = [result.as_dict() for result in report.results]
    return objects, errors_of(objects)


def patience_of(parameters: Mapping[str, Any]) -> int:
    """How many seconds to wait at most. Raises InvalidSpec."""
    seconds = parameters["wait_timeout"] if parameters["wait"] else 0
    if seconds < 0:
        raise InvalidSpec("is less than 0", field="wait_timeout", value=seconds)
    return int(seconds)


def _foreseen(module: AnsibleModule, site: Site, driver: Driver, seconds: int) -> Optional[Report]:
    """On a server that a manager owns: the report when nothing is to change, None when the change is forced, else OwnedByManager is raised."""
    if module.check_mode or owner(module.params["state_directory"]) is None:
        return None
    report = apply(site, driver, check=True, patience=seconds)
    if not report.changed:
        return report
    if not module.params["force_local"]:
        require_free(module.params["state_directory"])
    actions = [f"{step.action} {step.name}" for result in report.results for step in result.steps]
    write_down_forced(module.params["state_directory"], report.site, actions)
    return None


def _tell(parameters: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    name, repository = (None if parameters.get(field) is None else Name().parse(parameters[field]) for field in ("name", "repository"))
    if parameters["transport"] != "local":
        from .module_manager import list_through, manager_of

        if parameters.get("as_document"):
            raise Unsupported("is not there with the transport manager", field="as_document", remedy="Use the command domus adopt, or the transport local")
        return list_through(manager_of(parameters), kind, name, repository)
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
        told["measured"] = _with_devices(parameters["uri"], dataclasses.asdict(snapshot.server))
    return told


def _with_devices(uri: str, server: dict[str, Any]) -> dict[str, Any]:
    """The same with what the kernel tells, unless it is a server in a file."""
    if uri.startswith("fake:") or not server.get("facts"):
        return server
    from .domus_core.libvirt_driver.host_facts import read_host

    return {**server, "facts": {**read_host(), **server["facts"]}}


def _with_addresses(driver: Driver, vm: Found) -> Found:
    if vm.state.state != "running":
        return vm
    return dataclasses.replace(vm, state=dataclasses.replace(vm.state, addresses=driver.addresses(vm.spec.name)))


def _is_chosen(spec: Any, name: Optional[str], repository: Optional[str]) -> bool:
    return name in (None, spec.name) and (repository is None or spec.repository == repository)


def _description(kind: str, key: str, found: Found) -> dict[str, Any]:
    described = {
        **measured(kind, key, dataclasses.asdict(found.state)),
        "spec": plain(public(found.spec)),
        "restart_required": list(waiting(found.spec, found.running)),
    }
    if found.recorded is not None:
        described["asked"] = plain(found.recorded)
    return described
