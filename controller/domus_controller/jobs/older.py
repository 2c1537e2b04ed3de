"""What an agent refuses because it is older than this manager, said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domus_core.errors import DomusError, NotFound, Unsupported

# The manager has checked the document itself: an agent can say this only of what its own version does not have.
NOT_KNOWN_THERE = frozenset({"is not a known key", "is not a choice"})


def is_too_old(error: DomusError) -> bool:
    """Does an agent say that it has no such method?"""
    return error.code == NotFound.code and error.object.startswith("method ")


def unsupported(server: str, what: str) -> Unsupported:
    """What is said of a server whose agent is too old for something."""
    remedy = f"Upgrade the agent of {server}; domus server list shows the versions"
    return Unsupported(f"its agent can not {what}: it is older than this manager", object=f"server {server}", remedy=remedy)


def explained(error: Mapping[str, Any], server: str) -> dict[str, Any]:
    """The error of a server's agent, or that the agent does not know yet what it is asked for."""
    if error.get("message") not in NOT_KNOWN_THERE:
        return dict(error)
    label = str(error.get("object") or f"server {server}")
    message = f"the agent of server {server} does not know that: it is older than this manager"
    remedy = f"Upgrade the agent of {server}, or leave that out; domus server list shows the versions"
    return Unsupported(message, object=label, field=str(error.get("field") or ""), value=error.get("value"), remedy=remedy).as_dict()
