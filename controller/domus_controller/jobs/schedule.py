"""The policies of pools at work: each looks at its pool every so many minutes, plans on what is known, and has the plan carried out as one job.

due ─► may it? (heard, complete, nothing under way) ─► plan ─► job, if there is something to do ─► its end counted: done, or backed off
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Optional

from domus_core.errors import DomusError, NotFound
from domus_core.model.fields import plain
from domus_core.planning.capacity import Demand
from domus_core.planning.power import WAKE

from ..config import ManagerConfig
from ..store import callbacks, events, jobs, policies, policy_looks, servers
from ..store.database import Store
from ..store.policies import PoolPolicy
from ..store.policy_looks import PoolLooks
from .balance_run import describe
from .balancing import Seen
from .outcome import ENDED, SUCCEEDED
from .room_needed import waiting_vms

LOOK_SECONDS = 5.0
PERIOD_MINUTES, MOST_DOUBLED, LONGEST_SECONDS = 10, 8, 86400.0
# A VM whose move has failed is left where it is for so long: the pool's next looks do without it.
REST_SECONDS = 3600.0
UNASKED = "no document of the pool has been applied by this manager: apply it"
RESTORED = "this manager was restored from a backup, which may not have the policy that is wanted now: apply the pool's document again"

Item = dict[str, Any]
# What begins the job of a plan: (plan, policy) -> job; and that which wakes a server for a VM, where one that sleeps would take it.
Begin = Callable[[Mapping[str, Any], PoolPolicy], Item]
Wake = Callable[[Demand], Optional[Item]]
logger = logging.getLogger(__name__)


def period_of(policy: PoolPolicy) -> float:
    """Seconds between two looks."""
    return 60.0 * (policy.spec.period or PERIOD_MINUTES)


def backed_off(period: float, failures: int) -> float:
    """Seconds until the next look after so many jobs have failed in a row: twice as long each time, a day at most."""
    return min(period * 2.0 ** min(failures, MOST_DOUBLED), max(period, LONGEST_SECONDS))


def unheard(store: Store, pool: str) -> str:
    """Which servers of a pool are not heard, though nobody has switched them off; empty: none."""
    silent = [one for one in servers.all(store) if one["pool"] == pool and one["state"] not in (*servers.CONNECTED, servers.OFF)]
    return ", ".join(f"server {one['name']} is {one['state']}" for one in silent)


def changed_since(store: Store, pool: str, mode: Optional[str]) -> str:
    """Has the pool's policy another mode than a plan was made by? Empty: no."""
    now = policies.policies_of(store).get(pool)
    return "" if now is not None and now.spec.mode == mode else "the pool's policy was changed meanwhile"


class Schedule:
    """When which policy looks, and what came of it; `look` is called by one thread. `uptime` is a clock that nobody sets."""

    def __init__(
        self, store: Store, begin: Begin, wake: Wake, config: ManagerConfig, stopping: threading.Event, uptime: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._begin, self._wake, self._stopping, self._uptime = store, begin, wake, stopping, uptime
        self._began = uptime()
        # For which VM a server was woken, and when.
        self._woken: dict[str, float] = {}
        # What was silent while nobody listened has not been missed before.
        self._first_seconds = max(config.policy_start_seconds, 2 * config.disconnected_seconds)

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="policies", daemon=True).start()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except DomusError as error:
                logger.error("policies: %s", error)
            except Exception:
                logger.exception("policies")

    def look(self) -> None:
        """Do what is due. Raises what the database raises; one pool's trouble keeps no other from being looked at."""
        wanted = {name: one for name, one in policies.policies_of(self._store).items() if one.is_on}
        for pool in policy_looks.pools(self._store):
            if pool not in wanted:
                policy_looks.forget(self._store, pool)
        for policy in wanted.values():
            try:
                self._look_at(policy)
            except DomusError as error:
                logger.error("policy of pool %s: %s", policy.pool, error)

    def _look_at(self, policy: PoolPolicy) -> None:
        self._wake_for_waiting(policy)
        looks, now = self._counted(policy), self._store.now()
        # A clock that was set back must not put a look off for ever.
        if looks.job_id is not None or 0 < (looks.next_at or 0.0) - now <= LONGEST_SECONDS + period_of(policy):
            return
        why = self._obstacle(policy)
        if why != (looks.waits or ""):
            looks = dataclasses.replace(looks, waits=why or None)
            policy_looks.keep(self._store, looks)
            if why:
                self._tell("policy_waits", policy, {"reason": why}, "info")
        if not why:
            self._act(policy, looks, now)

    def _wake_for_waiting(self, policy: PoolPolicy) -> None:
        """An HA VM that no server may take waits for nobody's period. What was woken in vain is not woken again at once."""
        if self._standing(policy):
            return
        for vm in waiting_vms(self._store, policy.pool):
            if self._uptime() - self._woken.get(vm.name, -REST_SECONDS) < REST_SECONDS:
                continue
            if (job := self._wake(vm)) is not None:
                self._woken[vm.name] = self._uptime()
                self._tell("policy_acts", policy, {"job": job["id"], "moves": [], "switches": [{"action": WAKE, "server": job["objects"][0]["name"]}]}, "info")

    def _standing(self, policy: PoolPolicy) -> str:
        """Why the policy does nothing by itself yet; empty: it may."""
        if policy.asked_at is None:
            return UNASKED
        if (restored := policy_looks.restored_at(self._store)) is not None and policy.asked_at <= restored:
            return RESTORED
        if self._uptime() - self._began < self._first_seconds:
            return f"the manager has been started: servers get {self._first_seconds:.0f} seconds to be heard"
        return ""

    def _obstacle(self, policy: PoolPolicy) -> str:
        """Why the policy does nothing now; empty: nothing is in its way."""
        if why := self._standing(policy):
            return why
        if silent := unheard(self._store, policy.pool):
            return silent
        incomplete = set(callbacks.incomplete(self._store))
        heard = [one for one in servers.all(self._store) if one["pool"] == policy.pool and one["state"] in servers.CONNECTED]
        if behind := [str(one["name"]) for one in heard if one["id"] in incomplete]:
            return f"what is on {', '.join(behind)} is not known completely yet"
        under_way = [job["id"] for job in jobs.unfinished(self._store) if job["kind"] == jobs.BALANCE and job["options"]["pool"] == policy.pool]
        return f"job {under_way[0]} balances the pool" if under_way else ""

    def _act(self, policy: PoolPolicy, looks: PoolLooks, now: float) -> None:
        """Plan, and begin the job when there is something to do."""
        resting = {vm: until for vm, until in looks.resting.items() if until > now}
        plan = Seen(self._store).plan(policy.pool, policy.spec, resting)
        shown = {**plan, "resting": sorted(resting)}
        looks = dataclasses.replace(looks, looked_at=now, next_at=now + period_of(policy), found=shown, resting=resting)
        if plan["moves"] or plan["switches"]:
            job = self._begin(plan, policy)
            looks = dataclasses.replace(looks, job_id=job["id"], found={**shown, "job": job["id"]})
            self._tell("policy_acts", policy, {"job": job["id"], **{name: plan[name] for name in ("moves", "switches")}}, "info")
        policy_looks.keep(self._store, looks)

    def _counted(self, policy: PoolPolicy) -> PoolLooks:
        """What is kept of the pool; when the job of its last look has ended, that is counted first."""
        looks = policy_looks.find(self._store, policy.pool)
        if looks.job_id is None:
            return looks
        try:
            job = jobs.find(self._store, looks.job_id)
        except NotFound:  # it ended so long ago that it was forgotten
            job = {"state": SUCCEEDED, "result": None, "error": None}
        if job["state"] not in ENDED:
            return looks
        counted = self._succeeded(policy, looks) if job["state"] == SUCCEEDED else self._failed(policy, looks, job)
        policy_looks.keep(self._store, counted)
        return counted

    def _succeeded(self, policy: PoolPolicy, looks: PoolLooks) -> PoolLooks:
        self._tell("policy_done", policy, {"job": looks.job_id, "done": describe(looks.found) if looks.found else ""}, "info")
        return dataclasses.replace(looks, job_id=None, failures=0)

    def _failed(self, policy: PoolPolicy, looks: PoolLooks, job: Mapping[str, Any]) -> PoolLooks:
        """What has failed is not tried again at once: the pool waits longer each time, and the VMs that did not move rest."""
        now, failures = self._store.now(), looks.failures + 1
        entries = (job["result"] or {}).get("objects") or ()
        resting = {one["name"]: now + REST_SECONDS for one in entries if one["kind"] == "vm" and one.get("error")}
        next_at = now + backed_off(period_of(policy), failures)
        told = {"job": looks.job_id, "state": job["state"], "error": job["error"], "failures": failures, "next_at": next_at, "resting": sorted(resting)}
        self._tell("policy_failed", policy, told, "warning")
        return dataclasses.replace(looks, job_id=None, failures=failures, next_at=next_at, resting={**looks.resting, **resting})

    def _tell(self, what: str, policy: PoolPolicy, data: Mapping[str, Any], severity: str) -> None:
        object = {"kind": "server_pool", "key": policy.pool, "id": policy.pool}
        event = {"at": self._store.now(), "kind": f"pool.{what}", "severity": severity, "object": object}
        data = {"pool": policy.pool, "mode": policy.spec.mode, **data}
        self._store.write(lambda connection: events.add(connection, {**event, "data": data}))


def shown_policy(store: Store, pool: str) -> Optional[Item]:
    """The policy of a pool with its last look and its next, as the API shows it; None when the pool has none."""
    policy = policies.policies_of(store).get(pool)
    if policy is None:
        return None
    return {"spec": plain(policy.spec), "on": policy.is_on, **policy_looks.shown(policy_looks.find(store, pool))}
