"""The agents' part of migrations and of power, for a manager without servers: what each comes to is in the test's hands."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping
from typing import Any

from domus_controller.store import jobs, objects
from domus_core.errors import DomusError
from domus_core.model.migration import Destination, MovingVm

from tests.support.manager_room import Room

MIB = 1 << 20


class Movers:
    """The agents' part of migrations: each is done when a test, or `at_once`, says so."""

    def __init__(self, room: Room) -> None:
        self.room, self.at_once, self.fails, self.bad = room, True, set[str](), set[tuple[str, str]]()
        self.begun: list[tuple[str, str]] = []
        room.agents.__dict__.update(
            _migration_facts=self.facts, _migration_offer=self.offer, _receive_migration=self.receive, _settle_migration=self.settle, _submit=self.submit
        )

    def facts(self, server_id: str, vm: str, contents: bool = False) -> dict[str, Any]:
        found = objects.find(self.room.store, "vm", vm)
        told = MovingVm(found["name"], vm, found["state"], memory=found["spec"]["memory"], virtualization="qemu")
        return {"vm": json.loads(json.dumps(dataclasses.asdict(told))), "contents": {}}

    def offer(self, server_id: str, vm: Mapping[str, Any]) -> dict[str, Any]:
        name = next(name for name, id in self.room.servers.items() if id == server_id)
        virtualization = "xen" if (vm["name"], name) in self.bad else "qemu"
        offered = Destination(server_id, name, virtualization=virtualization, domain_types=(virtualization,), memory_free=1 << 40)
        return dict(json.loads(json.dumps(dataclasses.asdict(offered))))

    def receive(self, server_id: str, operation: str, vm: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        self.begun.append((vm["name"], next(name for name, id in self.room.servers.items() if id == server_id)))
        return {"destination": {**self.offer(server_id, vm), "address": ""}, "plan": {}}

    def settle(self, server_id: str, uuid: str, **rest: Any) -> dict[str, Any]:
        return {"seen": "absent", "open": False, "mark": None, "downtime": 5}

    def submit(self, server_id: str, operation: str, vm: str, **content: Any) -> dict[str, Any]:
        name = objects.find(self.room.store, "vm", vm)["name"]
        kept = {"operation": operation, "state": "running", "progress": [], "result": None, "error": None, "mark": None, "vm": vm, "name": name}
        self.room.agents.operations.setdefault(operation, kept)
        if self.at_once:
            self.finish(operation)
        return self.room.agents.operations[operation]

    def finish(self, operation: str) -> None:
        """A move is done, and both servers have reported it."""
        kept = self.room.agents.operations[operation]
        job = jobs.details(self.room.store, operation)
        source, to = ({id: name for name, id in self.room.servers.items()}[one] for one in job["servers"])
        entry: dict[str, Any] = {"kind": "vm", "name": kept["name"], "changed": True, "actions": ["migrate"], "changes": []}
        if kept["name"] in self.fails:
            entry.update(changed=False, actions=[], error=DomusError("broke off", object=f"vm {kept['name']}").as_dict())
        else:
            add(self.room, kept["name"], to, vm_id=kept["vm"])
            self.room.forget(source, "vm", kept["name"])
        state = "failed" if "error" in entry else "succeeded"
        result = {"objects": [entry], "verdict": {"owner": "source" if "error" in entry else "destination"}}
        with self.room.agents.news:
            kept.update(state=state, error=entry.get("error"), result=result)
            self.room.agents.news.notify_all()


class Power:
    """The agents' part of power: what they are told, and servers that go off and on when a test (or `at_once`) says so."""

    def __init__(self, room: Room) -> None:
        self.room, self.at_once = room, True
        self.told: list[tuple[str, str, Any]] = []
        self.refuses: dict[str, DomusError] = {}
        room.agents.__dict__.update(_power_off=self.off, _power_on=self.on)

    def _name(self, server_id: str) -> str:
        return next(name for name, id in self.room.servers.items() if id == server_id)

    def off(self, server_id: str, reason: str) -> dict[str, Any]:
        self.told.append(("off", self._name(server_id), reason))
        if error := self.refuses.get(self._name(server_id)):
            raise error
        if self.at_once:
            self.falls_silent(self._name(server_id))
        return {"off": True}

    def on(self, server_id: str, server: str | None, macs: list[str]) -> dict[str, Any]:
        self.told.append(("on", self._name(server_id), server or macs))
        if error := self.refuses.get(self._name(server_id)):
            raise error
        return {"devices": [{"device": "ipmi", "problem": None}] if server else [], "sent": [] if server else ["192.0.2.255"]}

    def falls_silent(self, name: str) -> None:
        """As the watch judges it after a while."""
        sql = "UPDATE servers SET state = CASE WHEN powered_off IS NULL THEN 'disconnected' ELSE 'off' END WHERE name = ?"
        self.room.store.write(lambda connection: connection.execute(sql, (name,)).rowcount)


def add(room: Room, name: str, server: str, mib: int = 1024, state: str = "running", **more: Any) -> None:
    """A VM that a server has reported."""
    known = more.pop("vm_id", str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))
    before = objects.page(room.store, "vm", filters={"name": name})["items"]
    spec = before[0]["spec"] if before else {"name": name, "memory": mib * MIB, "cpus": 1, **more}
    room.tell(server, "vm", spec, id=known, state=state, site="default")
