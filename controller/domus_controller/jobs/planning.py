"""Plans: what a document would do on every server concerned, stored with the fingerprint of what was found there."""

from __future__ import annotations

import uuid
from typing import Any

from domus_core.errors import Conflict, DomusError

from ..store import plans, servers
from ..store.database import Connection
from . import operations
from .moved import existing_of
from .older import explained
from .outcome import placed_on
from .tools import Tools, Work

PLAN_SECONDS = 120


def make_plan(tools: Tools, work: Work, by: str) -> dict[str, Any]:
    """Ask all agents at once and store the plan. Raises DomusError only when it can not be stored: what goes wrong on a server is in `errors`."""
    known = {str(one["id"]): one for one in servers.all(tools.store)}
    names = {server: str(one["name"]) for server, one in known.items()}
    existing = existing_of(tools, work)

    def ask(server: str) -> dict[str, Any]:
        try:
            parameters = {"document": work.documents[server], "server": names[server], "expected": None}
            if existing[server] and not known[server]["behind"]:
                parameters["existing"] = existing[server]
            return dict(tools.agents.call(server, "plan", parameters, timeout=PLAN_SECONDS))
        except DomusError as error:
            return {"objects": [], "error": explained(error.located(f"server {names[server]}").as_dict(), names[server])}

    reports = operations.on_each(work.documents, ask)
    shown = [{**_entry(entry, work), **placed_on(entry, names[server])} for server, report in reports.items() for entry in report["objects"]]
    errors = [report["error"] for report in reports.values() if "error" in report] + [entry["error"] for entry in shown if entry.get("error")]
    plan = {
        "id": str(uuid.uuid4()),
        "created_by": by,
        "changed": any(entry.get("changed") for entry in shown),
        "objects": shown,
        "fingerprints": {server: report["fingerprint"] for server, report in reports.items() if "fingerprint" in report},
        "errors": errors,
        "sealed": work.sealed(tools),
    }

    def change(connection: Connection) -> dict[str, Any]:
        return plans.create(connection, plan)

    return tools.store.write(change)


def planned_work(tools: Tools, plan_id: str) -> tuple[Work, dict[str, str]]:
    """What an open plan wants, and the fingerprint that each server must still have. Raises NotFound, Conflict."""
    plan = plans.details(tools.store, plan_id)
    label = f"plan {plan_id}"
    if plan["state"] != plans.OPEN:
        raise Conflict(f"is {plan['state']}", object=label, remedy="Make a new plan")
    if plan["errors"]:
        raise Conflict("has errors", object=label, remedy="Mend what it says, then make a new plan")
    work = Work.opened(tools, plan["sealed"])
    if work is None:
        raise Conflict("its document is not kept any more", object=label, remedy="Make a new plan")
    return work, dict(plan["fingerprints"])


def _entry(entry: dict[str, Any], work: Work) -> dict[str, Any]:
    shown = {name: value for name, value in entry.items() if name not in ("object", "state")}
    placed = work.placements.get(str(entry.get("name"))) if entry.get("kind") == "vm" else None
    return shown if placed is None else {**shown, "placement": placed["reason"]}
