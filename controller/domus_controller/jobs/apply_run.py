"""A playbook job at work: the runner carries the documents to the agents, the manager watches and settles."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Optional

from domus_core.errors import Cancelled, DomusError, DriverError, NotFound

from ..store import jobs, requests, servers
from . import operations
from .moved import SecondTry, existing_of, moves_of, targets_after, with_known, with_second_try
from .outcome import ENDED, Interrupted, Outcome, Status, Target, TimeIsOver, outcome_of
from .output import JobOutput
from .runner_client import RunnerConnection
from .tools import Stopped, Tools, Work

PATIENCE = 60
SETTLING_SECONDS = 30.0
LATER = 60


class ApplyRun:
    """One apply job; `run` is called once, `cancel` from any thread."""

    def __init__(self, tools: Tools, job: Mapping[str, Any], work: Work, targets: frozenset[Target]) -> None:
        self._tools = tools
        self._job = job
        self._work = work
        self._targets = targets
        self._lock = threading.Lock()
        self._cancelled_by: Optional[str] = None
        self._connection: Optional[RunnerConnection] = None
        self._second: Optional[SecondTry] = None
        self._existing: Mapping[str, Mapping[str, str]] = {}

    def cancel(self, by: str) -> None:
        """End the runner's job at once, then the operations on the agents."""
        with self._lock:
            self._cancelled_by = self._cancelled_by or by
            if self._connection is not None:
                self._connection.cancel()
            second = self._second
        if second is not None:
            second.cancel()

    def stop(self) -> None:
        """The manager ends: so does the runner's job; the next start of the manager settles it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def run(self) -> Outcome:
        """Work until the job has ended on all servers. Raises DomusError when nothing was begun, Stopped when the manager ends."""
        job_id = self._job["id"]
        names = {one["id"]: one for one in servers.all(self._tools.store)}
        missing = [server for server in self._work.documents if server not in names]
        if missing:
            raise NotFound("is not a server of this manager any more", object=f"server {missing[0]}", remedy="Apply the document again")
        certificate, key, serial, until = self._tools.authority.issue_job(job_id, list(self._work.documents), self._tools.config.job_seconds + LATER)
        jobs.start(self._tools.store, job_id, {"serial": serial, "until": until})
        files = {"authority.pem": self._tools.authority.servers_ca_pem, "job.pem": certificate, "job.key": key}
        end = self._play({**files, **self._documents(names)})
        if self._tools.stopping.is_set() and self._cancelled_by is None:
            raise Stopped
        return self._settle(end, {server: str(one["name"]) for server, one in names.items()}, serial, until)

    def _documents(self, names: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """The files that say what each server gets: targets.json, and the documents beside it."""
        options, files, wanted = self._job["options"], {}, {}
        existing = self._existing = existing_of(self._tools, self._work)
        for number, (server, document) in enumerate(self._work.documents.items(), 1):
            files[f"document-{number}.json"] = json.dumps(document)
            wanted[server] = {
                **{name: names[server][name] for name in ("name", "address", "port")},
                "operation": operations.operation_id(self._job["id"], server),
                "document_file": f"document-{number}.json",
                "expected": (options.get("expected") or {}).get(server),
                "existing": existing[server] if not names[server]["behind"] else None,
            }
        targets = {"job": self._job["id"], "authority": "authority.pem", "certificate": "job.pem", "key": "job.key", "result_file": "result.json"}
        more = {"servers": wanted, "check": self._job["check"], "wait_for_address": options.get("wait_for_address") or 0, "patience": PATIENCE}
        return {**files, "targets.json": json.dumps({**targets, **more})}

    def _play(self, files: Mapping[str, str]) -> dict[str, Any]:
        """Have the runner play it, keep what it tells, and return its last word. Raises Unreachable."""
        request = {"job": self._job["id"], "playbook": "apply.yml", "files": files, "time_limit": self._tools.config.job_seconds, "check": self._job["check"]}
        connection = RunnerConnection(str(self._tools.config.runner_socket), request)
        with self._lock:
            self._connection = connection
            if self._cancelled_by is not None:
                connection.cancel()
        end: dict[str, Any] = {"status": "gone", "result": None, "error": ""}
        try:
            with JobOutput(self._tools.store, self._job["id"]) as output:
                output.put("state", {"state": "running"})
                for line in connection.lines():
                    end = line.get("end", end)
                    if "event" in line:
                        for kind, data in _told(line["event"]):
                            output.put(kind, data)
        finally:
            with self._lock:
                self._connection = None
            connection.close()
        return end

    def _settle(self, end: Mapping[str, Any], names: Mapping[str, str], serial: str, until: float) -> Outcome:
        """Ask each server what became of its operation where the runner could not say; what still works there is cancelled."""
        told = (end.get("result") or {}).get("servers") or {}
        agents, job_id = self._tools.agents, self._job["id"]
        open_ones = [server for server in self._work.documents if (told.get(server) or {}).get("state") not in ENDED]
        if open_ones or self._cancelled_by is not None:
            servers.revoke(self._tools.store, serial, self._work.documents, until)

        def ask(server: str) -> dict[str, Any]:
            operation = operations.operation_id(job_id, server)
            return operations.settle(agents, server, operation, cancel=True, patience=SETTLING_SECONDS, stopping=self._tools.stopping)

        asked = operations.on_each(open_ones, ask)
        if open_ones or self._cancelled_by is not None:
            operations.revoke(agents, self._work.documents, serial, until)
        statuses = {server: _final(asked.get(server) or told[server], told.get(server)) for server in self._work.documents}
        statuses = {server: with_known(status, self._existing.get(server, ())) for server, status in statuses.items()}
        settled, targets = self._followed(statuses, names)
        return outcome_of(settled, names, targets, self._reason(end))

    def _followed(self, statuses: Mapping[str, Status], names: Mapping[str, str]) -> tuple[Mapping[str, Status], frozenset[Target]]:
        """The same once the VMs that had moved have been followed to where they are; a plan is carried out as it is, or not."""
        moves = moves_of(statuses)
        if not moves or self._job["options"].get("expected"):
            return statuses, self._targets
        with JobOutput(self._tools.store, self._job["id"]) as output:
            second = SecondTry(self._tools, self._job, self._work, names, lambda line: output.put("progress", {"line": line}))
            with self._lock:
                self._second = None if self._cancelled_by is not None else second
            if self._second is None:
                return statuses, self._targets
            moves, results = second.run(moves)
        for move in moves:
            if move.to is not None and not self._job["check"]:
                requests.move(self._tools.store, str(self._work.document["site"]), "vm", move.name, move.left, move.to)
        return with_second_try(statuses, moves, results), targets_after(self._targets, moves)

    def _reason(self, end: Mapping[str, Any]) -> Optional[DomusError]:
        """Why the job was ended before its time."""
        if self._cancelled_by is not None:
            return Cancelled(f"was cancelled by {self._cancelled_by}", object=f"job {self._job['id']}", remedy="Relaunch it to complete it")
        reasons: dict[str, DomusError] = {
            "timeout": TimeIsOver(f"took longer than {self._tools.config.job_seconds} s", remedy="Look why, then relaunch it; job_seconds is the limit"),
            "ended": Interrupted("the job runner was stopped", remedy="Relaunch it"),
            "gone": Interrupted("the job runner ended without a word", remedy="Relaunch it; journalctl -u domus-runner"),
            "cancelled": Interrupted("the job runner lost the manager", remedy="Relaunch it"),
            "error": DriverError(f"the playbook can not be run: {end.get('error') or 'no reason told'}", remedy="Is the collection domus.virt installed?"),
        }
        if end["status"] == "failed" and not end.get("result"):
            return DriverError("the playbook failed before it reached a server", remedy=f"Look at its output: domus job tail {self._job['id']}")
        return reasons.get(str(end["status"]))


def _final(status: dict[str, Any], told: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """The status that counts: an operation that no agent knows was never begun, and the runner may have said why."""
    if status["state"] == operations.UNKNOWN:
        error = (told or {}).get("error") or Cancelled("was not begun").as_dict()
        return {"state": "failed", "result": None, "error": error, "mark": None}
    return status


def _told(event: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """An event of the runner as events of the job: what the agents told are lines of progress, all else is output."""
    text = str(event["stdout"]).replace("\r\n", "\n").strip("\n")  # it comes from a terminal
    return [("progress", {"line": line}) for line in text.split("\n")] if event["event"] == "verbose" else [("output", {"text": text})]
