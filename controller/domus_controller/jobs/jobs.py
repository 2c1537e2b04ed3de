"""The manager's jobs: made, queued, carried out, cancelled, and settled after a restart.

    apply -> playbook job: the runner brings the documents to the agents      verb -> one operation on one agent, at once

Every job is stored before it starts, so a manager that is killed finds it again; see recovery.py for how it ends then.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Optional, Union

from domus_core.errors import Conflict, DomusError, DriverError
from domus_core.model.migration import parse_migration
from domus_core.verbs import verb_named

from ..agents.pool import Agents
from ..config import ManagerConfig
from ..security.authority import Authority
from ..security.sealing import Sealing
from ..store import jobs, objects, plans, requests, servers
from ..store import server_pools as told_pools
from ..store.database import Connection, Store
from ..store.jobs import MIGRATE
from . import evacuation as evacuations
from . import room_needed, server_pools, unattended
from .apply_run import ApplyRun
from .balance_run import BalanceRun
from .documents import asked_of, prepare, targets_of, targets_of_whole
from .evacuation import EvacuationRun
from .housekeeping import Housekeeping
from .marks import PATIENCE, PATIENCE_RECOVERED, wait_for_marks
from .migrate_run import MigrateRun, check_migration
from .moving_out import draw_up, refusal, require_permitted, resident, there_already
from .outcome import CANCELLED, ENDED, Outcome, Target, failure, nothing_done
from .own_vm import spare_from_verb
from .planning import make_plan, planned_work
from .power_run import PowerRun
from .queue import Entry, Queue
from .recovery import recover_apply, recover_verb
from .schedule import Schedule
from .tools import Stopped, Tools, Work, sealed_work
from .unattended import OF_ITS_TIME
from .verb_run import VerbRun

STOPPING_SECONDS = 5.0
RETRY_SECONDS = 1.0
LOOK_SECONDS = 5.0

Job = dict[str, Any]
Run = Union[ApplyRun, VerbRun, EvacuationRun, BalanceRun, PowerRun]
logger = logging.getLogger(__name__)


class Jobs:
    """All jobs of this manager; any thread may call."""

    def __init__(self, store: Store, agents: Agents, authority: Authority, sealing: Sealing, config: ManagerConfig) -> None:
        self._tools = Tools(store, agents, authority, sealing, config)
        self._store = store
        self._queue = Queue(config.job_limit, self._work, self._tell_waiting)
        self._housekeeping = Housekeeping(store, agents, config, self._tools.stopping)
        begin, wake = functools.partial(unattended.begin_policy, self), functools.partial(room_needed.wake_for, self, store)
        self._schedule = Schedule(store, begin, wake, config, self._tools.stopping)
        self._runs: dict[str, Run] = {}
        self._targets: dict[str, frozenset[Target]] = {}
        self._recovered: set[str] = set()
        self._lock = threading.Lock()
        # From finding a place for a VM until that is written down: the next document must see it.
        self._placing = threading.Lock()

    def start(self) -> None:
        """Take up what an earlier process left: queued jobs are queued again, running ones are settled."""
        for job in jobs.unfinished(self._store):
            entry = Entry(job["id"], job["kind"], targets_of(job))
            self._targets[job["id"]] = entry.targets
            if job["state"] == jobs.RUNNING:
                self._recovered.add(job["id"])
                self._queue.run_at_once(entry)
            elif job["cancel_requested"]:
                self._finish(job["id"], nothing_done(CANCELLED, _cancelled(job["id"], job["cancelled_by"]), entry.targets))
            elif job["kind"] in OF_ITS_TIME:
                self._finish(job["id"], failure(unattended.not_begun(job["id"])))
            else:
                self._queue.add(entry)
        self._housekeeping.start()
        self._schedule.start()

    def stop(self) -> None:
        """Start nothing any more and let go of what runs; the next start settles it."""
        self._queue.stop()
        self._tools.stopping.set()
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.stop()
        deadline = time.monotonic() + STOPPING_SECONDS
        while self._runs and time.monotonic() < deadline:
            time.sleep(0.02)

    def apply(
        self,
        document: Any,
        *,
        by: str,
        check: bool = False,
        expected: Optional[Mapping[str, str]] = None,
        wait_for_address: float = 0,
        reason: str = "",
    ) -> Job:
        """Queue the job that makes a document true. Raises what `prepare` raises, before anything is stored."""
        options = {"expected": dict(expected) if expected else None, "wait_for_address": wait_for_address}
        with self._placing:
            return self._apply(self._prepared(document, check), by=by, check=check, options=options, reason=reason)

    def _prepared(self, document: Any, check: bool) -> Work:
        """What `prepare` makes; a VM that it has no room for has a server woken, where one sleeps."""
        try:
            return prepare(self._tools, document)
        except DomusError as error:
            if not check:
                room_needed.wake_for_refused(self, self._store, document, error)
            raise

    def plan(self, document: Any, *, by: str) -> dict[str, Any]:
        """Store what a document would do now. Raises what `prepare` raises."""
        return make_plan(self._tools, prepare(self._tools, document), by)

    def apply_plan(self, plan_id: str, *, by: str) -> Job:
        """Queue the job that carries out a plan; each agent refuses it when its server has changed since. Raises NotFound, Conflict."""
        work, expected = planned_work(self._tools, plan_id)
        return self._apply(work, by=by, options={"expected": expected, "plan": plan_id}, reason=f"plan {plan_id}")

    def verb(self, vm_id: str, verb: str, *, by: str, force: bool = False, timeout: Optional[int] = None, relaunch_of: Optional[str] = None) -> Job:
        """Start carrying out a verb on a VM. Raises NotFound, InvalidSpec, Conflict for the manager's own VM."""
        wanted, vm = verb_named(verb), objects.find(self._store, "vm", vm_id)
        spare_from_verb(self._tools.config.own_vm, str(vm["name"]), verb)
        site, server = vm["site"] or self._tools.config.site, self._server_for(vm)
        options = {"vm": vm["id"], "verb": verb, "site": site, "force": force, "timeout": timeout}
        job = {"kind": verb, "created_by": by, "reason": verb, "servers": [server], "options": options, "relaunch_of": relaunch_of}
        asked = [("vm", str(vm["key"]), server, {"state": wanted.state})] if wanted.state and vm["recorded"] else []
        return self._create({**job, "objects": [{"kind": "vm", "name": vm["key"]}]}, site, asked, frozenset({("vm", str(vm["key"]), server)}))

    def _server_for(self, vm: Mapping[str, Any]) -> str:
        """The server that carries a verb out: the VM's own; when that is silent another one of its pool, which finds out whether it may."""
        own = str(vm["server_id"])
        if servers.find(self._store, own)["state"] in servers.CONNECTED:
            return own
        mate = told_pools.companion(self._store, own)
        return own if mate is None else mate.id

    def check_migration(self, vm_id: str, server: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Whether and how a VM would get to a server; nothing is changed. Raises NotFound, Refused, Unreachable."""
        vm, there = objects.find(self._store, "vm", vm_id), servers.find(self._store, server)
        if there["id"] == vm["server_id"]:
            place = {"server": there["name"], "server_id": there["id"]}
            return {**place, "possible": False, "plan": None, "errors": [there_already(vm, there).as_dict()]}
        told = check_migration(self._tools, vm, there["id"], options)
        try:
            require_permitted(self._tools, vm, there)
        except Conflict as error:
            told.update(possible=False, plan=None, errors=[error.as_dict(), *told["errors"]])
        return told

    def choose_destination(self, vm_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Where a VM would move for which no server is named: {vm, server, server_id, possible, reason, errors}. Raises NotFound, Refused."""
        parse_migration(dict(options))
        vm = objects.find(self._store, "vm", vm_id)
        return draw_up(self._tools, str(vm["server_id"]), [resident(vm)], options)[0]

    def plan_evacuation(self, server: Mapping[str, Any], options: Mapping[str, Any], *, stopped: bool = False) -> dict[str, Any]:
        """Where the VMs of a server (its item) would go; nothing is changed. Raises Refused."""
        return evacuations.plan(self._tools, server, options, stopped=stopped)

    def queue(self, job: Mapping[str, Any]) -> Job:
        """Queue a job that works with a server or a pool as a whole: evacuation, balance, power off and on. Of each there is one at a time."""
        return self._create(job, self._tools.config.site, [], targets_of_whole(job))

    def migrate(
        self,
        vm_id: str,
        server: Optional[str],
        options: Mapping[str, Any],
        *,
        by: str,
        reason: str = "",
        relaunch_of: Optional[str] = None,
        evacuation: Optional[str] = None,
    ) -> Job:
        """Start moving a VM to a server, or to where there is room for it. Raises NotFound, Refused, NoCapacity; Conflict when it is there already."""
        if server is None:
            chosen = self.choose_destination(vm_id, options)
            if (refused := refusal([chosen])) is not None:
                raise refused
            server, reason = str(chosen["server_id"]), reason or f"move to {chosen['server']}: {chosen['reason']}"
        vm, there = objects.find(self._store, "vm", vm_id), servers.find(self._store, server)
        if there["id"] == vm["server_id"]:
            raise there_already(vm, there)
        require_permitted(self._tools, vm, there)
        parse_migration(dict(options))
        site = vm["site"] or self._tools.config.site
        targets = frozenset(("vm", str(vm["key"]), str(one)) for one in (vm["server_id"], there["id"]))
        told = {"vm": vm["id"], "site": site, "server": there["id"], "migration": dict(options), "evacuation": evacuation}
        job = {"kind": MIGRATE, "created_by": by, "reason": reason or f"move to {there['name']}", "servers": [vm["server_id"], there["id"]], "options": told}
        return self._create({**job, "objects": [{"kind": "vm", "name": vm["key"]}], "relaunch_of": relaunch_of}, site, [], targets)

    def cancel(self, job_id: str, *, by: str) -> Job:
        """End a job: its processes and its operations on agents; an ended one stays as it is. Raises NotFound."""
        job = jobs.request_cancel(self._store, job_id, by)
        if job["state"] in ENDED:
            return job
        if self._queue.withdraw(job_id):
            self._finish(job_id, nothing_done(CANCELLED, _cancelled(job_id, by), self._targets.get(job_id, ())))
        with self._lock:
            run = self._runs.get(job_id)
        if run is not None:
            run.cancel(by)
        return jobs.find(self._store, job_id)

    def relaunch(self, job_id: str, *, by: str) -> Job:
        """Queue the same work again as a new job. Raises NotFound; Conflict when it has not ended, or its document is not kept any more."""
        job = jobs.details(self._store, job_id)
        if job["state"] not in ENDED:
            raise Conflict(f"is {job['state']}", object=f"job {job_id}", remedy="Wait for its end, or cancel it")
        options = job["options"]
        if job["kind"] == MIGRATE:
            return self.migrate(options["vm"], options["server"], options["migration"], by=by, relaunch_of=job_id)
        if job["kind"] == jobs.EVACUATE:
            server, how = servers.find(self._store, options["server"]), {"options": options["migration"], "at_once": options["at_once"]}
            how["stopped"] = bool(options.get("stopped"))
            return evacuations.evacuate(self, server, by=by, reason=job["reason"], relaunch_of=job_id, **how)
        if job["kind"] in OF_ITS_TIME:
            return unattended.relaunch(self, self._store, job, by)
        if options.get("verb"):
            return self.verb(options["vm"], options["verb"], by=by, force=options["force"], timeout=options["timeout"], relaunch_of=job_id)
        before = sealed_work(self._tools, job_id)
        if before is None:
            raise Conflict("its document is not kept: it succeeded", object=f"job {job_id}", remedy="Apply the document again")
        with self._placing:
            work = before if options.get("expected") else self._prepared(before.document, job["check"])
            return self._apply(work, by=by, check=job["check"], options=options, reason=job["reason"], relaunch_of=job_id)

    def wait(self, job_id: str, seconds: float) -> Job:
        """The job as soon as it has ended, or as it is after so many seconds. Raises NotFound."""
        deadline = time.monotonic() + seconds
        seen = self._store.changed(-1, 0)
        while jobs.state(self._store, job_id) not in ENDED and (left := deadline - time.monotonic()) > 0:
            seen = self._store.changed(seen, min(left, LOOK_SECONDS))
        return jobs.find(self._store, job_id)

    def _apply(self, work: Work, *, by: str, options: Mapping[str, Any], check: bool = False, reason: str = "", relaunch_of: Optional[str] = None) -> Job:
        asked = asked_of(work)
        if not check:
            server_pools.remember_asked(self._tools, work)
        named = list(dict.fromkeys((kind, key) for kind, key, _, _ in asked))
        job = {"kind": jobs.APPLY, "created_by": by, "reason": reason, "check": check, "servers": list(work.documents), "options": dict(options)}
        job |= {"objects": [{"kind": kind, "name": key} for kind, key in named], "sealed": work.sealed(self._tools), "relaunch_of": relaunch_of}
        targets = frozenset((kind, key, server) for kind, key, server, _ in asked)
        return self._create(job, str(work.document["site"]), [] if check else asked, targets)

    def _create(self, job: Mapping[str, Any], site: str, asked: list[tuple[str, str, str, dict[str, Any]]], targets: frozenset[Target]) -> Job:
        job_id = str(uuid.uuid4())

        def change(connection: Connection) -> Job:
            if job["options"].get("plan") and not job["relaunch_of"]:
                plans.take(connection, job["options"]["plan"])
            made = jobs.create(connection, {**job, "id": job_id})
            for kind, key, server, spec in asked:
                requests.record(connection, site, server, kind, key, spec, job_id)
            return made

        made = self._store.write(change)
        self._targets[job_id] = targets
        self._queue.add(Entry(job_id, str(job["kind"]), targets))
        return made

    def _tell_waiting(self, job_id: str, for_job: Optional[str]) -> None:
        try:
            jobs.set_waiting(self._store, job_id, for_job)
            if for_job:
                jobs.add_events(self._store, job_id, [{"at": self._store.now(), "kind": "state", "data": {"state": "queued", "waiting_for": for_job}}])
        except DomusError as error:  # it waits all the same
            logger.warning("job %s: %s", job_id, error)

    def _work(self, job_id: str) -> None:
        """A job from its start to its end, whatever happens on the way."""
        targets = self._targets.get(job_id, frozenset())
        try:
            job = jobs.details(self._store, job_id)
            outcome = self._carry_out(job, targets)
            if job["options"].get("plan") and (outcome.error or {}).get("object") == "plan":
                plans.set_stale(self._store, job["options"]["plan"])
        except Stopped:
            return
        except DomusError as error:
            outcome = failure(error, targets)
        except Exception as error:
            logger.exception("job %s", job_id)
            outcome = failure(
                DriverError(f"unexpected {type(error).__name__}", object=f"job {job_id}", remedy="Please report this; the manager's log has more")
            )
        finally:
            with self._lock:
                self._runs.pop(job_id, None)
        self._finish(job_id, outcome)

    def _carry_out(self, job: Mapping[str, Any], targets: frozenset[Target]) -> Outcome:
        if job["kind"] == jobs.EVACUATE:
            evacuation = EvacuationRun(self._tools, self, job)
            self._remember(job, evacuation)
            return evacuation.run()
        if job["kind"] in OF_ITS_TIME:
            unattended_run = unattended.run_of(self._tools, self, job, job["id"] in self._recovered)
            self._remember(job, unattended_run)
            return unattended_run.run()
        if job["options"].get("verb") or job["kind"] == MIGRATE:
            verb = (MigrateRun if job["kind"] == MIGRATE else VerbRun)(self._tools, job, targets)
            self._remember(job, verb)
            return recover_verb(verb, job) if job["id"] in self._recovered else verb.run()
        return self._carry_out_apply(job, targets)

    def _carry_out_apply(self, job: Mapping[str, Any], targets: frozenset[Target]) -> Outcome:
        work = sealed_work(self._tools, job["id"])
        if job["id"] in self._recovered:
            outcome = recover_apply(self._tools, job, targets)
            if work is not None and not job["check"]:
                server_pools.settle(self._tools, work, outcome)
            return outcome
        if work is None:
            raise DriverError("its document is not there any more", object=f"job {job['id']}", remedy="Apply the document again")
        apply = ApplyRun(self._tools, job, work, targets)
        self._remember(job, apply)
        outcome = apply.run()
        if not job["check"]:
            server_pools.settle(self._tools, work, outcome)
        return outcome

    def _remember(self, job: Mapping[str, Any], run: Run) -> None:
        """From now on the run can be cancelled, and it hears of a cancellation that came before."""
        with self._lock:
            self._runs[job["id"]] = run
        cancelled_by = jobs.details(self._store, job["id"])["cancelled_by"]
        if cancelled_by:
            run.cancel(cancelled_by)

    def _finish(self, job_id: str, outcome: Outcome) -> None:
        """Store the end of a job; as long as the database refuses, it is tried again."""
        wait_for_marks(self._tools, outcome.marks, PATIENCE_RECOVERED if job_id in self._recovered else PATIENCE)
        reasons: dict[tuple[str, ...], str] = {(*target,): reason for target, reason in outcome.reasons.items()}
        while True:
            try:
                requests.settle(self._store, job_id, {(*target,): state for target, state in outcome.requests.items()}, reasons)
                jobs.finish(self._store, job_id, outcome.state, outcome.changed, outcome.error, outcome.result)
                break
            except DomusError as error:
                logger.error("the end of job %s can not be stored: %s", job_id, error)
                if self._tools.stopping.wait(RETRY_SECONDS):
                    return
        with contextlib.suppress(DomusError):
            objects.compare_moved(self._store, job_id)
        self._targets.pop(job_id, None)
        self._recovered.discard(job_id)


def _cancelled(job_id: str, by: Optional[str]) -> dict[str, Any]:
    return {"code": "cancelled", "message": f"was cancelled by {by} before it began", "object": f"job {job_id}"}
