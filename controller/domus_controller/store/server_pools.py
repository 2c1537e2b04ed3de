"""Server pools: as they were asked for, and put together from what their members told last; members that disagree, or are not heard, are shown so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.cluster.cib import SURE
from domus_core.cluster.pool import Watchdog
from domus_core.cluster.pool_problems import ITS_OWN
from domus_core.errors import NotFound

from . import site_objects
from .database import Row, Store
from .servers import CONNECTED, OFF
from .values import from_json, near_or_known, shown_time

HEALTHY, PROBLEMS, NO_QUORUM, SILENT, NOT_CLUSTERED = STATES = ("healthy", "problems", "no_quorum", "unknown", "not_clustered")
# corosync.conf(5): the token grows with each member beyond two, and consensus is 1.2 times it. What Pacemaker and a BMC take was measured on test hosts.
DEFAULT_TOKEN, TOKEN_COEFFICIENT, NOTICED, FENCING_SECONDS, START_SECONDS = 3000, 650, 2.2, 5.0, 3.0
UNTESTED = "HA is allowed although fence devices have not passed a test: VMs of a server that died may stay down"
NAMED = (
    "SELECT DISTINCT name AS key FROM objects INDEXED BY objects_name WHERE kind = 'server_pool' AND deleted IS NULL"
    " UNION SELECT DISTINCT key FROM requests WHERE kind = 'server_pool' AND json_extract(asked, '$.state') IS NOT 'absent'"
)
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
    """All pools by name: those that were asked for, and those that members tell of."""
    told = tellers(store)
    names = {*told, *(str(row["key"]) for row in store.rows(NAMED))}
    return [_whole(store, name, told.get(name, [])) for name in sorted(names)]


def find(store: Store, name: str) -> dict[str, Any]:
    """One pool. Raises NotFound, with the names that are near."""
    found = {pool["name"]: pool for pool in all(store)}
    if name not in found:
        raise NotFound("there is no such pool", object=f"server_pool {name}", remedy=near_or_known(name, list(found)))
    return found[name]


def _whole(store: Store, name: str, heard: Sequence[Teller]) -> dict[str, Any]:
    """A pool with what was asked of it, on which servers it is and how it is there, and what its file system means for the time of a failover."""
    try:
        asked = site_objects.find(store, "server_pool", name)
    except NotFound:
        asked = {"spec": None, "servers": []}
    spec = asked["spec"] or {}
    is_clustered = bool(heard) or spec.get("clustered") is not False
    pool = pool_of(name, heard) if heard else _unheard(name, is_clustered)
    servers = [{field: one[field] for field in ("server", "server_id", "state", "stale", "drift", "differs", "problem")} for one in asked["servers"]]
    problems = [_problem("not_as_asked", one["server"], f"{one['server']}: {one['problem']}", "domus apply") for one in servers if one["problem"]]
    if spec.get("untested_fencing"):
        problems.append(_problem("untested_fencing", "", UNTESTED, "Test them: domus pool fence-test; then write untested_fencing: false"))
    state = PROBLEMS if problems and pool["state"] in (HEALTHY, NOT_CLUSTERED) else pool["state"]
    lease = _lease(store, spec.get("file_system")) if is_clustered else None
    more = {"clustered": is_clustered, "spec": asked["spec"], "servers": servers, "failover": failover(spec, lease) if is_clustered else None}
    return {**pool, "state": state, "problems": [*pool["problems"], *problems], **more}


def _unheard(name: str, is_clustered: bool) -> dict[str, Any]:
    """A pool of which no member has told: without a cluster there is nothing to tell."""
    nothing = dict.fromkeys(("quorate", "told_by", "coordinator", "votes"))
    lists: dict[str, Any] = {field: [] for field in ("members", "links", "fence_devices", "problems")}
    return {"name": name, "state": SILENT if is_clustered else NOT_CLUSTERED, **nothing, "stale": False, **lists, "vms": {}}


def _lease(store: Store, file_system: Optional[str]) -> Optional[int]:
    """After how many seconds the locks of a dead server fall, as the servers measured it on the pool file system."""
    row = store.row(
        "SELECT max(json_extract(description, '$.measured.lease')) AS lease FROM objects INDEXED BY objects_name"
        " WHERE kind = 'repository' AND name >= ?1 AND name <= ?1 AND deleted IS NULL",
        (file_system or "",),
    )
    return None if row is None else row["lease"]


def failover(spec: Mapping[str, Any], lease: Optional[int]) -> dict[str, Any]:
    """What a server's death costs, in seconds: until it is noticed, until its power is cut, until its locks have fallen; `expected` is the sum.

    Who is cut is noticed first and cut then; the lease of NFS begins with its last word, so the longer of the two counts. Then the VM starts.
    """
    more = TOKEN_COEFFICIENT * max(0, len(spec.get("servers") or ()) - 2)
    noticed = round(((spec.get("token") or DEFAULT_TOKEN) + more) * NOTICED / 1000, 1)
    fenced = _fencing_seconds(spec)
    cut = noticed + fenced
    return {"noticed": noticed, "fenced": fenced, "lease": lease, "start": START_SECONDS, "expected": round(max(cut, lease or 0) + START_SECONDS, 1)}


def _fencing_seconds(spec: Mapping[str, Any]) -> float:
    """Until a server's power is cut; where no device can, until its watchdog has reset it for sure."""
    watchdog = spec.get("watchdog") or {}
    if spec.get("fencing") or not watchdog or watchdog.get("state") == "absent":
        return FENCING_SECONDS
    return float(SURE * (watchdog.get("timeout") or Watchdog().timeout))


def tellers_of(store: Store, name: str) -> list[Teller]:
    """The members of a pool that told of it. Raises NotFound, with the names that are near."""
    pools = tellers(store)
    if name not in pools:
        raise NotFound("no server told of such a pool", object=f"server_pool {name}", remedy=near_or_known(name, list(pools)))
    return pools[name]


def companion(store: Store, server_id: str) -> Optional[Teller]:
    """A member of the same pool that is heard and may act, the coordinator at best; None: there is none."""
    mates = next((members for members in tellers(store).values() if any(one.id == server_id for one in members)), [])
    able = [one for one in mates if one.heard and one.id != server_id and one.told.get("quorate")]
    return voice_of(able) if able else None


def tellers(store: Store) -> dict[str, list[Teller]]:
    """The members that told of each pool, by its name."""
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
