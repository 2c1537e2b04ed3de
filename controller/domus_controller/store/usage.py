"""What VMs use: processors and network, on average since a while ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .database import Store
from .statistics import HOST, rate
from .values import from_json

WINDOW = 900.0
STEP = 60


def of_vms(store: Store, window: float = WINDOW) -> dict[str, dict[str, float]]:
    """By the VM's UUID {cpu, network}: processors, and bytes per second both ways; VMs of which too little is known are left out."""
    since = store.now() - window
    earliest = {
        row["subject"]: row
        for row in store.statistics.rows(
            "SELECT subject, min(at) AS at, sample FROM samples WHERE step = ? AND at >= ? AND subject NOT LIKE ? GROUP BY subject", (STEP, since, f"{HOST}%")
        )
    }
    found: dict[str, dict[str, float]] = {}
    for latest in store.statistics.rows("SELECT at, statistics FROM latest WHERE at >= ?", (since,)):
        for uuid, sample in (from_json(latest["statistics"]).get("vms") or {}).items():
            before = earliest.get(uuid)
            if before is not None and isinstance(sample, Mapping):
                found[uuid] = _used(from_json(before["sample"]), sample, latest["at"] - before["at"])
    return found


def _used(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> dict[str, float]:
    cpu = rate(before.get("cpu_time_ns"), after.get("cpu_time_ns"), seconds)
    ways = (rate(before.get(name), after.get(name), seconds) for name in ("net_received", "net_sent"))
    return {"cpu": (cpu or 0.0) / 1e9, "network": sum(way or 0.0 for way in ways)}
