"""A plan of balancing carried out as one job: servers are woken, VMs moved a few at a time, and what is empty then is switched off.

Each move and each switch is a job of its own, the same as a person's, and is looked at anew before it begins: the plan was made on what was
known then. After a restart of the manager nothing more of it is begun; the next look plans anew.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from domus_core.errors import Cancelled, Conflict, DomusError, NotFound, error_from_dict
from domus_core.planning.placement import Planner, candidates
from domus_core.planning.power import POWER_OFF, WAKE

from ..store import jobs, objects, servers
from .balancing import on_shared_storage, read_fleet
from .migrate_run import check_migration
from .moving_out import MOVED_STATES, reservations_of, resident
from .outcome import CANCELLED, ENDED, FAILED, SUCCEEDED, Interrupted, Outcome
from .output import JobOutput
from .parts_run import AT_ONCE, Item, PartsRun
from .power_run import switch as switch_power
from .tools import Tools

if TYPE_CHECKING:
    from .jobs import Jobs


@dataclasses.dataclass(frozen=True)
class _Left:
    """A step that is not done: `error` when it could not be, else only why there was no need any more."""

    kind: str
    name: str
    why: str
    error: Optional[DomusError] = None

    def entry(self) -> Item:
        told: Item = {"kind": self.kind, "name": self.name, "server": None, "changed": False, "actions": [], "note": self.why}
        return told if self.error is None else {**told, "error": self.error.located(f"{self.kind} {self.name}").as_dict()}


def describe(plan: Mapping[str, Any]) -> str:
    """What a plan does, in a few words."""
    words = [f"{len(plan['moves'])} moves"] if plan["moves"] else []
    words += [f"{one['action']} {one['server']}" for one in plan["switches"]]
    return ", ".join(words) or "nothing"


class BalanceRun(PartsRun):
    """One plan; `run` is called once. `obstacle` says why nothing of the pool may be begun now; empty: nothing."""

    def __init__(self, tools: Tools, work: Jobs, job: Mapping[str, Any], again: bool, obstacle: Callable[[], str]) -> None:
        super().__init__(tools, work, job)
        self._again, self._obstacle = again, obstacle
        options = job["options"]
        self._wakes, self._offs = ([one for one in options["switches"] if one["action"] == action] for action in (WAKE, POWER_OFF))
        self._moves: list[Item] = list(options["moves"])
        self._left: list[_Left] = []

    def run(self) -> Outcome:
        """Do one step after the other until all are done, or must not be. Raises Stopped when the manager ends."""
        told: set[str] = set()
        with JobOutput(self._tools.store, self._job["id"]) as output:

            def say(line: str) -> None:
                output.put("progress", {"line": line})

            parts = self._follow(lambda parts: _tell_ended(parts, told, say), lambda parts, under_way: not self._again and self._begin(parts, under_way, say))
        return self._outcome(parts)

    def _begin(self, parts: Sequence[Item], under_way: Sequence[Item], say: Callable[[str], None]) -> bool:
        """Begin what may be under way now; was something begun, or given up?"""
        if not self._wakes and not self._moves and not self._offs:
            return False
        if why := self._obstacle():
            self._give_up_all(why, say)
            return True
        moving = [part for part in under_way if part["kind"] == jobs.MIGRATE]
        if self._begin_wakes(say) or self._begin_moves(moving, say):
            return True
        return not self._moves and not moving and self._begin_offs(parts, say)

    def _begin_wakes(self, say: Callable[[str], None]) -> bool:
        wakes, self._wakes = self._wakes, []
        for one in wakes:
            self._try("server", one["server"], functools.partial(self._switch, one, say), say)
        return bool(wakes)

    def _begin_moves(self, moving: Sequence[Item], say: Callable[[str], None]) -> bool:
        """The moves in the order of the plan: one that lacks room waits as long as others are still under way, which may make it."""
        done, under_way = False, len(moving)
        while self._moves and under_way < AT_ONCE and not self._cancelled.is_set():
            move = self._moves[0]
            if under_way and self._lack_of_room(move) is not None:
                break
            del self._moves[0]
            if self._try("vm", move["vm"], functools.partial(self._move, move, say), say):
                under_way += 1
            done = True
        return done

    def _begin_offs(self, parts: Sequence[Item], say: Callable[[str], None]) -> bool:
        """What was to be emptied is, or stays on."""
        offs, self._offs = self._offs, []
        if not offs:
            return False
        if self._left or any(part["state"] in (FAILED, CANCELLED) for part in parts):
            for one in offs:
                self._leave(_Left("server", one["server"], "not everything before it was done"), say)
            return True
        for one in offs:
            self._try("server", one["server"], functools.partial(self._switch, one, say), say)
        return True

    def _try(self, kind: str, name: str, step: Callable[[], Optional[_Left]], say: Callable[[str], None]) -> bool:
        """Was the step begun? Else it is told why not."""
        try:
            left = step()
        except DomusError as error:
            left = _Left(kind, name, error.message, error)
        if left is not None:
            self._leave(left, say)
        return left is None

    def _leave(self, left: _Left, say: Callable[[str], None]) -> None:
        self._left.append(left)
        say(f"{left.kind} {left.name} stays as it is: {left.why}")

    def _give_up_all(self, why: str, say: Callable[[str], None]) -> None:
        steps = [*(("vm", one["vm"]) for one in self._moves), *(("server", one["server"]) for one in (*self._wakes, *self._offs))]
        self._wakes, self._moves, self._offs = [], [], []
        for kind, name in steps:
            self._leave(_Left(kind, name, why, Conflict(why, remedy="The next look plans anew")), say)

    def _move(self, move: Mapping[str, Any], say: Callable[[str], None]) -> Optional[_Left]:
        """Begin the move as a person's would be, when it still is what the plan meant. Raises what is in its way."""
        try:
            vm = objects.find(self._tools.store, "vm", move["id"])
        except NotFound:
            return _Left("vm", move["vm"], "is gone")
        if vm["server_id"] != move["source_id"] or vm["state"] not in MOVED_STATES:
            return _Left("vm", move["vm"], f"is not on {move['source']} any more" if vm["server_id"] != move["source_id"] else "does not run any more")
        if (why := self._lack_of_room(move)) is not None:
            raise Conflict(f"can not go to {move['server']} any more: {why}", field="server", value=move["server"])
        told = check_migration(self._tools, vm, move["server_id"], {})
        if not told["possible"]:
            raise error_from_dict(told["errors"][0])
        self._work.migrate(vm["id"], move["server_id"], {}, by=self._job["created_by"], reason=move["reason"], evacuation=self._job["id"])
        say(f"vm {move['vm']} moves from {move['source']} to {move['server']}: {move['reason']}")
        return None

    def _lack_of_room(self, move: Mapping[str, Any]) -> Optional[str]:
        """Why the destination would not do now, by rules and room with all that is on its way; None when it would."""
        try:
            vm = objects.find(self._tools.store, "vm", move["id"])
        except NotFound:
            return None
        known = read_fleet(self._tools.store)
        seen = candidates(known, str(move["source_id"]), reservations_of(self._tools.store, known))
        reasons = Planner(seen).reasons(on_shared_storage(resident(vm)).demand)
        return reasons.get(move["server_id"], "is not a server of this manager any more")

    def _switch(self, switch: Mapping[str, Any], say: Callable[[str], None]) -> Optional[_Left]:
        server = servers.find(self._tools.store, switch["server_id"])
        is_on = switch["action"] == WAKE
        if is_on and server["state"] in servers.CONNECTED:
            return _Left("server", server["name"], "is on already")
        switch_power(self._work, self._tools.store, server, on=is_on, by=self._job["created_by"], reason=switch["reason"], policy=True, part_of=self._job["id"])
        say(f"server {server['name']}: {switch['action']}: {switch['reason']}")
        return None

    def _outcome(self, parts: Sequence[Item]) -> Outcome:
        names = {str(one["id"]): str(one["name"]) for one in servers.all(self._tools.store)}
        entries = [_entry(part, names) for part in parts] + [one.entry() for one in self._left]
        errors = [entry["error"] for entry in entries if entry.get("error")]
        changed = any(entry["changed"] for entry in entries)
        result = {"objects": entries, "pool": self._job["options"]["pool"]}
        if self._cancelled.is_set():
            message = f"was cancelled by {self._cancelled_by}; what was done stays as it is"
            return Outcome(CANCELLED, changed, Cancelled(message, object=f"job {self._job['id']}").as_dict(), result)
        if self._again and not errors:
            error = Interrupted("the manager was restarted, so nothing more of it is begun", object=f"job {self._job['id']}", remedy="The next look plans anew")
            errors = [error.as_dict()]
        if errors:
            more = {"errors": errors} if len(errors) > 1 else {}
            return Outcome(FAILED, changed, {**errors[0], **more}, result)
        return Outcome(SUCCEEDED, changed, None, result)


def _tell_ended(parts: Sequence[Item], told: set[str], say: Callable[[str], None]) -> None:
    for part in parts:
        if part["state"] in ENDED and part["id"] not in told:
            told.add(part["id"])
            object, why = part["objects"][0], f": {part['error']['message']}" if part["error"] else ""
            say(f"{object['kind']} {object['name']}: {part['kind'].replace('_', ' ')} {part['state']}{why}")


def _entry(part: Item, names: Mapping[str, str]) -> Item:
    done, object = part["state"] == SUCCEEDED, part["objects"][0]
    where = str(part["servers"][-1 if done else 0])
    entry: Item = {"kind": object["kind"], "name": object["name"], "server": names.get(where, where), "changed": done}
    entry |= {"actions": [part["kind"].replace("_", " ")] if done else [], "note": part["reason"], "job": part["id"]}
    if done:
        return entry
    label = f"{object['kind']} {object['name']}"
    return {**entry, "error": part["error"] or Conflict(f"its job has {part['state']}", object=label, remedy=f"domus job show {part['id']}").as_dict()}
