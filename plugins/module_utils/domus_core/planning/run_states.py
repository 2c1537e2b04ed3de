"""Run states: which verbs lead from one to another, and when the wanted one is written down."""

from __future__ import annotations

from typing import Optional

from ..errors import Conflict
from ..model.fields import LIVE
from ..model.snapshot import Found
from ..model.vm import VmSpec
from .steps import PAUSE, RESUME, START, STOP, SUSPEND, Change, Step, step

TRANSITIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("stopped", "running"): (START,),
    ("stopped", "paused"): (START, PAUSE),
    ("running", "stopped"): (STOP,),
    ("running", "paused"): (PAUSE,),
    ("running", "suspended"): (SUSPEND,),
    ("paused", "running"): (RESUME,),
    ("paused", "stopped"): (RESUME, STOP),
    ("paused", "suspended"): (SUSPEND,),
    ("suspended", "running"): (START,),
    ("suspended", "paused"): (START, PAUSE),
    ("suspended", "stopped"): (START, STOP),
}
ENDING = frozenset({STOP, SUSPEND})


def to_be_recorded(before: Optional[VmSpec], state: Optional[str], *, acting: bool) -> bool:
    """Must the record be written for this run state? Who finds it as wanted takes no charge of one that nobody asked for."""
    return before is not None and state not in (None, before.state) and (acting or before.state is not None)


def run_state_recorded(found: Found, state: str) -> Change:
    """That the run state it has already is from now on the one that was asked for."""
    return Change("state", found.recorded.state, state, LIVE)


def run_state_steps(spec: VmSpec, found: str, wanted: Optional[str], uuid: str, *, told: bool = False, record: Optional[VmSpec] = None) -> list[Step]:
    """The verbs that lead from one run state to another; the first one writes the record, and shows the change unless it was told already. Raises Conflict."""
    if wanted is None or wanted == found:
        return []
    actions = TRANSITIONS.get((found, wanted))
    if actions is None:
        raise Conflict(
            f"a {found} VM can not become {wanted}",
            field="state",
            value=wanted,
            remedy="Start it first" if found == "stopped" else "Stop or start it by hand first",
        )
    changes = () if told else (Change("state", found, wanted, LIVE),)
    return [
        step(
            action,
            "vm",
            spec,
            reason=f"it is {found} and is to be {wanted}",
            uuid=uuid,
            changes=() if position else changes,
            record=None if position else record,
        )
        for position, action in enumerate(actions)
    ]
