"""VMs that exist and are not where a job looked for them: which those are, where they are now, and the one more try there.

The agents are told which VMs exist somewhere already, so whatever moves while a job waits or runs, no agent makes such a VM a second
time: it answers `moved`. Then all servers are asked, and the job goes where the VM is, once.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.errors import DomusError, Moved, Unreachable
from domus_core.planning.routing import route

from ..store import fleet, objects, servers
from . import operations
from .outcome import ENDED, FAILED, SUCCEEDED, Status, Target
from .tools import Tools, Work

WAIT = 3
ASK_SECONDS = 10.0
LOOKS, PAUSE = 3, 1.0
MOST_NAMED = 3

Statuses = dict[str, Status]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Move:
    """A VM that was not on the server where the job looked; `to` is where it is (None: nobody knows, and `error` says what is known)."""

    name: str
    uuid: str
    left: str
    to: Optional[str] = None
    error: Optional[dict[str, Any]] = None


def existing_of(tools: Tools, work: Work) -> dict[str, dict[str, str]]:
    """Per server of the job the VMs of its document that exist somewhere, by name with their UUIDs.

    One that vanished from its server though it was asked for is sought on all servers first: perhaps it only moved.
    """
    site = str(work.document["site"])
    known = objects.identify(tools.store, site)
    named = {str(vm["name"]) for document in work.documents.values() for vm in document.get("vms") or ()}
    sought = {name: uuid for name, uuid in objects.vanished(tools.store, site).items() if name in named and name not in known}
    if sought:
        found, dummy = look(tools, sought.values())
        known = {**known, **{name: uuid for name, uuid in sought.items() if uuid in found}}
    return {
        server: {name: known[name] for vm in document.get("vms") or () if (name := str(vm["name"])) in known} for server, document in work.documents.items()
    }


def look(tools: Tools, uuids: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Which servers have each VM (ids, by UUID), and the names of the servers that can not say."""
    wanted = list(dict.fromkeys(uuids))
    known = {str(one["id"]): one for one in servers.all(tools.store)}

    def ask(server: str) -> Optional[dict[str, Any]]:
        if known[server]["state"] not in servers.CONNECTED:
            return None
        try:
            return dict(tools.agents.call(server, "find_vms", {"vms": wanted}, timeout=ASK_SECONDS)["vms"])
        except DomusError:
            return None

    answers = operations.on_each(known, ask)
    found: dict[str, list[str]] = {}
    for uuid in wanted:
        there = {server: told[uuid] for server, told in answers.items() if told and uuid in told}
        # What is just coming in is not persistent yet: until it is, the VM is where it came from.
        settled = [server for server, one in there.items() if one.get("persistent")] or list(there)
        if settled:
            found[uuid] = settled
    return found, sorted(str(known[server]["name"]) for server, told in answers.items() if told is None)


def moves_of(statuses: Mapping[str, Status]) -> list[Move]:
    """The VMs that agents answered for with `moved`."""
    moves = []
    for server, status in statuses.items():
        for entry in (status.get("result") or {}).get("objects") or ():
            error = entry.get("error") or {}
            if entry.get("kind") == "vm" and error.get("code") == Moved.code:
                moves.append(Move(str(entry["name"]), str(error.get("value") or ""), server))
    return moves


class SecondTry:
    """The one more try of a job, where its VMs are now; `cancel` may be called from any thread."""

    def __init__(self, tools: Tools, job: Mapping[str, Any], work: Work, names: Mapping[str, str], say: Say) -> None:
        self._tools, self._job, self._work, self._names, self._say = tools, job, work, names, say
        self._cancelled = threading.Event()
        self._running: set[str] = set()

    def cancel(self) -> None:
        """Leave off: what was submitted is cancelled where it works."""
        self._cancelled.set()
        for server in list(self._running):
            operations.ask(self._tools.agents, server, self._operation(server), cancel=True)

    def run(self, moves: Sequence[Move]) -> tuple[list[Move], Statuses]:
        """Where the VMs were found, and what came of the document there."""
        located = [self._located(move, found, silent) for found, silent in [self._look(moves)] for move in moves]
        going: dict[str, list[Move]] = {}
        for move in located:
            if move.to is not None and not self._cancelled.is_set():
                self._say(f"vm {move.name} has moved from {self._name(move.left)} to {self._name(move.to)}")
                going.setdefault(move.to, []).append(move)
        return located, dict(operations.on_each(going, lambda server: self._apply(server, going[server])))

    def _look(self, moves: Sequence[Move]) -> tuple[dict[str, list[str]], list[str]]:
        uuids = [move.uuid for move in moves]
        for left in range(LOOKS, 0, -1):
            found, silent = look(self._tools, uuids)
            if left == 1 or all(uuid in found for uuid in uuids) or self._tools.stopping.wait(PAUSE) or self._cancelled.is_set():
                break
        return found, silent

    def _located(self, move: Move, found: Mapping[str, Sequence[str]], silent: Sequence[str]) -> Move:
        there = found.get(move.uuid, ())
        if len(there) == 1:
            return dataclasses.replace(move, to=there[0])
        return dataclasses.replace(move, error=_unknown(move, [self._name(one) for one in there], silent, self._name(move.left)).as_dict())

    def _apply(self, server: str, moves: Sequence[Move]) -> Status:
        """Bring the document to where the VMs are, as it would have gone there at first."""
        try:
            status = self._submit(server, moves)
            self._running.add(server)
            while status["state"] not in ENDED and not self._tools.stopping.is_set():
                if self._cancelled.is_set():
                    return operations.settle(self._tools.agents, server, self._operation(server), cancel=True, patience=30.0, stopping=self._tools.stopping)
                parameters = {"operation": self._operation(server), "wait": WAIT, "since": operations.NO_PROGRESS}
                status = dict(self._tools.agents.call(server, "status", parameters, timeout=WAIT + 20))
            return status
        except DomusError as error:
            return {"state": FAILED, "result": None, "error": error.located(f"server {self._name(server)}").as_dict(), "mark": None}

    def _submit(self, server: str, moves: Sequence[Move]) -> dict[str, Any]:
        going = {move.name: move.uuid for move in moves}
        vms = [vm for vm in self._work.document.get("vms") or () if vm["name"] in going]
        document = {section: entries for section, entries in self._work.document.items() if section not in ("vms", "servers")} | {"vms": vms}
        routed = route(document, fleet.read_fleet(self._tools.store, with_vms=False), {name: [server] for name in going})
        parameters: dict[str, Any] = {"operation": self._operation(server), "kind": "apply", "document": routed.documents[server]}
        parameters["server"] = self._name(server)
        parameters |= {"check": self._job["check"], "existing": going, "wait_for_address": self._job["options"].get("wait_for_address") or 0}
        return dict(self._tools.agents.call(server, "submit", parameters))

    def _operation(self, server: str) -> str:
        return f"{operations.operation_id(self._job['id'], server)}-moved"

    def _name(self, server: str) -> str:
        return self._names.get(server, server)


def _unknown(move: Move, there: Sequence[str], silent: Sequence[str], left: str) -> Moved:
    if there:
        told, remedy = f"is on more than one server: {' and '.join(there)}", "Look which one is right; the other must be removed by hand"
    elif silent:
        told = f"is not on {left} any more, and on no server that answers; {', '.join(silent)} can not say"
        remedy = "It was not made again, since it may be there. Apply again when they answer"
    else:
        told, remedy = f"is not on {left} any more, and on no other server", "It was not made again. Apply once more if it is to be made anew"
    return Moved(told, object=f"vm {move.name}", field="server", remedy=remedy)


def with_known(status: dict[str, Any], vms: Iterable[str]) -> dict[str, Any]:
    """The status of a server that could not be reached, told that its VMs stay where they are known to be."""
    error, known = status.get("error") or {}, list(vms)
    if error.get("code") != Unreachable.code or not known:
        return status
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    are = "are known to be there, so they were" if len(known) > 1 else "is known to be there, so it was"
    told = f"vm {', '.join(known[:MOST_NAMED])}{more} {are} not made elsewhere"
    return {**status, "error": {**error, "remedy": f"{error['remedy']}; {told}" if error.get("remedy") else told}}


def with_second_try(statuses: Mapping[str, Status], moves: Sequence[Move], second: Mapping[str, Status]) -> Statuses:
    """What became of the job on each server, the VMs that were followed told where they are."""
    merged = {server: _without(status, [move for move in moves if move.left == server]) for server, status in statuses.items()}
    for server, status in second.items():
        merged[server] = _both(merged[server], status) if server in merged else status
    return merged


def _without(status: Status, moves: Sequence[Move]) -> Status:
    """The status on a server that VMs have left: without those that were followed, with what is known of the others."""
    if not moves:
        return status
    followed = {move.name for move in moves if move.error is None}
    errors = {move.name: move.error for move in moves if move.error is not None}
    result = status.get("result") or {}
    entries = []
    for entry in result.get("objects") or ():
        name = entry.get("name") if entry.get("kind") == "vm" else None
        if name in followed:
            continue
        entries.append({**entry, "error": errors[name]} if name in errors else entry)
    left = next((entry["error"] for entry in entries if entry.get("error")), None)
    state = SUCCEEDED if left is None and (status.get("error") or {}).get("code") == Moved.code else status["state"]
    return {**status, "state": state, "error": left, "result": {**result, "objects": entries}}


def _both(first: Status, second: Status) -> Status:
    entries = [*((first.get("result") or {}).get("objects") or ()), *((second.get("result") or {}).get("objects") or ())]
    once = {(entry.get("kind"), entry.get("name")): entry for entry in entries}
    marks = [status["mark"] for status in (first, second) if status.get("mark") is not None]
    worse = first if first["state"] != SUCCEEDED else second
    result = {**(first.get("result") or {}), "objects": list(once.values())}
    return {**worse, "error": first.get("error") or second.get("error"), "result": result, "mark": max(marks, default=None)}


def targets_after(targets: Iterable[Target], moves: Sequence[Move]) -> frozenset[Target]:
    """What the job was asked for, where it is now."""
    gone = {("vm", move.name, move.left): ("vm", move.name, move.to) for move in moves if move.to is not None}
    return frozenset(gone.get(target, target) for target in targets)
