"""The manager itself, what happened on its servers, and what of a VM is neither kept nor changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from domus_core.errors import DomusError
from domus_core.version import VERSION
from flask import Response

from ..console import relay_console
from ..store import events, host_statistics, servers, statistics
from ..store.database import Store
from . import objects
from .call import Call, answer, page_answer
from .openapi import as_text
from .route import JSON, Route

HOUR = 3600.0
COUNTS = (
    "SELECT 'jobs' AS what, state, count(*) AS number FROM jobs WHERE state IN ('queued', 'running') GROUP BY state"
    " UNION ALL SELECT 'servers', state, count(*) FROM servers GROUP BY state"
)


def show_health(call: Call) -> Response:
    """Whether the database answers and takes what is to be stored, and how many jobs and servers are in which state; anybody may ask."""
    store = call.parts.store
    try:
        counted = _counts(store)
        problem = store.problem
    except DomusError as error:
        problem = error
    if problem is not None:
        return answer({"state": "failed", "version": VERSION, "database": problem.message}, 503)
    return answer({"state": "ok", "version": VERSION, "database": "ok", **counted}, headers={"Cache-Control": "no-store"})


def _counts(store: Store) -> dict[str, dict[str, int]]:
    counted = {"jobs": {"queued": 0, "running": 0}, "servers": dict.fromkeys(servers.STATES, 0)}
    for row in store.rows(COUNTS):
        counted[row["what"]][row["state"]] = row["number"]
    return counted


def show_openapi(routes: Callable[[], Iterable[Route]]) -> Callable[[Call], Response]:
    """A handler that answers the OpenAPI document of these routes; the table names this handler, so it is asked for later."""
    text = functools.lru_cache(maxsize=1)(lambda: as_text(routes()))
    return lambda call: Response(text(), content_type=JSON)


def list_events(call: Call) -> Response:
    """A page of events: the newest first, or those after `since` in their order."""
    query = call.query
    filters = call.filters("kind", "server", "object", "severity")
    return page_answer(call, events.page(call.parts.store, query["limit"], query["cursor"], filters, query["since"]))


def show_statistics(call: Call) -> Response:
    """What was measured of a VM, in steps that suit the span."""
    return answer(statistics.series(call.parts.store, objects.find(call, "vm")["id"], *_span(call)))


def show_server_statistics(call: Call) -> Response:
    """What was measured of a server, in steps that suit the span."""
    return answer(host_statistics.series(call.parts.store, servers.find(call.parts.store, call.path["id"])["id"], *_span(call)))


def _span(call: Call) -> tuple[float, float]:
    until = call.parts.store.now() if call.query["to"] is None else call.query["to"]
    return until - HOUR if call.query["from"] is None else call.query["from"], until


def show_console(call: Call) -> Callable[[Any], None]:
    """What relays the serial console of a VM to the WebSocket of who asks, until one side ends it."""
    return functools.partial(relay_console, call, objects.find(call, "vm"), bool(call.query["force"]))
