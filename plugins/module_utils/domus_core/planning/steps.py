"""A plan is data: steps with the changes they make and why."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from ..model.document import key_of
from ..model.fields import plain

CREATE, UPDATE, DELETE = "create", "update", "delete"
# Not a field of a document: that Domus has the VM in its charge, which its record says.
MANAGED = "managed"
START, STOP, KILL, PAUSE, RESUME, SUSPEND = "start", "stop", "kill", "pause", "resume", "suspend"


@dataclasses.dataclass(frozen=True)
class Change:
    """One field of an object: what it is, what it is to be (None: nothing), and when that takes effect."""

    field: str
    before: Any
    after: Any
    effect: str

    def as_dict(self) -> dict[str, Any]:
        """The change as JSON-able data, secrets masked."""
        return {"field": self.field, "before": plain(self.before), "after": plain(self.after), "effect": self.effect}


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to do to one object.

    `spec` is what the object will be afterwards, `record` what is written down as asked for; `uuid` is that of the VM or
    network, or of the VM that a virtual disk is made for.
    """

    action: str
    kind: str
    key: str
    spec: Any
    changes: tuple[Change, ...] = ()
    reason: str = ""
    uuid: Optional[str] = None
    record: Any = None

    @property
    def goes_first(self) -> bool:
        """Is it to be done before its users go? What hangs on a dead file server can end only once that is taken away."""
        return self.action == DELETE and bool(getattr(self.spec, "force_unmount", None))

    @property
    def name(self) -> str:
        """What a person calls the object: kind and key."""
        return f"{self.kind} {self.key}"

    def as_dict(self) -> dict[str, Any]:
        """The step as JSON-able data, secrets masked."""
        return {
            "action": self.action,
            "kind": self.kind,
            "name": self.key,
            "changes": [change.as_dict() for change in self.changes],
            "reason": self.reason,
        }


def step(action: str, kind: str, spec: Any, *, reason: str, **rest: Any) -> Step:
    """Make a step for the object that `spec` describes; see Step for what `rest` may say."""
    return Step(action, kind, key_of(kind, spec), spec, reason=reason, **rest)
