"""Clustered pools, put together from what their members told last; members that disagree, or are not heard, are shown so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.cluster.pool_problems import ITS_OWN
from domus_core.errors import NotFound

from .database import Row, Store
from .servers import CONNECTED, OFF
from .values import from_json, near_or_known, shown_time

HEALTHY, PROBLEMS, NO_QUORUM, SILENT = STATES = ("healthy", "problems", "no_quorum", "unknown")
COMPARED = ("quorate", "coordinator", "members", "vms")
TOLD = (
    "SELECT s.id, s.name, s.state, s.last_seen, json_extract(f.facts, '$.server_pool') AS told FROM servers s JOIN server_facts f ON f.server_id = s.id"
    " WHERE json_type(f.facts, '$.server_pool') = 'object' ORDER BY s.name"
)


@dataclasses.dataclass(frozen=True)
class Teller:
    """A server of this manager that told of its pool; `heard`: what it told is how it is now, as far as it knows; `off`: on purpose."""

    id: str
    name: str
    heard: bool
    last_seen: Optional[str]
    told: Mapping[str, Any]
    off: bool = False


def all(store: Store) -> list[dict[str, Any]]:
    """All pools by name."""
    return [pool_of(name, tellers) for name, tellers in sorted(_tellers(store).items())]


def find(store: Store, name: str) -> dict[str, Any]:
    """One pool. Raises NotFound, with the names that are near."""
    return pool_of(name, tellers_of(store, name))


def tellers_of(store: Store, name: str) -> list[Teller]:
    """The members of a pool that told of it. Raises NotFound, with the names that are near."""
    pools = _tellers(store)
    if name not in pools:
        raise NotFound("no server told of such a pool", object=f"server_pool {name}", remedy=near_or_known(name, list(pools)))
    return pools[name]


def _tellers(store: Store) -> dict[str, list[Teller]]:
    pools: dict[str, list[Teller]] = {}
    for row in store.rows(TOLD):
        teller = _teller(row)
        pools.setdefault(str(teller.told.get("pool")), []).append(teller)
    return pools


def _teller(row: Row) -> Teller:
    return Teller(row["id"], row["name"], row["state"] in CONNECTED, shown_time(row["last_seen"]), from_json(row["told"]), row["state"] == OFF)


def pool_of(name: str, tellers: Sequence[Teller]) -> dict[str, Any]:
    """The pool from what its members told."""
    voice = voice_of(tellers)
    told = voice.told
    differences = {one.name: _differs(one, voice) for one in tellers}
    problems = [*_problems(tellers, voice), *_silent(tellers), *_disagreeing(differences, voice)]
    quorate = bool(told.get("quorate")) if voice.heard else None
    return {
        "name": name,
        "state": SILENT if quorate is None else NO_QUORUM if not quorate else PROBLEMS if problems else HEALTHY,
        "quorate": quorate,
        "told_by": voice.name,
        "stale": not voice.heard,
        **{field: told.get(field) for field in ("coordinator", "votes")},
        "members": _members(tellers, voice, differences),
        "links": [{"from": one.name, **link, "stale": not one.heard} for one in tellers for link in one.told.get("links") or ()],
        "fence_devices": _devices(tellers, told),
        "vms": told.get("vms") or {},
        "problems": problems,
    }


def voice_of(tellers: Sequence[Teller]) -> Teller:
    """Who speaks for the pool: one that is heard, of the part with quorum, its coordinator at best."""

    def rank(one: Teller) -> tuple[bool, bool, bool, str]:
        return one.heard, bool(one.told.get("quorate")), one.told.get("coordinator") == one.told.get("server"), one.last_seen or ""

    return max(tellers, key=rank)


def _differs(one: Teller, voice: Teller) -> list[str]:
    """In what a member that is heard sees the pool otherwise; one whose cluster does not run says so by a problem of its own."""
    if one is voice or not one.heard or not voice.heard or not one.told.get("members"):
        return []
    return [field for field in COMPARED if one.told.get(field) != voice.told.get(field)]


def _members(tellers: Sequence[Teller], voice: Teller, differences: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """All members that anybody named, with the server of this manager that each is, if it is one."""
    known = {str(one.told.get("server")): one for one in tellers}
    states: Mapping[str, str] = voice.told.get("members") or {}
    members = []
    for host in sorted({*known, *states}):
        one = known.get(host)
        shown: dict[str, Any] = {"member": host, "state": states.get(host), "server": None, "server_id": None, "heard": False, "off": False}
        shown |= {"last_seen": None, "differs": []}
        if one is not None:
            shown |= {"server": one.name, "server_id": one.id, "heard": one.heard, "off": one.off, "last_seen": one.last_seen, "differs": differences[one.name]}
        members.append(shown)
    return members


def _devices(tellers: Iterable[Teller], told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fence devices, each with the last test of each server's power by each member: each of them may have to cut."""
    tests = [shown_test(test, one.name) for one in tellers for test in one.told.get("fence_tests") or ()]
    watched: Mapping[str, list[str]] = told.get("fence_devices") or {}
    of_each = {name: [test for test in tests if name in str(test["device"]).split(" or ")] for name in watched}
    return [{"name": name, "watched_by": servers, "tests": of_each[name]} for name, servers in watched.items()]


def shown_test(test: Mapping[str, Any], by: str) -> dict[str, Any]:
    """A test as the API shows it; `by` is the server that made it."""
    return {**test, "at": shown_time(test["at"]), "by": by}


def _problems(tellers: Iterable[Teller], voice: Teller) -> list[dict[str, Any]]:
    """What the voice tells of the pool, and each member that is heard of itself."""
    told = [(one, problem) for one in tellers if one.heard or one is voice for problem in one.told.get("problems") or ()]
    chosen = [problem for one, problem in told if one is voice or problem.get("kind") in ITS_OWN]
    return [_problem(str(one.get("kind")), str(one.get("server") or ""), str(one.get("text")), str(one.get("remedy") or "")) for one in chosen]


def _silent(tellers: Iterable[Teller]) -> list[dict[str, Any]]:
    remedy = "See why: domus server show {}"
    return [
        _problem("not_heard", one.name, f"{one.name} is not heard: of it this is what it told last", remedy.format(one.name))
        for one in tellers
        if not one.heard and not one.off
    ]


def _disagreeing(differences: Mapping[str, list[str]], voice: Teller) -> list[dict[str, Any]]:
    text = "{} sees {} otherwise than {}"
    remedy = "It may be about to settle; if it stays: domus-agent pool status on both"
    return [_problem("disagrees", name, text.format(name, ", ".join(fields), voice.name), remedy) for name, fields in differences.items() if fields]


def _problem(kind: str, server: str, text: str, remedy: str) -> dict[str, Any]:
    return {"kind": kind, "server": server, "text": text, "remedy": remedy}
