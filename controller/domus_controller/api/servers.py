"""Servers: taken over, shown, released; what lives on them already is adopted on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domus_core.errors import Conflict, Unreachable
from domus_core.model.secrets import Secret
from flask import Response

from ..agents import cpu_groups
from ..errors import answered_by_agent
from ..jobs.evacuation import evacuate
from ..jobs.migrate_run import options_of
from ..jobs.moving_out import refusal
from ..jobs.power_run import switch
from ..store import pool_secrets, server_states, servers
from .bodies import Adopt, Discover, Evacuate, Maintenance, Renewal, TakeOver
from .call import Call, answer, job_answer, page_answer

DEFAULT_PORT = 8899
# nginx waits for 75 seconds.
ADOPTION_SECONDS = 60


def list_servers(call: Call) -> Response:
    """A page of servers."""
    query = call.query
    return page_answer(call, servers.page(call.parts.store, query["limit"], query["cursor"], call.filters("name", "state")))


def show_server(call: Call) -> Response:
    """One server."""
    return answer(servers.find(call.parts.store, call.path["id"]))


def list_cpu_groups(call: Call) -> Response:
    """All CPU compatibility groups; a baseline that is not known yet is asked for."""
    return answer({"items": cpu_groups.shown(call.parts.store, call.parts.agents)})


def take_over(call: Call) -> Response:
    """Take a free server over; from then on it obeys this manager alone."""
    wanted = call.body(TakeOver)
    secret = wanted.secret.reveal() if isinstance(wanted.secret, Secret) else wanted.secret
    with answered_by_agent():
        server = call.parts.agents.take_over(wanted.name, wanted.address, wanted.port or DEFAULT_PORT, secret, pool=wanted.pool, replace=bool(wanted.replace))
    return answer(server, 201, {"Location": f"/api/v1/servers/{server['id']}"})


def discover(call: Call) -> Response:
    """Who answers at an address, and its fingerprint; nothing is changed."""
    wanted = call.body(Discover)
    with answered_by_agent():
        return answer(call.parts.agents.discover(wanted.address, wanted.port or DEFAULT_PORT))


def renew(call: Call) -> Response:
    """Give a server new certificates, or those of another pool."""
    wanted = call.body(Renewal) if call.has_body else Renewal()
    server = servers.find(call.parts.store, call.path["id"])
    if wanted.pool is not None and (pool := _pool_of(call, server["id"])) not in (None, wanted.pool):
        remedy = f"Change servers of {pool} in the document: the certificates follow"
        raise Conflict(f"is in server pool {pool}", object=f"server {server['name']}", field="pool", value=wanted.pool, remedy=remedy)
    with answered_by_agent():
        call.parts.agents.trust.renew(server["id"], wanted.pool)
    return answer(servers.find(call.parts.store, server["id"]))


def _pool_of(call: Call, server_id: str) -> str | None:
    """The server pool that a server is in, as it told."""
    return next((name for name, members in pool_secrets.located(call.parts.store).items() if server_id in members), None)


def revoke(call: Call) -> Response:
    """Have no certificate of a server accepted any more, anywhere."""
    server = servers.find(call.parts.store, call.path["id"])
    call.parts.agents.revoke(server["id"])
    return answer(servers.find(call.parts.store, server["id"]))


def release(call: Call) -> Response:
    """Make a server free again; with `forget` also when it does not answer, and then it must be freed on its own console."""
    server = servers.find(call.parts.store, call.path["id"])
    if not call.query["forget"] and (pool := _pool_of(call, server["id"])) is not None:
        remedy = f"Take it out of servers of {pool} in the document first"
        raise Conflict(f"is in server pool {pool}", object=f"server {server['name']}", field="pool", value=pool, remedy=remedy)
    try:
        with answered_by_agent():
            call.parts.agents.release(server["id"])
    except Unreachable:
        if not call.query["forget"]:
            raise
        call.parts.agents.forget(server["id"])
    return Response(status=204)


def set_maintenance(call: Call) -> Response:
    """Take a server out of use, or back into use; its VMs go on, unless they are to be moved."""
    wanted = call.body(Maintenance)
    server = servers.find(call.parts.store, call.path["id"])
    evacuates, by = bool(wanted.evacuate and wanted.enabled), call.principal.name
    options, stopped = {"copy_storage": True} if wanted.copy_storage else {}, bool(wanted.stopped)
    if evacuates and (refused := refusal(call.parts.jobs.plan_evacuation(server, options, stopped=stopped)["moves"])) is not None:
        raise refused
    server_states.set_maintenance(call.parts.store, server["id"], wanted.enabled, wanted.reason or "", by)
    if evacuates:
        return job_answer(call, evacuate(call.parts.jobs, server, by=by, reason=wanted.reason or "", options=options, stopped=stopped))
    return answer(servers.find(call.parts.store, server["id"]))


def evacuate_server(call: Call) -> Response:
    """Start moving the VMs of a server to others; with `check`, only say where each would go and why."""
    wanted = call.body(Evacuate) if call.has_body else Evacuate()
    server = servers.find(call.parts.store, call.path["id"])
    options = {name: value for name, value in options_of(wanted).items() if name not in ("at_once", "stopped")}
    stopped = bool(wanted.stopped)
    if call.query["check"]:
        return answer(call.parts.jobs.plan_evacuation(server, options, stopped=stopped))
    told: dict[str, Any] = {"by": call.principal.name, "reason": call.query["reason"] or "", "at_once": wanted.at_once, "stopped": stopped}
    return job_answer(call, evacuate(call.parts.jobs, server, options=options, **told))


def power_off(call: Call) -> Response:
    """Start switching a server off in order; refused while VMs run on it."""
    server = servers.find(call.parts.store, call.path["id"])
    reason = call.query["reason"] or ""
    return job_answer(call, switch(call.parts.jobs, call.parts.store, server, on=False, by=call.principal.name, reason=reason))


def power_on(call: Call) -> Response:
    """Start waking a server that is off."""
    server = servers.find(call.parts.store, call.path["id"])
    reason = call.query["reason"] or ""
    return job_answer(call, switch(call.parts.jobs, call.parts.store, server, on=True, by=call.principal.name, reason=reason))


def adopt(call: Call) -> Response:
    """Describe VMs that are there already: the document that, applied, has Domus manage them."""
    wanted = call.body(Adopt)
    server = servers.find(call.parts.store, call.path["id"])
    parameters = {"vms": None if wanted.vms is None else list(wanted.vms), "site": wanted.site or call.parts.config.site}
    with answered_by_agent():
        adopted = call.parts.agents.call(server["id"], "adopt", parameters, timeout=ADOPTION_SECONDS)
    return answer({**adopted, "document": _placed(adopted["document"], str(server["name"]))})


def _placed(document: Mapping[str, Any], server: str) -> dict[str, Any]:
    """The document with the server named that its objects are on: each is there, and nowhere else."""
    sections: dict[str, dict[str, Any]] = {"repositories": {"servers": [server]}, "vms": {"server": server}}
    placed = {name: [{"name": one["name"], **sections[name], **one} for one in document[name]] for name in sections if name in document}
    return {**document, **placed}


def resync(call: Call) -> Response:
    """Have a server report everything it has once more."""
    server = servers.find(call.parts.store, call.path["id"])
    with answered_by_agent():
        return answer(call.parts.agents.call(server["id"], "resync", {}), 202)
