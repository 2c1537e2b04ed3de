"""A migration at work: the destination makes ready, the source sends, and both say what came of it.

The memory goes from server to server without us. A manager that was killed asks both afterwards; nobody's silence is taken for an answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Optional

from domus_core.errors import Conflict, DomusError, NotFound, Unreachable, error_from_dict
from domus_core.model.fields import given
from domus_core.model.migration import destination, moving_vm, parse_migration
from domus_core.planning import migration as planning
from domus_core.planning.migration import Verdict, plan_migration

from ..store import requests, servers
from ..store.jobs import MIGRATE
from .outcome import SUCCEEDED, Outcome
from .output import JobOutput
from .tools import Stopped, Tools
from .verb_run import VerbRun

PREPARE_SECONDS = 120.0
SETTLE_SECONDS = 60.0
ASK_SECONDS = 3.0
# An operation that ended so without a verdict may have moved the VM all the same.
UNCERTAIN = ("interrupted", "unreachable", "not_found", "driver_error", "busy")
# What the destination is seen to have does not change by itself, so the source may be told.
SETTLED_THERE = (planning.ABSENT, planning.RUNS, planning.DEFINED)
NOT_SEEN = {"seen": planning.SILENT, "open": True}


def check_migration(tools: Tools, vm: Mapping[str, Any], to: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Whether and how the VM would get to a server: {server, possible, plan, errors}. Raises NotFound, Unreachable for the source."""
    there = servers.find(tools.store, to)
    facts = moving_vm(tools.agents.call(vm["server_id"], "migration_facts", {"vm": vm["id"]})["vm"])
    told: dict[str, Any] = {"server": there["name"], "server_id": there["id"], "possible": False, "plan": None, "errors": []}
    try:
        offer = destination(tools.agents.call(there["id"], "migration_offer", {"vm": dataclasses.asdict(facts)}))
        told.update(possible=True, plan=plan_migration(facts, offer, parse_migration(dict(options))).as_dict())
    except DomusError as error:
        data = error.as_dict()
        told.update(errors=data.get("errors") or [data])
    return told


class MigrateRun(VerbRun):
    """One migration; used like a verb."""

    def __init__(self, tools: Tools, job: Mapping[str, Any], targets: frozenset[Any]) -> None:
        super().__init__(tools, job, targets)
        self._to = str(job["servers"][1])
        self._asked: Optional[dict[str, Any]] = None

    def run(self, *, again: bool = False) -> Outcome:
        """As a verb's; the outcome is that of both servers."""
        return super().run(again=again)

    @property
    def _vm(self) -> str:
        return str(self._job["options"]["vm"])

    def _submit(self) -> dict[str, Any]:
        """Have the destination make ready, then the source begin; what was made ready is taken back when it does not."""
        with contextlib.suppress(NotFound):  # the manager was killed after it was begun, and before that was written down
            return self._ask("status")
        here, there = servers.find(self._tools.store, self._server), servers.find(self._tools.store, self._to)
        options, operation = self._job["options"]["migration"], self._job["id"]
        facts = self._tools.agents.call(self._server, "migration_facts", {"vm": self._vm, "contents": True}, timeout=PREPARE_SECONDS)
        receive = {"operation": operation, "vm": facts["vm"], "options": options, "source": here["address"], "contents": facts["contents"]}
        ready = self._tools.agents.call(self._to, "receive_migration", receive, timeout=PREPARE_SECONDS)
        told = {name: ready[name] for name in ("destination", "plan")}
        told["destination"] = {**told["destination"], "name": there["name"]}
        more = {"address": there["address"], "source_name": here["name"], "probes": facts["vm"]["probes"]}
        if ready["destination"]["address"]:
            more["tls_name"] = there["address"]
        self._asked = {"operation": operation, "kind": MIGRATE, "vm": self._vm, "options": options, **told, **more}
        try:
            return dict(self._tools.agents.call(self._server, "submit", self._asked))
        except Unreachable:
            return {"state": "running"}  # it may have come through: following it tells
        except DomusError:
            self._settle(self._to, discard=True)
            raise

    def _follow(self, status: dict[str, Any], output: JobOutput) -> dict[str, Any]:
        """Until the source's operation has ended, then until it is known what came of it."""
        while True:
            try:
                status = super()._follow(status, output)
            except NotFound:
                status = self._not_known(output)
            except Unreachable as error:
                return self._by_asking(error, output)
            told = status.get("error") or {}
            if (status.get("result") or {}).get("verdict") or told.get("code") not in UNCERTAIN:
                return self._both(status, output)
            if told["code"] != "interrupted":
                return self._by_asking(error_from_dict(told), output)
            output.put("progress", {"line": "the source's agent was restarted; libvirt goes on with it"})
            if self._asked is None:
                return self._by_asking(None, output)
            status = self._resubmit()

    def _not_known(self, output: JobOutput) -> dict[str, Any]:
        """The submission got lost, or the agent has lost its database."""
        if self._asked is None:
            return self._by_asking(None, output)
        return self._resubmit()

    def _resubmit(self) -> dict[str, Any]:
        try:
            return dict(self._tools.agents.call(self._server, "submit", self._asked or {}))
        except Unreachable:
            return {"state": "running"}

    def _both(self, status: dict[str, Any], output: JobOutput) -> dict[str, Any]:
        """The source's word, completed by the destination's."""
        verdict = (status.get("result") or {}).get("verdict") or {}
        if verdict.get("owner") == planning.UNKNOWN:
            return self._by_asking(error_from_dict(status.get("error") or {}), output)
        arrived = verdict.get("owner") == planning.DESTINATION
        there = self._settle(self._to, discard=not arrived, until_settled=arrived)
        if arrived:
            self._moved()
        result = {**(status.get("result") or {}), "downtime": there.get("downtime")}
        return {**status, "result": result if status.get("result") else status.get("result"), "mark_there": there.get("mark")}

    def _by_asking(self, error: Optional[DomusError], output: JobOutput) -> dict[str, Any]:
        """Nobody can say any more how the operation ended: what both servers see does."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            there = self._settle(self._to)
            here = self._settle(self._server, there=there["seen"] if there["seen"] in SETTLED_THERE else None)
            verdict = planning.settle(here["seen"], there["seen"])
            moving = planning.MOVING in (here["seen"], there["seen"])
            settled = verdict.final and not here["open"]
            if settled or (time.monotonic() > deadline and not moving):
                break
            if moving:
                deadline = time.monotonic() + SETTLE_SECONDS
            if self._tools.stopping.wait(1.0):
                raise Stopped
        output.put("progress", {"line": verdict.reason})
        if verdict.owner == planning.SOURCE and verdict.at_destination == planning.DROP:
            there = self._settle(self._to, discard=True)
        if verdict.owner == planning.DESTINATION:
            self._moved()
        return {**self._as_status(verdict, error), "mark": here.get("mark"), "mark_there": there.get("mark")}

    def _as_status(self, verdict: Verdict, error: Optional[DomusError]) -> dict[str, Any]:
        names = {
            planning.SOURCE: servers.find(self._tools.store, self._server)["name"],
            planning.DESTINATION: servers.find(self._tools.store, self._to)["name"],
        }
        arrived = verdict.owner == planning.DESTINATION
        name = self._job["objects"][0]["name"]
        entry: dict[str, Any] = {"kind": "vm", "name": name, "changed": arrived, "actions": ["migrate"] if arrived else [], "changes": []}
        if not arrived:
            where = f"it is on {names[verdict.owner]}" if verdict.owner in names else "which server has it is not known"
            cause = f"; {error.message}" if error is not None else ""
            remedy = "It is settled once both servers answer" if verdict.owner not in names else "Move it again"
            kind = type(error) if error is not None else Conflict
            entry["error"] = kind(f"was not moved: {where} ({verdict.reason}){cause}", object=f"vm {name}", remedy=remedy).as_dict()
        result = {"objects": [entry], "verdict": dataclasses.asdict(verdict)}
        return {"state": SUCCEEDED if arrived else "failed", "result": result, "error": entry.get("error"), "progress": []}

    def _settle(self, server: str, *, discard: bool = False, until_settled: bool = False, there: Optional[str] = None) -> dict[str, Any]:
        """What a server sees of the VM; a server that does not answer sees nothing."""
        wait = 20.0 if until_settled else ASK_SECONDS if discard else 0.0
        try:
            asked = {"uuid": self._vm, "discard": discard, "wait": wait, "there": there}
            return dict(self._tools.agents.call(server, "settle_migration", asked, timeout=wait + 20.0))
        except DomusError:
            return dict(NOT_SEEN)

    def _completed(self, outcome: Outcome, status: dict[str, Any]) -> Outcome:
        """With what was measured, and when the destination's reports about it are stored."""
        told = status.get("result") or {}
        more = {name: told[name] for name in ("verdict", "downtime", "kept", "warnings") if told.get(name)}
        marks = {**outcome.marks, **({self._to: int(status["mark_there"])} if status.get("mark_there") is not None else {})}
        return dataclasses.replace(outcome, result={**(outcome.result or {}), "migration": more}, marks=marks)

    def _moved(self) -> None:
        """What was asked of the VM holds where it is now."""
        vm = self._job["objects"][0]["name"]
        requests.move(self._tools.store, self._job["options"].get("site"), "vm", vm, self._server, self._to)


def options_of(body: Any) -> dict[str, Any]:
    """The options of a request's body as plain data, without those that concern only us."""
    return {name: value for name, value in given(body).items() if name != "server"}
