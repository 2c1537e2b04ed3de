"""An object as agents tell of it and the manager keeps it: plain data, secrets masked."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any, Optional, Union

from .model.fields import plain, public
from .model.snapshot import Found
from .planning.live import waiting_now


def identity(kind: str, key: str, found: Optional[Found], server_id: str) -> str:
    """What an object is known by everywhere.

    A VM and a shared repository by their UUID, what lies in a shared repository by one that is made of the repository's: it is one object,
    seen from several servers. Anything else by one that is made of its server, kind and key.
    """
    state: Any = found.state if found is not None else None
    own = getattr(state, "uuid", None) if kind in ("vm", "repository") else None
    within = getattr(state, "repository_uuid", None)
    return str(own or uuid.uuid5(uuid.UUID(within or server_id), f"{kind}/{key}"))


def describe(kind: str, key: str, found: Found, server_id: str) -> dict[str, Any]:
    """The object as JSON-able data.

    `spec` is its definition, `recorded` what was asked for (None: nothing is written down), `running` what is in force: None when it
    does not run, True when that is its definition. `state` is the run state of a VM, `active` or `inactive`, or `present`.
    """
    return {
        "kind": kind,
        "key": key,
        "id": identity(kind, key, found, server_id),
        "name": str(found.spec.name),
        "site": getattr(found.state, "site", None),
        "generation": getattr(found.state, "generation", 0),
        "state": _state(kind, found),
        "spec": plain(public(found.spec)),
        "recorded": None if found.recorded is None else plain(found.recorded),
        "running": _running(found),
        "measured": _measured(found.state),
        "fingerprint": found.fingerprint,
        "restart_required": list(waiting_now(found)),
    }


def _state(kind: str, found: Found) -> str:
    if kind == "vm":
        return str(found.state.state)
    active = getattr(found.state, "active", None)
    return "present" if active is None else "active" if active else "inactive"


def _running(found: Found) -> Union[None, bool, dict[str, Any]]:
    if found.running is None:
        return None
    return True if found.running is found.spec or found.running == found.spec else plain(found.running)


def _measured(state: Any) -> dict[str, Any]:
    """What was measured; tuples become lists, so that it is the same before and after JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(state).items()}
