"""Server pools: as they were asked for, and as their members tell them."""

from __future__ import annotations

from domus_core.errors import Conflict, InvalidSpec, NotFound
from flask import Response

from ..agents.fence_tests import ask_devices, cut_power
from ..errors import answered_by_agent
from ..jobs.schedule import shown_policy
from ..store import pool_secrets, server_pools
from ..store.values import near_or_known
from .bodies import FenceTest
from .call import Call, answer
from .objects import apply_one


def list_server_pools(call: Call) -> Response:
    """All pools."""
    store = call.parts.store
    return answer({"items": [{**pool, "policy": shown_policy(store, pool["name"])} for pool in server_pools.all(store)]})


def show_server_pool(call: Call) -> Response:
    """One pool."""
    store, name = call.parts.store, call.path["name"]
    return answer({**server_pools.find(store, name), "policy": shown_policy(store, name)})


def create_server_pool(call: Call) -> Response:
    """Start the job that forms a pool which is not there yet."""
    entry = call.mapping()
    if (name := entry.get("name")) in pool_secrets.located(call.parts.store):
        raise Conflict("exists already", object=f"server_pool {name}", field="name", value=name, remedy="Change it with PUT, or apply a document")
    return apply_one(call, "server_pool", entry, call.query["site"])


def replace_server_pool(call: Call) -> Response:
    """Start the job that changes a pool."""
    name, entry = call.path["name"], call.mapping()
    _require(call, name)
    if entry.setdefault("name", name) != name:
        raise InvalidSpec(f"is not that of server_pool {name}", object="body", field="name", value=entry["name"], remedy="A pool keeps its name")
    return apply_one(call, "server_pool", entry, call.query["site"])


def delete_server_pool(call: Call) -> Response:
    """Start the job that ends a pool."""
    _require(call, call.path["name"])
    return apply_one(call, "server_pool", {"name": call.path["name"], "state": "absent"}, call.query["site"])


def _require(call: Call, name: str) -> None:
    known = pool_secrets.located(call.parts.store)
    if name not in known:
        raise NotFound("no server is in such a pool", object=f"server_pool {name}", remedy=near_or_known(name, list(known)))


def try_fencing(call: Call) -> Response:
    """Have each member that is heard ask the fence devices for the power of the others; or one of them really cut a member."""
    wanted = call.body(FenceTest) if call.has_body else FenceTest()
    tellers = server_pools.tellers_of(call.parts.store, call.path["name"])
    with answered_by_agent():
        return answer(cut_power(call.parts.agents, tellers, wanted.cut) if wanted.cut else ask_devices(call.parts.agents, tellers))
