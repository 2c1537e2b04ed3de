"""Documents, plans, verbs and jobs: everything that changes something, each one call of Jobs."""

from __future__ import annotations

from collections.abc import Callable

from domus_core.documents import load_document
from flask import Response

from ..jobs.migrate_run import options_of
from ..store import jobs, plans
from .bodies import Migrate, VerbOptions
from .call import Call, Item, answer, job_answer, page_answer, waited
from .objects import find
from .reading import read_text


def apply_document(call: Call) -> Response:
    """Start the job that makes a document true; with `check`, only say what it would do."""
    document = load_document(read_text(call.request))
    work, by, query = call.parts.jobs, call.principal.name, call.query
    if query["check"]:
        return answer(work.plan(document, by=by))
    job = work.apply(document, by=by, wait_for_address=query["wait_for_address"], reason=query["reason"] or "")
    return job_answer(call, job)


def make_plan(call: Call) -> Response:
    """Store what a document would do, to be applied later as it is."""
    plan = call.parts.jobs.plan(load_document(read_text(call.request)), by=call.principal.name)
    return answer(plan, 201, {"Location": f"/api/v1/plans/{plan['id']}"})


def show_plan(call: Call) -> Response:
    """One plan."""
    return answer(plans.find(call.parts.store, call.path["id"]))


def apply_plan(call: Call) -> Response:
    """Start the job that carries out a plan, or refuse because the world has moved on."""
    return job_answer(call, call.parts.jobs.apply_plan(call.path["id"], by=call.principal.name))


def carry_out(verb: str) -> Callable[[Call], Response]:
    """A handler that carries a verb out on a VM."""

    def handler(call: Call) -> Response:
        vm = find(call, "vm")
        options = call.body(VerbOptions) if call.has_body else VerbOptions()
        job = call.parts.jobs.verb(vm["id"], verb, by=call.principal.name, force=bool(options.force), timeout=options.timeout)
        return job_answer(call, job)

    return handler


def migrate_vm(call: Call) -> Response:
    """Start moving a VM to another server; with `check`, only say whether and how it would get there."""
    vm, wanted = find(call, "vm"), call.body(Migrate)
    if call.query["check"]:
        options, server = options_of(wanted), wanted.server
        if server is None:
            chosen = call.parts.jobs.choose_destination(vm["id"], options)
            if not chosen["possible"]:
                return answer({name: chosen[name] for name in ("server", "server_id", "possible", "errors")} | {"plan": None})
            server = chosen["server_id"]
        return answer(call.parts.jobs.check_migration(vm["id"], server, options))
    reason = call.query["reason"] or ""
    return job_answer(call, call.parts.jobs.migrate(vm["id"], wanted.server, options_of(wanted), by=call.principal.name, reason=reason))


def list_jobs(call: Call) -> Response:
    """A page of jobs, the newest first."""
    query = call.query
    return page_answer(call, jobs.page(call.parts.store, query["limit"], query["cursor"], call.filters("state", "kind")))


def show_job(call: Call) -> Response:
    """One job; with `wait`, once it has ended or the time is over."""
    return answer(waited(call, jobs.find(call.parts.store, call.path["id"])))


def list_job_events(call: Call) -> Response:
    """What happened in a job, from a number on."""
    store, job_id = call.parts.store, call.path["id"]
    jobs.find(store, job_id)
    events = jobs.events(store, job_id, call.query["since"], call.query["limit"])
    return answer({"items": [numbered(event) for event in events], "next": None})


def numbered(event: Item) -> Item:
    """An event of a job with its number as its id, as every other event has it."""
    return {"id": event["number"], **event}


def cancel_job(call: Call) -> Response:
    """Ask a job to end."""
    return job_answer(call, call.parts.jobs.cancel(call.path["id"], by=call.principal.name))


def relaunch_job(call: Call) -> Response:
    """Start the same work again as a new job."""
    return job_answer(call, call.parts.jobs.relaunch(call.path["id"], by=call.principal.name))
