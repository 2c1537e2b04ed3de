"""Jobs that ran when the manager was killed: what their agents know of them is their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domus_core.errors import NotFound

from ..store import servers
from . import operations
from .outcome import ENDED, FAILED, Interrupted, Lost, Outcome, Target, failure, outcome_of
from .tools import Stopped, Tools
from .verb_run import VerbRun

SECONDS = 30.0


def recover_verb(verb: VerbRun, job: Mapping[str, Any]) -> Outcome:
    """Follow the verb's operation to its end, as if nothing had happened."""
    try:
        return verb.run(again=True)
    except NotFound:
        error = Lost("the manager was restarted, and the agent knows nothing of this job", object=f"job {job['id']}", remedy="Look at the VM, then relaunch it")
        return failure(error, [(one["kind"], one["name"], job["servers"][0]) for one in job["objects"]])


def recover_apply(tools: Tools, job: Mapping[str, Any], targets: frozenset[Target]) -> Outcome:
    """What its operations have come to; those that still work are cancelled, since the job's certificate and playbook are gone.

    Raises Stopped when the manager ends meanwhile.
    """

    def ask(server: str) -> dict[str, Any]:
        operation = operations.operation_id(job["id"], server)
        first = operations.settle(tools.agents, server, operation, cancel=False, patience=0, stopping=tools.stopping)
        if first["state"] in ENDED or first["state"] == operations.UNKNOWN:
            return first
        return operations.settle(tools.agents, server, operation, cancel=True, patience=SECONDS, stopping=tools.stopping)

    interrupted = Interrupted("the manager was restarted", object=f"job {job['id']}", remedy="Relaunch it")
    statuses = operations.on_each(job["servers"], ask)
    if tools.stopping.is_set():
        raise Stopped
    process = job["process"] or {}
    if process.get("serial") and any(status["state"] not in ENDED for status in statuses.values()):
        servers.revoke(tools.store, process["serial"], job["servers"], process["until"])
        operations.revoke(tools.agents, job["servers"], process["serial"], process["until"])
    known = {server: status if status["state"] in ENDED else {**status, "state": FAILED, "error": None} for server, status in statuses.items()}
    names = {one["id"]: str(one["name"]) for one in servers.all(tools.store)}
    reason = None if all(status["state"] in ENDED and status["state"] != "cancelled" for status in statuses.values()) else interrupted
    return outcome_of(known, names, targets, reason)
