"""A verb job at work: one operation on one agent, known there by the job's own id."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Optional

from domus_core.errors import Cancelled, DomusError, Unreachable

from ..store import jobs, servers
from .outcome import ENDED, Outcome, Target, outcome_of
from .output import JobOutput
from .tools import Stopped, Tools

WAIT = 3
RETRIED_SECONDS = 60


class VerbRun:
    """One verb job; `run` is called once, `cancel` from any thread."""

    def __init__(self, tools: Tools, job: Mapping[str, Any], targets: frozenset[Target]) -> None:
        self._tools = tools
        self._job = job
        self._server = str(job["servers"][0])
        self._targets = targets
        self._cancelled_by: Optional[str] = None
        self._submitted = threading.Event()

    def cancel(self, by: str) -> None:
        """Ask the agent to leave off."""
        self._cancelled_by = self._cancelled_by or by
        if self._submitted.is_set():
            self._cancel_there()

    def stop(self) -> None:
        """The manager ends; the operation goes on, and the next start of the manager asks for it."""

    def run(self, *, again: bool = False) -> Outcome:
        """Submit it and wait for its end; `again` when the manager was restarted, and only asks what became of it.

        Raises DomusError when it could not be begun, NotFound when `again` and the agent does not know it, Stopped when the manager ends.
        """
        with JobOutput(self._tools.store, self._job["id"]) as output:
            status = {"state": "running"} if again else self._submit()
            self._submitted.set()
            jobs.start(self._tools.store, self._job["id"])
            if self._cancelled_by is not None:
                self._cancel_there()
            status = self._follow(status, output)
        names = {self._server: str(servers.find(self._tools.store, self._server)["name"])}
        reason = Cancelled(f"was cancelled by {self._cancelled_by}", object=f"job {self._job['id']}") if self._cancelled_by is not None else None
        outcome = outcome_of({self._server: status}, names, self._targets, reason)
        return self._completed(outcome, status)

    def _completed(self, outcome: Outcome, status: dict[str, Any]) -> Outcome:
        """The outcome, with what a kind of job adds to it."""
        return outcome

    def _submit(self) -> dict[str, Any]:
        options = self._job["options"]
        asked = {name: options.get(name) for name in ("vm", "verb", "site", "timeout")}
        parameters = {"operation": self._job["id"], "kind": "verb", **asked, "force": bool(options.get("force"))}
        return dict(self._tools.agents.call(self._server, "submit", parameters))

    def _follow(self, status: dict[str, Any], output: JobOutput) -> dict[str, Any]:
        """Ask until it has ended; an agent that is away gets a minute to come back."""
        since, heard = 0, time.monotonic()
        while True:
            for line in status.get("progress") or ():
                if line["n"] > since:
                    since = line["n"]
                    output.put("progress", {"line": line["line"]})
            if status["state"] in ENDED:
                return status
            if self._tools.stopping.is_set():
                raise Stopped
            try:
                status = self._ask("status", wait=WAIT, since=since)
                heard = time.monotonic()
            except Unreachable:
                if time.monotonic() - heard > RETRIED_SECONDS:
                    raise
                self._tools.stopping.wait(1)

    def _ask(self, method: str, **more: Any) -> dict[str, Any]:
        return dict(self._tools.agents.call(self._server, method, {"operation": self._job["id"], **more}, timeout=WAIT + 20))

    def _cancel_there(self) -> None:
        try:
            self._ask("cancel")
        except DomusError:  # whoever follows it finds out
            return
