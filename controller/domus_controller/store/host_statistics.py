"""The course of a server's figures, out of samples in which counters are kept as the server counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from .database import Row, Store
from .statistics import HOST, rate, samples
from .values import from_json, shown_time

GAUGES = ("memory", "memory_available", "memory_free", "swap", "swap_free", "load")
DEVICES = {"net": ("received", "sent"), "disks": ("read", "written")}


def series(store: Store, server_id: str, since: float, until: float) -> dict[str, Any]:
    """The course of a server between two times: {step, items}.

    An item is {at, cpu, cpus, load, memory, memory_available, memory_free, swap, swap_free, net, disks, file_systems}: `cpu` is the share of
    all processors in use since the item before, 0 to 1, `net` and `disks` bytes per second of each; None where that is not known.
    """
    step, rows = samples(store, f"{HOST}{server_id}", since, until)
    return {"step": step, "items": [_item(before, row) for before, row in zip([None, *rows], rows)]}


def _item(before: Optional[Row], row: Row) -> dict[str, Any]:
    sample: dict[str, Any] = from_json(row["sample"])
    earlier: dict[str, Any] = from_json(before["sample"]) if before else {}
    seconds = row["at"] - before["at"] if before else 0.0
    item = {"at": shown_time(row["at"]), "cpu": _busy(earlier, sample), "cpus": sample.get("cpus"), **{name: sample.get(name) for name in GAUGES}}
    for group, counters in DEVICES.items():
        item[group] = _rates(_mapping(earlier, group), _mapping(sample, group), counters, seconds)
    return {**item, "file_systems": _mapping(sample, "file_systems")}


def _busy(earlier: Mapping[str, Any], sample: Mapping[str, Any]) -> Optional[float]:
    """The share of the ticks that were not idle; of an older agent, which counts none, what it measured last."""
    passed, idle = (_difference(earlier.get(name), sample.get(name)) for name in ("cpu_ticks", "cpu_idle_ticks"))
    if not passed or idle is None:
        told = sample.get("cpu")
        return float(told) if isinstance(told, (int, float)) else None
    return round(min(1.0, max(0.0, 1 - idle / passed)), 4)


def _rates(earlier: Mapping[str, Any], sample: Mapping[str, Any], counters: tuple[str, ...], seconds: float) -> dict[str, dict[str, Optional[float]]]:
    known: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = _mapping
    return {name: {one: rate(known(earlier, name).get(one), known(sample, name).get(one), seconds) for one in counters} for name in sample}


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What an agent says there, if it is a mapping: it may be of any version."""
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _difference(before: Any, after: Any) -> Optional[float]:
    known = all(isinstance(one, (int, float)) for one in (before, after))
    return after - before if known and after >= before else None
