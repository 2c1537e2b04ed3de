"""Policies: what one would do now, and have it done once; what the loss of a server would mean."""

from __future__ import annotations

from domus_core.model.field_types import Choice
from domus_core.model.fields import fields_of, given, make
from domus_core.model.policy import DPM, DRS, OFF, PolicySpec
from flask import Response

from ..jobs import balancing
from ..jobs.unattended import balance
from ..store import policies, servers
from .bodies import Balance
from .call import Call, answer, job_answer
from .route import Parameter

# What of a policy can be tried out; the rest says when it looks, and by what it is known.
TRIED = ("cpu_threshold", "memory_threshold", "network_threshold", "tolerance", "most_moves", "spare_servers", "least_on")
MODE = Parameter("mode", Choice(DRS, DPM), "`drs` spreads VMs over the servers, `dpm` gathers them on few.", DRS)
POLICY = (MODE, *(Parameter(field.name, field.type, field.doc) for field in fields_of(PolicySpec) if field.name in TRIED))


def show_balance(call: Call) -> Response:
    """What the policy would do now, for each pool; nothing is changed."""
    given = {name: call.query[name] for name in ("mode", *TRIED) if call.query[name] is not None}
    return answer({"mode": given["mode"], "pools": balancing.show_balance(call.parts.store, make(PolicySpec, given))})


def balance_pool(call: Call) -> Response:
    """Do once what a policy would do with a pool; with `check`, and where there is nothing to do, only show it."""
    store, pool = call.parts.store, call.path["name"]
    wanted = call.body(Balance) if call.has_body else Balance()
    known = policies.policies_of(store).get(pool)
    own = given(known.spec) if known is not None else {}
    asked = {**own, **given(wanted)}
    policy = make(PolicySpec, {**asked, "mode": DRS if asked.get("mode") in (None, OFF) else asked["mode"]})
    if not call.query["check"]:
        job = balance(call.parts.jobs, store, pool, policy, by=call.principal.name, reason=call.query["reason"] or "")
        if job is not None:
            return job_answer(call, job)
    return answer({"mode": policy.mode, "pools": [balancing.show_pool(store, pool, policy)]})


def show_loss(call: Call) -> Response:
    """Where the VMs of a server would start again if it died; nothing is changed."""
    return answer(balancing.show_loss(call.parts.store, servers.find(call.parts.store, call.path["id"])))
