"""`callback`: many agents report at once what happened while the manager was away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.made_up import MadeUpAgent, enrol
from tests.support.stack import Stack

from .measuring import line

AGENTS, EVENTS, BATCH = 50, 10_000, 200


def measure(directory: Path) -> Iterator[str]:
    """From the first request until every event is acknowledged, hence durable; then all are read back by the API and counted."""
    stack = Stack(())
    try:
        stack.up()
        agents = enrol(stack, AGENTS)
        began = time.perf_counter()
        with ThreadPoolExecutor(AGENTS) as pool:
            list(pool.map(_report, agents))
        seconds = time.perf_counter() - began
        told = [event["data"]["number"] for event in stack.client.pages("/api/v1/events", kind="made.up", limit=1000)]
    finally:
        stack.close()
    lost, twice = EVENTS // AGENTS * AGENTS - len(set(told)), len(told) - len(set(told))
    facts = (f"per_second={EVENTS / seconds:.0f}", f"lost={lost}", f"twice={twice}", f"agents={AGENTS}", "wanted=per_second>=2000,lost=0,twice=0")
    yield line("callback", seconds, None, *facts)


def _report(agent: MadeUpAgent) -> None:
    connection = agent.connect()
    for first in range(1, EVENTS // AGENTS + 1, BATCH):
        last = min(first + BATCH, EVENTS // AGENTS + 1)
        answer = agent.call_back(connection, [_event(agent, seq) for seq in range(first, last)])
        if answer["acknowledged"] != last - 1:
            raise RuntimeError(f"acknowledged {answer['acknowledged']} instead of {last - 1}")
    connection.close()


def _event(agent: MadeUpAgent, seq: int) -> dict[str, Any]:
    data = {"number": f"{agent.id}-{seq}"}
    return {"seq": seq, "at": time.time(), "type": "event", "kind": "made.up", "severity": "info", "object": None, "data": data, "operation": None}
