"""Evacuation: all VMs of a server that run (and, if asked for, those that are stopped) moved to others, as one job. Each move is a job of its
own, so what has moved stays moved.

The job holds nothing but the order: which VMs are still there, and how far the moves have come, stands in the store. A manager that
was killed finds both there and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from domus_core.errors import Cancelled, Conflict, DomusError, error_from_dict
from domus_core.model.migration import parse_migration

from ..store import jobs, servers
from .moving_out import draw_up_all, refusal, residents_of, staying
from .outcome import CANCELLED, ENDED, FAILED, SUCCEEDED, Outcome
from .output import JobOutput
from .parts_run import AT_ONCE, Item, PartsRun
from .tools import Tools

if TYPE_CHECKING:
    from .jobs import Jobs


def plan(tools: Tools, server: Mapping[str, Any], options: Mapping[str, Any], *, stopped: bool = False) -> Item:
    """Where each VM of a server (its item) would go, and which stay; nothing is changed. Raises Refused for options that contradict each other."""
    parse_migration(dict(options))
    source = str(server["id"])
    moves, refused = draw_up_all(tools, source, residents_of(tools, source, stopped=stopped), options)
    left = staying(tools, source, refused, {move["id"] for move in moves})
    return {"server": server["name"], "server_id": source, "possible": all(move["possible"] for move in moves), "moves": moves, "staying": left}


def evacuate(
    work: Jobs,
    server: Mapping[str, Any],
    *,
    by: str,
    reason: str = "",
    options: Optional[Mapping[str, Any]] = None,
    at_once: Optional[int] = None,
    stopped: bool = False,
    relaunch_of: Optional[str] = None,
) -> Item:
    """Queue the job that moves the VMs of a server (its item) away. Raises what is in the way of any that lives, before anything moves."""
    found = refusal(work.plan_evacuation(server, options or {}, stopped=stopped)["moves"])
    if found is not None:
        raise found
    told = {"server": server["id"], "migration": dict(options or {}), "at_once": at_once or AT_ONCE, "stopped": stopped}
    job = {"kind": jobs.EVACUATE, "created_by": by, "reason": reason or f"evacuate {server['name']}", "servers": [server["id"]], "options": told}
    return work.queue({**job, "objects": [{"kind": "server", "name": server["name"]}], "relaunch_of": relaunch_of})


class EvacuationRun(PartsRun):
    """One evacuation; `run` is called once. The moves go on when the manager ends, and its next start takes this up."""

    def __init__(self, tools: Tools, work: Jobs, job: Mapping[str, Any]) -> None:
        super().__init__(tools, work, job)
        self._source = str(job["options"]["server"])
        self._name = str(servers.find(tools.store, self._source)["name"])
        self._stopped = bool(job["options"].get("stopped"))
        self._refused: dict[str, dict[str, Any]] = {}
        self._stays: dict[str, str] = {}

    def run(self) -> Outcome:
        """Move one after the other, a few at once, until nothing is left that can be moved. Raises Stopped when the manager ends."""
        told: set[str] = set()
        with JobOutput(self._tools.store, self._job["id"]) as output:

            def tell(moves: Sequence[Item]) -> None:
                for line in _news(moves, told):
                    output.put("progress", {"line": line})

            moves = self._follow(tell, lambda moves, under_way: self._begin(moves, len(under_way), output))
            return self._outcome(moves, output)

    def _begin(self, moves: Sequence[Item], under_way: int, output: JobOutput) -> int:
        """Begin as many moves as may be under way at once; return how many."""
        room = int(self._job["options"]["at_once"]) - under_way
        tried = {str(move["options"]["vm"]) for move in moves}
        there = residents_of(self._tools, self._source, stopped=self._stopped)
        left = [one for one in there if one.id not in tried and one.id not in self._refused and one.id not in self._stays]
        if room <= 0 or not left:
            return 0
        begun = 0
        planned, stays = draw_up_all(self._tools, self._source, left, self._job["options"]["migration"])
        self._stays.update(stays)
        for move in planned:
            if begun >= room or self._cancelled.is_set():
                break
            try:
                if not move["possible"]:
                    raise error_from_dict(move["errors"][0]).located(f"vm {move['vm']}")
                self._work.migrate(move["id"], move["server_id"], self._job["options"]["migration"], by=self._job["created_by"], evacuation=self._job["id"])
                output.put("progress", {"line": f"vm {move['vm']} moves to {move['server']}: {move['reason']}"})
                begun += 1
            except DomusError as error:
                self._refused[move["id"]] = {"name": move["vm"], "error": error.as_dict()}
                output.put("progress", {"line": f"vm {move['vm']} stays: {error.message}"})
        # Who was refused just now counts: the next look finds what is left.
        return begun or (1 if any(one.id in self._refused or one.id in self._stays for one in left) else 0)

    def _outcome(self, moves: Sequence[Item], output: JobOutput) -> Outcome:
        left = staying(self._tools, self._source, self._stays, {str(move["options"]["vm"]) for move in moves})
        for one in left:
            output.put("progress", {"line": f"vm {one['vm']} stays: {one['reason']}"})
        names = {str(one["id"]): str(one["name"]) for one in servers.all(self._tools.store)}
        entries = [_entry(move, names) for move in moves]
        entries += [
            {"kind": "vm", "name": one["name"], "server": self._name, "changed": False, "actions": [], "error": one["error"]} for one in self._refused.values()
        ]
        errors = [entry["error"] for entry in entries if entry.get("error")]
        result = {"objects": entries, "staying": left, "servers": {self._name: SUCCEEDED if not errors and not self._cancelled.is_set() else FAILED}}
        changed = any(entry["changed"] for entry in entries)
        if self._cancelled.is_set():
            message = f"was cancelled by {self._cancelled_by}; {sum(entry['changed'] for entry in entries)} VMs had moved, and stay where they are"
            cancelled = Cancelled(message, object=f"job {self._job['id']}", remedy="Relaunch it to complete it")
            return Outcome(CANCELLED, changed, cancelled.as_dict(), result)
        if errors:
            more = {"errors": errors} if len(errors) > 1 else {}
            return Outcome(FAILED, changed, {**errors[0], **more}, result)
        return Outcome(SUCCEEDED, changed, None, result)


def _news(moves: Sequence[Item], told: set[str]) -> list[str]:
    """A line for each move that has ended since."""
    lines = []
    done = sum(move["state"] == SUCCEEDED for move in moves)
    for move in moves:
        if move["state"] in ENDED and move["id"] not in told:
            told.add(move["id"])
            why = f": {move['error']['message']}" if move["error"] else ""
            lines.append(f"vm {move['objects'][0]['name']} {'has moved' if move['state'] == SUCCEEDED else 'did not move'}{why} ({done} done)")
    return lines


def _entry(move: Item, names: Mapping[str, str]) -> Item:
    moved = move["state"] == SUCCEEDED
    where = str(move["servers"][1 if moved else 0])
    entry = {"kind": "vm", "name": move["objects"][0]["name"], "server": names.get(where, where), "changed": moved, "actions": ["migrate"] if moved else []}
    if moved:
        return entry
    error = move["error"] or Conflict("was not moved", object=f"vm {entry['name']}", remedy=f"domus job show {move['id']}").as_dict()
    return {**entry, "error": error}
