"""The fence devices of a pool are tested by its members: each that is heard asks, since each may have to cut."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from domus_core.errors import Conflict, DomusError

from ..store.server_pools import Teller, shown_test, voice_of

# nginx waits for 75 seconds.
SECONDS, AT_ONCE = 70.0, 8


class Agents(Protocol):
    """Whoever calls agents."""

    def call(self, server_id: str, method: str, parameters: dict[str, Any], timeout: float = ...) -> Any:
        """What a method of a server's agent answers."""


def ask_devices(agents: Agents, tellers: Sequence[Teller]) -> dict[str, Any]:
    """What each member hears of the devices, as the API shows it; who can not ask is in `failed`."""

    def ask(one: Teller) -> tuple[Teller, list[Any], str]:
        try:
            return one, agents.call(one.id, "fence_test", {"cut": None}, timeout=SECONDS)["tests"], ""
        except DomusError as error:
            return one, [], str(error)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        heard = list(threads.map(ask, [one for one in tellers if one.heard]))
    failed = [{"by": one.name, "problem": problem} for one, dummy, problem in heard if problem]
    failed += [{"by": one.name, "problem": "is not heard"} for one in tellers if not one.heard]
    return _told([shown_test(test, one.name) for one, tests, dummy in heard for test in tests], failed)


def cut_power(agents: Agents, tellers: Sequence[Teller], member: str) -> dict[str, Any]:
    """Have a member cut another's power and give it back. Raises Conflict when no other is heard, and what its agent raises."""
    others = [one for one in tellers if one.heard and one.told.get("server") != member]
    if not others:
        raise Conflict("no other member of its pool is heard that could cut it", object=f"server {member}", remedy="domus pool show")
    one = voice_of(others)
    tests = agents.call(one.id, "fence_test", {"cut": member}, timeout=SECONDS)["tests"]
    return _told([shown_test(test, one.name) for test in tests], [])


def _told(tests: list[dict[str, Any]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    return {"passed": bool(tests) and not failed and not any(test["problem"] for test in tests), "tests": tests, "failed": failed}
