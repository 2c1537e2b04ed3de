"""Jobs that nobody watches: plans of balancing, servers switched off and on. They are begun on what is known now, so never by a later manager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Optional, Union

from domus_core.errors import Conflict
from domus_core.model.fields import plain, restore
from domus_core.model.policy import PolicySpec

from ..store import jobs, servers
from ..store.database import Store
from ..store.policies import PoolPolicy
from .balance_run import BalanceRun, describe
from .balancing import Seen
from .outcome import Interrupted
from .power_run import PowerRun, switch
from .schedule import changed_since, unheard
from .tools import Tools

if TYPE_CHECKING:
    from .jobs import Jobs

OF_ITS_TIME = (jobs.BALANCE, jobs.POWER_OFF, jobs.POWER_ON)

Item = dict[str, Any]


def balance(work: Jobs, store: Store, pool: str, policy: PolicySpec, *, by: str, reason: str = "", relaunch_of: Optional[str] = None) -> Optional[Item]:
    """Queue the job that does what a policy would do with a pool now; None when there is nothing to do. Raises NotFound, Conflict."""
    seen = Seen(store)
    seen.require(pool)
    for job in jobs.unfinished(store):
        if job["kind"] == jobs.BALANCE and job["options"]["pool"] == pool:
            raise Conflict(f"job {job['id']} balances it already", object=f"server_pool {pool}", remedy="Wait for its end, or cancel it")
    plan = seen.plan(pool, policy)
    return _queue(work, plan, policy, by=by, reason=reason, relaunch_of=relaunch_of) if plan["moves"] or plan["switches"] else None


def begin_policy(work: Jobs, plan: Mapping[str, Any], policy: PoolPolicy) -> Item:
    """Queue the plan of a pool's policy. It is told by a name that no person has: with a space."""
    return _queue(work, plan, policy.spec, by=f"policy of {policy.pool}", reason=f"policy {policy.spec.mode}: {describe(plan)}", is_policy=True)


def _queue(
    work: Jobs, plan: Mapping[str, Any], policy: PolicySpec, *, by: str, reason: str = "", is_policy: bool = False, relaunch_of: Optional[str] = None
) -> Item:
    moves, switches = plan["moves"], plan["switches"]
    told = {"pool": plan["pool"], "policy": plain(policy), "is_policy": is_policy, "moves": moves, "switches": switches}
    concerned = [one[field] for field in ("source_id", "server_id") for one in moves] + [one["server_id"] for one in switches]
    job = {"kind": jobs.BALANCE, "created_by": by, "reason": reason or describe(plan), "servers": list(dict.fromkeys(concerned)), "options": told}
    return work.queue({**job, "objects": [{"kind": "server_pool", "name": plan["pool"]}], "relaunch_of": relaunch_of})


def relaunch(work: Jobs, store: Store, job: Mapping[str, Any], by: str) -> Item:
    """Do the same once more: a policy on what is there now. Raises Conflict when there is nothing to do, or no need."""
    if job["kind"] != jobs.BALANCE:
        server = servers.find(store, job["servers"][0])
        return switch(work, store, server, on=job["kind"] == jobs.POWER_ON, by=by, reason=job["reason"], relaunch_of=job["id"])
    pool, policy = str(job["options"]["pool"]), restore(PolicySpec, job["options"]["policy"])
    made = balance(work, store, pool, policy, by=by, reason=job["reason"], relaunch_of=job["id"])
    if made is None:
        raise Conflict("there is nothing to do any more", object=f"server_pool {pool}")
    return made


def not_begun(job_id: str) -> Interrupted:
    """Why a job that was queued before the manager was restarted is not begun."""
    return Interrupted("the manager was restarted before it began", object=f"job {job_id}", remedy="Relaunch it if it is still wanted")


def run_of(tools: Tools, work: Jobs, job: Mapping[str, Any], again: bool) -> Union[BalanceRun, PowerRun]:
    """The run of such a job; `again`: it ran before the manager was restarted."""
    if job["kind"] == jobs.BALANCE:
        return BalanceRun(tools, work, job, again, _obstacle_of(tools.store, job))
    return PowerRun(tools, job, again)


def _obstacle_of(store: Store, job: Mapping[str, Any]) -> Callable[[], str]:
    """What keeps a plan from being gone on with: a policy's own more than a person's, who looks at it."""
    pool, mode = job["options"]["pool"], job["options"]["policy"].get("mode")
    if not job["options"]["is_policy"]:
        return lambda: ""
    return lambda: unheard(store, pool) or changed_since(store, pool, mode)
