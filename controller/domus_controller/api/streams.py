"""Server-sent events: what happens in a job and on the servers, live and resumable."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flask import Response

from ..store import events, jobs
from ..store.database import Store
from .call import ENDED, Call
from .route import STREAM
from .work import numbered

HEARTBEAT = 15.0
LOOK_SECONDS = 1.0
LONGEST = 3600.0
# The store may commit hundreds of times a second: a stream looks this often at most.
PAUSE = 0.02
BATCH = 500

Message = tuple[int | None, str, Any]


def stream_job(call: Call) -> Response:
    """What happens in a job, each event once, then its end."""
    store, job_id = call.parts.store, call.path["id"]
    jobs.find(store, job_id)

    def read(since: int) -> tuple[list[Message], bool]:
        ended = jobs.state(store, job_id) in ENDED
        found = jobs.events(store, job_id, since, BATCH)
        messages: list[Message] = [(event["number"], "event", numbered(event)) for event in found]
        if not ended or len(found) == BATCH:
            return messages, False
        return [*messages, (None, "end", jobs.find(store, job_id))], True

    return _stream(call, read, _resumed(call) or 0)


def stream_events(call: Call) -> Response:
    """What happens on the servers, from now on or from where the caller left."""
    store, filters = call.parts.store, call.filters("kind", "server", "object", "severity")
    events.page(store, 1, None, filters)  # a wrong filter is refused before the stream begins
    since = _resumed(call)
    if since is None:
        since = events.latest(store)

    def read(since: int) -> tuple[list[Message], bool]:
        found = events.page(store, BATCH, None, filters, since)["items"]
        return [(event["id"], "event", event) for event in found], False

    return _stream(call, read, since)


def _resumed(call: Call) -> int | None:
    """The number of the last message the caller has seen: a browser says it by itself when it connects again."""
    last: str = call.request.headers.get("Last-Event-ID", "")
    if last.isascii() and last.isdigit() and len(last) < 16:
        return int(last)
    since: int | None = call.query["since"]
    return since


def _stream(call: Call, read: Callable[[int], tuple[list[Message], bool]], since: int) -> Response:
    give_back = call.parts.streams.take()
    response = Response(
        _messages(call.parts.store, read, since, call.parts.ending), content_type=STREAM, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    # Not `finally` in the generator: one that was never begun does not run it.
    response.call_on_close(give_back)
    return response


def _messages(store: Store, read: Callable[[int], tuple[list[Message], bool]], since: int, ending: threading.Event) -> Iterator[str]:
    told = time.monotonic()
    until = told + LONGEST
    yield "retry: 2000\n\n"
    while time.monotonic() < until and not ending.is_set():
        commits = store.changed(-1, 0)
        messages, ended = read(since)
        for number, kind, data in messages:
            since = since if number is None else number
            yield _message(number, kind, data)
            told = time.monotonic()
        if ended:
            return
        if not messages and store.changed(commits, LOOK_SECONDS) != commits:
            time.sleep(PAUSE)
        if time.monotonic() - told > HEARTBEAT:
            told = time.monotonic()
            yield ": heartbeat\n\n"


def _message(number: int | None, kind: str, data: Mapping[str, Any]) -> str:
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
