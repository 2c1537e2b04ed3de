"""CPU compatibility groups as the manager knows them: who is in them, the baseline that was made last, and the VMs that follow it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Optional

from domus_core.model.fields import plain, restore
from domus_core.model.vm_devices import CpuBaselineSpec
from domus_core.planning.cpu_groups import Member
from domus_core.version import VERSION, is_older

from . import requests
from .database import Connection, Row, Store
from .fleet import cpu_group_of, server_specs
from .items import latest_request
from .servers import CONNECTED
from .values import as_json, from_json

FACTS = ("guest_cpu", "cpu_model", "virtualization")
FOLLOWING = (
    "SELECT site, server_id, key, json_extract(description, '$.recorded.cpu_baseline') AS baseline FROM objects"
    " WHERE kind = 'vm' AND deleted IS NULL AND json_extract(description, '$.recorded.cpu_group') = ?"
    " AND json_extract(description, '$.recorded.cpu_baseline') IS NOT NULL"
)


def members(store: Store) -> list[Member]:
    """All servers that are in a group."""
    specs = server_specs(store)
    told = ", ".join(f"json_extract(f.facts, '$.{name}') AS {name}" for name in FACTS)
    rows = store.rows(f"SELECT s.id, s.name, s.state, s.version, {told} FROM servers s LEFT JOIN server_facts f ON f.server_id = s.id ORDER BY s.name")
    found = (_member(row, cpu_group_of(specs.get(row["id"]), {"cpu_model": row["cpu_model"]})) for row in rows)
    return [one for one in found if one is not None]


def _member(row: Row, group: Optional[str]) -> Optional[Member]:
    if group is None:
        return None
    cpu = from_json(row["guest_cpu"])
    asked = row["state"] in CONNECTED and not is_older(row["version"], VERSION)
    return Member(str(row["id"]), str(row["name"]), group, restore(CpuBaselineSpec, cpu) if cpu else None, row["virtualization"], asked)


def kept(store: Store, name: str) -> Optional[dict[str, Any]]:
    """What was made of a group last: {fingerprint, baseline, problem}."""
    row = store.row("SELECT fingerprint, baseline, problem FROM cpu_groups WHERE name = ?", (name,))
    return None if row is None else {"fingerprint": row["fingerprint"], "baseline": _spec(from_json(row["baseline"])), "problem": row["problem"]}


def _spec(data: Optional[Mapping[str, Any]]) -> Optional[CpuBaselineSpec]:
    return None if data is None else restore(CpuBaselineSpec, data)


def keep(store: Store, name: str, fingerprint: str, baseline: Optional[CpuBaselineSpec], problem: Optional[str]) -> None:
    """Keep what was made of a group."""
    told = None if baseline is None else as_json(plain(baseline))
    store.write(lambda connection: connection.execute("INSERT OR REPLACE INTO cpu_groups VALUES (?, ?, ?, ?)", (name, fingerprint, told, problem)).rowcount)


def used(store: Store) -> list[str]:
    """The groups that VMs are in."""
    sql = "SELECT DISTINCT json_extract(description, '$.recorded.cpu_group') AS name FROM objects WHERE kind = 'vm' AND deleted IS NULL"
    return sorted(row["name"] for row in store.rows(sql) if row["name"])


def pinned(store: Store, names: Collection[str]) -> frozenset[str]:
    """Those of the VMs that were given a CPU model of their own."""
    sql = (
        "SELECT key FROM objects WHERE kind = 'vm' AND deleted IS NULL AND key IN (SELECT value FROM json_each(?))"
        " AND json_extract(description, '$.recorded.cpu_model') IS NOT NULL"
    )
    return frozenset(row["key"] for row in store.rows(sql, (as_json(sorted(names)),)))


def follow(store: Store, name: str, baseline: CpuBaselineSpec) -> int:
    """Ask the group's baseline of the VMs that were made with another one: pending, and shown as drift, until an apply makes it; how many there are."""
    wanted = plain(baseline)
    behind = [row for row in store.rows(FOLLOWING, (name,)) if from_json(row["baseline"]) != wanted]

    def change(connection: Connection) -> int:
        return sum(_ask(connection, row, name, wanted) for row in behind)

    return store.write(change) if behind else 0


def _ask(connection: Connection, row: Row, group: str, wanted: Any) -> bool:
    before = latest_request(connection, "vm", row["key"], row["site"], row["server_id"])
    asked = from_json(before["asked"]) if before else {"name": row["key"], "cpu_group": group}
    if asked.get("cpu_baseline") == wanted or asked.get("cpu_model") or asked.get("state") == "absent":
        return False
    asked["cpu_baseline"] = wanted
    where = (before["site"], before["server_id"], before["job_id"]) if before is not None else (row["site"] or "", row["server_id"], "")
    requests.record(connection, where[0], where[1], "vm", row["key"], asked, where[2])
    return True
