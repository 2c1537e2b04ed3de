# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules about a manager's servers do: take over and release, and maintenance."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import quote

from .domus_core.clients.manager import ENDED, ManagerClient
from .domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Refused, Unreachable, error_from_dict
from .module_manager import manager_of

SERVERS = "/api/v1/servers"
# States of a server that answers.
ANSWERING = frozenset({"online", "running", "maintenance"})
# What evacuation moves, and what is lost to a server's VMs with the server.
RUNNING = frozenset({"running", "paused"})
LIVING = RUNNING | {"suspended"}
PAUSE = 0.5


def managed_server(parameters: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Have the manager own the server, or let it go: what the module returns. Raises DomusError."""
    manager, name = manager_of(parameters), str(parameters["name"])
    found = find_server(manager, name)
    if parameters["state"] == "free":
        return _release(manager, found, parameters, check)
    if found is None:
        if check:
            return told(True, None, "free", "managed")
        _take_over(manager, parameters)
        return told(True, _answering(manager, name, parameters), "free", "managed")
    _check_place(found, parameters)
    return told(False, _answering(manager, name, parameters) if parameters["wait"] else found, "managed", "managed")


def server_maintenance(parameters: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Put the server into maintenance or end it: what the module returns. Raises DomusError."""
    manager, name = manager_of(parameters), str(parameters["name"])
    found = _known(manager, name)
    wanted, evacuate = bool(parameters["enabled"]), bool(parameters["evacuate"])
    there = in_maintenance(found)
    left = _leaving(manager, name, parameters) if wanted and evacuate else []
    before, after = (f"maintenance: {str(value).lower()}" for value in (there, wanted))
    if there == wanted and not left:
        return told(False, found, before, after)
    if check and left:
        _require_movable(manager, name, parameters)
    if not check:
        answer = manager.put(f"{server_path(name)}/maintenance", _maintenance(parameters))
        _wait_for_job(manager, answer, int(parameters["wait_timeout"]))
        found = _known(manager, name)
        if wanted and evacuate and (left := vms_there(manager, name, RUNNING)):
            raise Conflict("VMs run there still", object=f"server {name}", value=", ".join(left), remedy="See why they could not move: domus job list")
    return told(True, found, before, after)


def _leaving(manager: ManagerClient, name: str, parameters: Mapping[str, Any]) -> list[str]:
    """The VMs that are to leave the server: those that run, and of the stopped ones, if they are wanted, those that can."""
    if not parameters["stopped"]:
        return vms_there(manager, name, RUNNING)
    plan = manager.post(f"{server_path(name)}/evacuate?check=true", _chosen(parameters))
    return [str(move["vm"]) for move in plan["moves"]]


def _require_movable(manager: ManagerClient, name: str, parameters: Mapping[str, Any]) -> None:
    """Raises what is in the way of the VMs that are to move; nothing is moved."""
    plan = manager.post(f"{server_path(name)}/evacuate?check=true", _chosen(parameters))
    errors = [error_from_dict(move["errors"][0]).located(f"vm {move['vm']}") for move in plan["moves"] if not move["possible"]]
    if errors:
        raise Refused(errors) if len(errors) > 1 else errors[0]


def _maintenance(parameters: Mapping[str, Any]) -> dict[str, Any]:
    enabled = bool(parameters["enabled"])
    evacuate = enabled and bool(parameters["evacuate"])
    told = {"enabled": enabled, "evacuate": evacuate, **({"reason": parameters["reason"]} if parameters["reason"] else {})}
    return {**told, **_chosen(parameters)} if evacuate else told


def _chosen(parameters: Mapping[str, Any]) -> dict[str, bool]:
    """Which VMs move, and how; what was not chosen is left out, since an older manager does not know it."""
    return {name: True for name in ("copy_storage", "stopped") if parameters.get(name)}


def told(changed: bool, server: Optional[Mapping[str, Any]], before: str, after: str) -> dict[str, Any]:
    """The result of a module."""
    return {"changed": changed, "server": dict(server) if server else {}, "diff": {"before": f"{before}\n", "after": f"{after}\n"}}


def find_server(manager: ManagerClient, name: str) -> Optional[dict[str, Any]]:
    """The server as the manager knows it; None when it does not."""
    return next(iter(manager.pages(SERVERS, name=name)), None)


def server_path(name: str) -> str:
    """The path of a server."""
    return f"{SERVERS}/{quote(name, safe='')}"


def vms_there(manager: ManagerClient, name: str, states: frozenset[str]) -> list[str]:
    """The names of the server's VMs that are in one of these states."""
    return sorted(str(vm["name"]) for vm in manager.pages("/api/v1/vms", server=name) if (vm.get("measured") or {}).get("state") in states)


def in_maintenance(server: Mapping[str, Any]) -> bool:
    """Whether the manager places and moves no VMs there."""
    return bool(server.get("maintenance")) or server.get("state") == "maintenance"


def _known(manager: ManagerClient, name: str) -> dict[str, Any]:
    found = find_server(manager, name)
    if found is None:
        raise NotFound(
            "is not a server of this manager", object=f"server {name}", remedy="Take it over first: playbooks/add_server.yml, or domus.virt.managed_server"
        )
    return found


def _take_over(manager: ManagerClient, parameters: Mapping[str, Any]) -> None:
    for option, remedy in (("address", "Say where its agent answers"), ("secret", "Run `domus-agent secret` there; it has none when another manager owns it")):
        if not parameters.get(option):
            raise InvalidSpec("is missing, and the manager does not know the server yet", object=f"server {parameters['name']}", field=option, remedy=remedy)
    body = {name: parameters[name] for name in ("name", "address", "port", "secret", "pool") if parameters[name] is not None}
    manager.post(SERVERS, {**body, **({"replace": True} if parameters["replace"] else {})})


def _check_place(found: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """A server under this name at another address may be another server."""
    for option in ("address", "port"):
        wanted = parameters.get(option)
        if wanted is not None and found.get(option) not in (None, wanted):
            remedy = "If it was reinstalled, give replace and its secret; if it only moved, take it over again: release it first"
            raise Conflict(f"is known at {found[option]}", object=f"server {found['name']}", field=option, value=wanted, remedy=remedy)


def _answering(manager: ManagerClient, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The server, once it has reported to its manager. Raises Unreachable after `wait_timeout` seconds."""
    deadline = time.monotonic() + int(parameters["wait_timeout"])
    earlier = _known(manager, name).get("last_seen") if parameters["fresh"] else ""
    while True:
        found = _known(manager, name)
        if not parameters["wait"] or (found.get("state") in ANSWERING and found.get("last_seen") != earlier):
            return found
        if time.monotonic() >= deadline:
            remedy = f"Does it reach {manager.url}? Run `domus-agent status` and `domus-agent doctor` there"
            raise Unreachable("has not reported to its manager", object=f"server {name}", value=found.get("state"), remedy=remedy)
        time.sleep(PAUSE)


def _release(manager: ManagerClient, found: Optional[dict[str, Any]], parameters: Mapping[str, Any], check: bool) -> dict[str, Any]:
    if found is None:
        return told(False, None, "free", "free")
    name = str(found["name"])
    left = vms_there(manager, name, LIVING)
    if left and not parameters["force"]:
        remedy = "Move them first (domus.virt.server_maintenance with evacuate), stop them, or give force: they go on, and no manager knows of them"
        raise Conflict(f"{len(left)} VMs run there", object=f"server {name}", value=", ".join(left), remedy=remedy)
    if not check:
        manager.delete(server_path(name), forget=True if parameters["force"] else None)
    return told(True, None, "managed", "free")


def _wait_for_job(manager: ManagerClient, answer: Any, seconds: int) -> None:
    """Wait until the job that the manager has answered with is done. Raises what went wrong in it."""
    job = answer if isinstance(answer, Mapping) and "kind" in answer and "state" in answer else (answer or {}).get("job")
    if not job:
        return
    job_id = str(job["id"]) if isinstance(job, Mapping) else str(job)
    ended = job if isinstance(job, Mapping) and job.get("state") in ENDED else manager.follow(job_id, timeout=seconds)
    if ended.get("state") != "succeeded":
        error = ended.get("error")
        raise error_from_dict(error) if error else DomusError(f"has {ended.get('state')}", object=f"job {job_id}", remedy=f"domus job show {job_id}")
