"""Which of several reports of the same VM counts: a function of plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

OLDER, DIFFERENT, TWICE = "older_generation", "different_content", "runs_twice"
ALIVE = ("running", "paused")


def conflicts(copies: Sequence[dict[str, Any]]) -> dict[str, Optional[dict[str, Any]]]:
    """The conflict of each copy of one VM, by server id; None where there is none.

    A copy is {server_id, server, generation, state, content}. A higher generation wins and the others are in conflict; the same
    generation with different content is a conflict on both sides, and so is a VM that runs twice, whatever its generation.
    """
    return {copy["server_id"]: _conflict(copy, [other for other in copies if other is not copy]) for copy in copies}


def _conflict(copy: dict[str, Any], others: list[dict[str, Any]]) -> Optional[dict[str, Any]]:
    checks = (
        (TWICE, lambda other: copy["state"] in ALIVE and other["state"] in ALIVE),
        (DIFFERENT, lambda other: other["generation"] == copy["generation"] and other["content"] != copy["content"]),
        (OLDER, lambda other: other["generation"] > copy["generation"]),
    )
    for reason, holds in checks:
        against = [other for other in others if holds(other)]
        if against:
            told = [{name: other[name] for name in ("server", "server_id", "generation", "state")} for other in against]
            return {"reason": reason, "with": sorted(told, key=lambda other: str(other["server_id"]))}
    return None


def preferred(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the copies of one VM the one that a lookup by id gives: the highest generation, then the one that runs."""
    return min(items, key=lambda item: (-item["generation"], item["state"] not in ALIVE, item["server_id"]))
