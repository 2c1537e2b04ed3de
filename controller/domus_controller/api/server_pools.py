"""Clustered pools, as their members tell them."""

from __future__ import annotations

from flask import Response

from ..store import server_pools
from .call import Call, answer


def list_server_pools(call: Call) -> Response:
    """All pools."""
    return answer({"items": server_pools.all(call.parts.store)})


def show_server_pool(call: Call) -> Response:
    """One pool."""
    return answer(server_pools.find(call.parts.store, call.path["name"]))
