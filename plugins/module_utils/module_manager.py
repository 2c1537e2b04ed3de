"""The transport `manager`: the same document goes to the manager's API, and what comes back is told as if the engine had run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Optional

from .domus_core.clients.manager import ManagerClient
from .domus_core.errors import InvalidSpec
from .domus_core.model.kind import Kind
from .domus_core.model.kinds import KINDS
from .module_results import Outcome, errors_of, measured

PAGE = 500
MOST_ASKED_FOR_BY_NAME = 20
# Where objects are listed by server, unless that is where their section says.
LISTED = {"server_pool": "server-pool-members"}
EMPTY: dict[str, Any] = {"changed": False, "actions": [], "changes": [], "restart_required": []}


def manager_of(parameters: Mapping[str, Any]) -> ManagerClient:
    """The manager that the options name. Raises InvalidSpec."""
    for option, variable in (("manager_url", "DOMUS_URL"), ("manager_token", "DOMUS_TOKEN")):
        if not parameters.get(option):
            raise InvalidSpec("is missing", field=option, remedy=f"The transport manager needs it: set the option, or {variable} in the environment")
    return ManagerClient(parameters["manager_url"], parameters["manager_token"], parameters.get("manager_ca") or None)


def apply_through(manager: ManagerClient, document: Mapping[str, Any], *, check: bool, wait_for_address: float, patience: float) -> Outcome:
    """Send a document and wait until it is carried out; the objects of the report, and all errors. Raises DomusError when it is refused.

    A job that still waits for another one after `patience` seconds is cancelled, and Busy raised.
    """
    answer = manager.apply(document, check=check, wait_for_address=wait_for_address)
    if not check:
        answer = manager.follow(answer["id"], patience=patience)
    report = answer if check else answer.get("result") or {}
    objects = _with_states(manager, [{**EMPTY, **one} for one in report.get("objects") or ()])
    errors = [*errors_of(objects), *(report.get("errors") or ())]
    return objects, _unique([*errors, *_own_error(answer, bool(errors))])


def _with_states(manager: ManagerClient, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects with what is measured of them, which is not in a job's result: the manager has it in its lists."""
    states: dict[tuple[str, str, str], Any] = {}
    for kind in KINDS:
        names = {one["name"].rsplit("/", 1)[-1] for one in objects if one["kind"] == kind.name}
        asked = [_items(manager, kind, None)] if len(names) > MOST_ASKED_FOR_BY_NAME else [_items(manager, kind, name) for name in sorted(names)]
        for item in chain.from_iterable(asked):
            states[kind.name, _key_of(item), item.get("server") or item["name"]] = (item.get("facts") or {}) if kind.name == "server" else item["measured"]
    return [{**one, "state": states.get((one["kind"], one["name"], one["server"]))} for one in objects]


def _items(manager: ManagerClient, kind: Kind, name: Optional[str]) -> Iterator[dict[str, Any]]:
    return manager.pages(f"/api/v1/{LISTED.get(kind.name, kind.section.replace('_', '-'))}", name=name, limit=PAGE)


def _key_of(item: Mapping[str, Any]) -> str:
    return str(item.get("key") or item["name"])


def _own_error(answer: Mapping[str, Any], explained: bool) -> list[Mapping[str, Any]]:
    """The error of the job itself; one that failed for no reason told must not pass for a success."""
    if answer.get("error"):
        return [answer["error"]]
    if explained or answer.get("state") not in ("failed", "cancelled"):
        return []
    code, told = ("cancelled", "was cancelled") if answer["state"] == "cancelled" else ("driver_error", "has failed")
    return [{"code": code, "message": f"the job {told}", "object": f"job {answer['id']}"}]


def _unique(errors: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each error once; one that stands for several gives way to them."""
    single = [one for error in errors for one in error.get("errors") or [error]]
    return list({(error.get("object"), error.get("field"), error.get("message")): error for error in single}.values())


def list_through(manager: ManagerClient, kind: Kind, name: Optional[str], repository: Optional[str]) -> dict[str, Any]:
    """What the information module of a kind returns, from the manager's lists."""
    describe = _server if kind.name == "server" else _description
    chosen = [item for item in _items(manager, kind, name) if repository is None or (item.get("spec") or {}).get("repository") == repository]
    return {"changed": False, kind.section: [describe(kind.name, item) for item in chosen]}


def _description(kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
    described = {
        **measured(kind, _key_of(item), item["measured"]),
        "spec": item["spec"],
        "restart_required": list(item.get("restart_required") or ()),
        "server": item["server"],
    }
    if item.get("recorded") is not None:
        described["asked"] = item["recorded"]
    return described


def _server(kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
    told = {"kind": kind, "name": item["name"], "state": item["state"], "address": item["address"], "spec": {"name": item["name"]}, "restart_required": []}
    return {**(item.get("facts") or {}), **told}
