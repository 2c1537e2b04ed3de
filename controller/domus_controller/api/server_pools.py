"""Clustered pools, as their members tell them."""

from __future__ import annotations

from flask import Response

from ..agents.fence_tests import ask_devices, cut_power
from ..errors import answered_by_agent
from ..store import server_pools
from .bodies import FenceTest
from .call import Call, answer


def list_server_pools(call: Call) -> Response:
    """All pools."""
    return answer({"items": server_pools.all(call.parts.store)})


def show_server_pool(call: Call) -> Response:
    """One pool."""
    return answer(server_pools.find(call.parts.store, call.path["name"]))


def try_fencing(call: Call) -> Response:
    """Have each member that is heard ask the fence devices for the power of the others; or one of them really cut a member."""
    wanted = call.body(FenceTest) if call.has_body else FenceTest()
    tellers = server_pools.tellers_of(call.parts.store, call.path["name"])
    with answered_by_agent():
        return answer(cut_power(call.parts.agents, tellers, wanted.cut) if wanted.cut else ask_devices(call.parts.agents, tellers))
