"""Verbs: change the run state of one VM, at once, and write down that it is wanted so.

A verb is somebody's explicit wish, so it is done to a VM that Domus does not manage as well; in such a one nothing is written, and the answer
says so.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Optional

from .cancelling import Question, cancellable, never
from .driver import Driver
from .engine import PATIENCE, ObjectResult, Progress, measure, take_steps
from .errors import Conflict, InvalidSpec, NotFound
from .model.fields import LIVE, given, make
from .model.snapshot import Found
from .model.vm import VmSpec
from .planning.run_states import TRANSITIONS, run_state_recorded, to_be_recorded
from .planning.steps import KILL, UPDATE, Change, Step, step

LONGEST_TIMEOUT = 86400
NOT_MANAGED = "is not managed by Domus: nothing is written down of this; to have it managed, apply what domus adopt writes"


@dataclasses.dataclass(frozen=True)
class Verb:
    """What can be asked of a VM; `state` is the run state that is wanted of it from then on."""

    name: str
    doc: str
    state: str
    actions: Callable[[str], Optional[tuple[str, ...]]]
    needs: str = ""


def _towards(state: str) -> Callable[[str], Optional[tuple[str, ...]]]:
    return lambda found: () if found == state else TRANSITIONS.get((found, state))


def _kill(found: str) -> tuple[str, ...]:
    return () if found == "stopped" else (KILL,)


def _restart(found: str) -> tuple[str, ...]:
    return TRANSITIONS.get((found, "stopped"), ()) + TRANSITIONS[("stopped", "running")]


def _resume(found: str) -> Optional[tuple[str, ...]]:
    return None if found == "stopped" else _towards("running")(found)


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("start", "Start it; a paused or suspended one goes on.", "running", _towards("running")),
        Verb("stop", "Ask its guest to shut down.", "stopped", _towards("stopped")),
        Verb("kill", "Power it off now; its guest is not asked.", "stopped", _kill),
        Verb("restart", "Stop it, then start it: what waits for a restart takes effect.", "running", _restart),
        Verb("suspend", "Save it to disk, and free its memory.", "suspended", _towards("suspended"), "Start it first"),
        Verb("resume", "Let a paused or suspended one go on.", "running", _resume, "Start it"),
    )
}


def verb_named(name: str) -> Verb:
    """The verb of this name. Raises InvalidSpec."""
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise InvalidSpec("is not a verb", field="verb", value=name, remedy=f"Known: {', '.join(VERBS)}")
    return verb


def plan_verb(found: Found, verb: Verb, *, force: bool = False, timeout: Optional[int] = None) -> tuple[Step, ...]:
    """The steps that carry out the verb; none when it would change nothing. Raises Conflict when it can not be done."""
    name, state = found.spec.name, found.state.state
    if not found.state.persistent:
        raise Conflict(
            "is transient: libvirt keeps no definition of it", object=f"vm {name}", remedy="Make it persistent first: virsh dumpxml, then virsh define"
        )
    actions = verb.actions(state)
    if actions is None:
        raise Conflict(f"is {state}, so {verb.name} can not be done", object=f"vm {name}", field="state", value=state, remedy=verb.needs)
    wishes = {name: value for name, value in (("force_stop", force or None), ("stop_timeout", timeout)) if value is not None}
    spec, record = make(VmSpec, {**given(found.spec), **wishes}), None
    if to_be_recorded(found.recorded, verb.state, acting=bool(actions)):
        record = make(VmSpec, {**given(found.recorded), "state": verb.state})
    if not actions and record is None:
        return ()
    if not actions:
        told = (run_state_recorded(found, verb.state),)
        return (step(UPDATE, "vm", found.spec, reason=f"it is to be {verb.state}", uuid=found.state.uuid, changes=told, record=record),)
    change = () if state == verb.state else (Change("state", state, verb.state, LIVE),)
    first = step(actions[0], "vm", spec, reason=f"{verb.name} was asked for", uuid=found.state.uuid, changes=change, record=record)
    return (first, *(step(action, "vm", spec, reason=first.reason, uuid=found.state.uuid) for action in actions[1:]))


def carry_out_verb(
    driver: Driver,
    vm: str,
    verb: str,
    *,
    site: str,
    force: bool = False,
    timeout: Optional[int] = None,
    cancelled: Question = never,
    progress: Progress = lambda line: None,
    patience: float = PATIENCE,
) -> ObjectResult:
    """Carry out a verb on the VM of this name or UUID; only that one is locked and read.

    `timeout` is how many seconds its guest gets to shut down, `force` powers it off after that; `patience` how long to wait for
    an apply that holds the VM. Raises InvalidSpec, NotFound, Conflict, Busy, Cancelled before anything is touched; what fails later is in the result.
    """
    wanted = verb_named(verb)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int) or not 0 <= timeout <= LONGEST_TIMEOUT):
        raise InvalidSpec(f"is not a number of seconds from 0 to {LONGEST_TIMEOUT}", field="timeout", value=timeout)
    name = _required(driver, vm).spec.name
    with cancellable(cancelled), driver.locked([("vm", name)], [], patience=patience):
        found = _required(driver, name)
        result = ObjectResult("vm", name, plan_verb(found, wanted, force=force, timeout=timeout), note="" if found.state.managed else NOT_MANAGED)
        take_steps(result, driver, site, progress, cancelled)
    # a guest that starts has no address yet, and asking for one takes longer than all the rest
    measure(result, driver, addresses=found.state.state != "stopped")
    return result


def _required(driver: Driver, vm: str) -> Found:
    found = driver.find_vm(vm) or driver.take_vm(vm)
    if found is None:
        raise NotFound("there is no VM of this name or UUID on this server", object=f"vm {vm}", remedy="Look where it is: domus vm list")
    return found
