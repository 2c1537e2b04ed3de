"""`fleet-idle`: what the manager costs while a hundred servers with VMs report, and nobody asks for anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.stack import Stack, descendants

from .manager_load import cpu_seconds, memory_of

SERVERS, VMS = 100, 20
SETTLING, RESTING = 30.0, 60.0
AT_ONCE = 4


def measure(directory: Path) -> Iterator[str]:
    """Memory (proportional set size) and processor time over 60 s; heartbeats every 10 s and statistics every 20 s, as agents have them."""
    stack, fleet = Stack(()), Fleet(directory / "fleet", SERVERS, VMS)
    try:
        stack.up()
        _take_over(stack, fleet)
        stack.wait_for(lambda: _all_known(stack), "all servers and VMs")
        time.sleep(SETTLING)
        names = ("manager", "nginx", "runner")
        pids = {name: descendants(stack.processes[name].pid) for name in names}
        before, began = {name: sum(map(cpu_seconds, pids[name])) for name in names}, time.monotonic()
        time.sleep(RESTING)
        spent = time.monotonic() - began
        shares = {name: (sum(map(cpu_seconds, pids[name])) - before[name]) / spent * 100 for name in names}
        memory = {name: sum(map(memory_of, pids[name])) / 1e6 for name in names}
        online = sum(one["state"] == "running" for one in stack.client.pages("/api/v1/servers"))
        if online != SERVERS:
            raise RuntimeError(f"{online} servers are online")
    finally:
        fleet.close()
        stack.close()
    parts = ",".join(f"{name}:{shares[name]:.2g}%/{memory[name]:.0f}MB" for name in names)
    yield (
        f"fleet-idle ours={sum(memory.values()):.0f}MB peer=- ratio=- cpu={sum(shares.values()):.2g}% servers={SERVERS} vms={SERVERS * VMS}"
        f" parts={parts} wanted=memory<=250MB,cpu<=3%"
    )


def _take_over(stack: Stack, fleet: Fleet) -> None:
    def take(one: tuple[int, dict[str, object]]) -> None:
        body = {"name": f"srv{one[0]:03}", "address": "127.0.0.1", "port": one[1]["port"], "secret": one[1]["invitation"]}
        stack.client.post("/api/v1/servers", body)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(take, enumerate(fleet.servers)))


def _all_known(stack: Stack) -> bool:
    vms = sum(1 for dummy in stack.client.pages("/api/v1/vms", limit=500))
    assert vms == SERVERS * VMS, f"{vms} VMs"
    return True
