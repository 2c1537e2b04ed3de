"""What agents would say of objects, for the tests of the store."""

from __future__ import annotations

import uuid
from typing import Any, Optional

from domus_controller.store import objects
from domus_controller.store.database import Store

FIRST, SECOND = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
START = 1_800_000_000.0


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at


def vm_id(number: int) -> str:
    """The uuid of the VM of that number."""
    return str(uuid.UUID(int=1000 + number))


def described(number: int = 0, *, key: Optional[str] = None, generation: int = 1, state: str = "running", **rest: Any) -> dict[str, Any]:
    """The description of a VM; `rest` goes into its specification, `recorded`, `running` and `site` beside it."""
    name = key or f"vm{number:05d}"
    outer = {key: rest.pop(key) for key in ("recorded", "running", "site", "restart_required") if key in rest}
    spec = {"name": name, "memory": 1 << 30, **rest}
    return {
        "kind": "vm",
        "key": name,
        "id": vm_id(number),
        "name": name,
        "site": "default",
        "generation": generation,
        "state": state,
        "spec": spec,
        "recorded": dict(spec),
        "running": True,
        "measured": {"addresses": ["192.0.2.7"], "state": state},
        "fingerprint": "f",
        "restart_required": [],
        **outer,
    }


def put(store: Store, description: dict[str, Any], server_id: str = FIRST) -> None:
    """What a server says of an object that is there."""
    store.write(lambda connection: objects.put(connection, server_id, description, description["kind"], description["key"], store.now()))


def put_all(store: Store, descriptions: list[dict[str, Any]], server_id: str = FIRST) -> None:
    """The same for many, in one transaction."""
    store.write(lambda connection: [objects.put(connection, server_id, one, one["kind"], one["key"], store.now()) for one in descriptions])


def take_away(store: Store, key: str, server_id: str = FIRST) -> None:
    """A server says that a VM is gone."""
    store.write(lambda connection: objects.put(connection, server_id, None, "vm", key, store.now()))


def event(number: int, kind: str = "vm.started", **rest: Any) -> dict[str, Any]:
    """A record of something that happened."""
    return {"seq": number, "at": START, "type": "event", "kind": kind, "severity": "info", "object": None, "data": {}, "operation": None, **rest}


def told(number: int, description: Optional[dict[str, Any]], key: str = "") -> dict[str, Any]:
    """A record of what an object is now."""
    name = description["key"] if description else key
    return {"seq": number, "at": START, "type": "object", "kind": "vm", "key": name, "id": "", "description": description}
