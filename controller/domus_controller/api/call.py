"""What a handler is given: the parts of the manager, who asks, and what was asked."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from domus_core.errors import InvalidSpec, PreconditionFailed
from flask import Request, Response

from ..console import Relays
from ..deployment import THREADS
from ..errors import Overloaded
from .limits import Budget
from .reading import SpecType, parse_body, read_body
from .route import JSON

if TYPE_CHECKING:
    from ..agents.pool import Agents
    from ..config import ManagerConfig
    from ..jobs.jobs import Jobs
    from ..security.gate import Gate
    from ..security.principal import Principal
    from ..store.database import Store

Item = Mapping[str, Any]
STALE = "-stale"
ENDED = frozenset({"succeeded", "failed", "cancelled"})


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the manager is made of; `streams`, `consoles` and `waits` bound what holds a thread for long: a quarter stays for short requests.

    Once `ending` is set, streams and consoles end within a second.
    """

    config: ManagerConfig
    store: Store
    agents: Agents
    jobs: Jobs
    gate: Gate
    streams: Budget = dataclasses.field(default_factory=lambda: Budget("streams", THREADS * 3 // 8))
    consoles: Budget = dataclasses.field(default_factory=lambda: Budget("consoles", THREADS // 8))
    waits: Budget = dataclasses.field(default_factory=lambda: Budget("places for waiting", THREADS // 4))
    relays: Relays = dataclasses.field(default_factory=Relays)
    ending: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True)
class Call:
    """One request behind the gate: path and query are checked, the body is read by whoever needs it."""

    parts: Parts
    principal: Principal
    path: Mapping[str, str]
    query: Mapping[str, Any]
    request: Request

    @property
    def has_body(self) -> bool:
        """Was anything sent?"""
        return bool(self.request.content_length) or "Transfer-Encoding" in self.request.headers

    def body(self, spec: type[SpecType]) -> SpecType:
        """The body as an instance of its table. Raises InvalidSpec, Refused and what read_body raises."""
        return parse_body(spec, read_body(self.request))

    def mapping(self) -> dict[str, Any]:
        """The body as a mapping whose keys are text. Raises InvalidSpec and what read_body raises."""
        data = read_body(self.request)
        if data is None:
            raise InvalidSpec("is empty", object="body", remedy="Send the fields of the object")
        if not isinstance(data, dict):
            raise InvalidSpec("is not a mapping of fields", object="body", value=type(data).__name__)
        return data

    def filters(self, *names: str) -> dict[str, Any]:
        """Those of the named query parameters that were given."""
        return {name: self.query[name] for name in names if self.query[name] is not None}


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that carries JSON."""
    return Response(_as_json(data), status, headers, content_type=JSON)


def item_answer(call: Call, text: str) -> Response:
    """An object, given as the store's JSON text, with its ETag; only the chosen fields; 304 when the caller has it already."""
    item = json.loads(text)
    # A copy that turns stale is another answer, though the object is the same.
    etag = str(item["etag"]) + (STALE if item["stale"] else "")
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
    if call.request.if_none_match.contains(etag):
        return Response(status=304, headers=headers)
    shown = text if call.query["fields"] is None else _as_json(chosen(call, item))
    return Response(shown, headers=headers, content_type=JSON)


def texts_answer(call: Call, page: Item) -> Response:
    """A page of objects, given as the store's JSON texts: decoded only when the caller chose fields."""
    texts = page["items"] if call.query["fields"] is None else [_as_json(chosen(call, json.loads(text))) for text in page["items"]]
    about = "".join(f',"{name}":{json.dumps(page[name])}' for name in ("next", "since"))
    return Response(f'{{"items":[{",".join(texts)}]{about}}}', content_type=JSON)


def page_answer(call: Call, page: Item) -> Response:
    """A page of items, only the chosen fields."""
    if call.query.get("fields") is None:
        return answer(page)
    return answer({**page, "items": [chosen(call, item) for item in page["items"]]})


def waited(call: Call, job: Item) -> Item:
    """The job once it has ended, or as it is when the caller does not wait, the time is over, or too many wait already."""
    seconds = call.query.get("wait")
    if not seconds or job["state"] in ENDED:
        return job
    try:
        give_back = call.parts.waits.take()
    except Overloaded:
        return job
    try:
        return call.parts.jobs.wait(job["id"], seconds)
    finally:
        give_back()


def job_answer(call: Call, job: Item) -> Response:
    """202 and the job; or, when the caller waits and it ends in time, 200 and the ended job."""
    job = waited(call, job)
    return answer(job, 200 if job["state"] in ENDED else 202, {"Location": f"/api/v1/jobs/{job['id']}"})


def check_precondition(call: Call, item: Item) -> None:
    """Raises PreconditionFailed when the caller named another ETag by If-Match."""
    etag = str(item["etag"])
    if call.request.headers.get("If-Match") and not any(call.request.if_match.contains(known) for known in (etag, etag + STALE)):
        label = f"{item['kind']} {item['name']}"
        raise PreconditionFailed("has changed since you read it", object=label, field="If-Match", remedy="Read it again, then send your change")


def chosen(call: Call, item: Item) -> Item:
    """The item, or those of its fields that `fields` names."""
    fields = call.query.get("fields")
    return item if fields is None else _select(item, _tree(fields))


def _as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _select(value: Any, tree: Mapping[str, Any]) -> Any:
    if not tree:
        return value
    if isinstance(value, list):
        return [_select(entry, tree) for entry in value]
    if isinstance(value, Mapping):
        return {name: _select(value[name], below) for name, below in tree.items() if name in value}
    return value


@functools.lru_cache(maxsize=256)
def _tree(fields: str) -> dict[str, Any]:
    """`a,b.c` as {"a": {}, "b": {"c": {}}}; an empty branch means all below, so a shorter path comes first."""
    tree: dict[str, Any] = {}
    for path in sorted(fields.split(",")):
        branch, parts = tree, path.split(".")
        for part in parts:
            if part in branch and not branch[part]:
                break
            branch = branch.setdefault(part, {})
    return tree
