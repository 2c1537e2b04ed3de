"""A manager to test the API on: the real store and gate, and stand-ins for what reaches servers."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from domus_controller.api.call import Parts
from domus_controller.app import create_app
from domus_controller.config import ManagerConfig
from domus_controller.security import passwords
from domus_controller.security.gate import Gate
from domus_controller.store import jobs, objects, person_certificates, plans, servers, tokens, users
from domus_controller.store.database import Store
from domus_core.errors import Conflict, DomusError
from domus_core.model.document import parse_document
from domus_core.model.fields import plain

SERVER = "5ca7e5f0-0000-4000-8000-000000000001"
OTHER_SERVER = "5ca7e5f0-0000-4000-8000-000000000002"
PASSWORD = "correct horse battery"


class FakeAgents:
    """Remembers what it was asked; `failure` is raised instead of an answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {"adopt": {"document": {"site": "default", "vms": []}, "not_managed": {}}, "resync": {"mark": 7}}
        self.failure: DomusError | None = None
        self.consoles: dict[str, Any] = {}
        #: what `trust` is told, and what it tells a callback
        self.heard: list[Any] = []
        self.news: dict[str, Any] = {}
        self.trust = self

    def call(self, server_id: str, method: str, parameters: dict[str, Any], timeout: float = 30) -> Any:
        self.calls.append((server_id, method, parameters))
        if self.failure:
            raise self.failure
        return self.answers[method]

    def take_over(self, name: str, address: str, port: int, secret: str, *, pool: str = "default", replace: bool = False) -> dict[str, Any]:
        self.calls.append(("take_over", name, address, port, secret, pool, replace))
        if self.failure:
            raise self.failure
        return servers.add(self.store, {"id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), "name": name, "address": address, "port": port, "serial": "1f"})

    def release(self, server_id: str) -> None:
        if self.failure:
            raise self.failure
        servers.remove(self.store, server_id)

    def forget(self, server_id: str) -> None:
        self.calls.append(("forget", server_id))
        servers.remove(self.store, server_id)

    def revoke(self, server_id: str) -> None:
        self.calls.append(("revoke", server_id))
        servers.set_serial(self.store, server_id, None)

    def renew(self, server_id: str, pool: str | None) -> None:
        self.call(server_id, "renew", {"pool": pool})

    def heard_of(self, server_id: str, tls: Any) -> dict[str, Any]:
        self.heard.append(tls)
        return self.news

    def certify(self, csr: str, user: str, name: str, role: str) -> dict[str, Any]:
        users.find(self.store, user)
        item = person_certificates.add(self.store, f"{len(person_certificates.list(self.store)) + 10:x}", user, name, role, self.store.now() + 1000)
        return {**item, "certificate": "PEM"}

    def discover(self, address: str, port: int) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        return {"address": address, "port": port, "fingerprint": "ab" * 32, "server": SERVER, "owned": False, "ours": False}

    def console(self, server_id: str, vm_uuid: str, *, force: bool = False) -> Any:
        if self.failure:
            raise self.failure
        return self.consoles[vm_uuid]


class FakeJobs:
    """Checks documents as the real one does, stores jobs, and carries nothing out."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.documents: list[Any] = []
        self.verbs: list[tuple[Any, ...]] = []
        self.ends_while_waiting = True
        self.evacuations: list[Any] = []

    def start(self) -> None:
        raise AssertionError("an application with given parts starts no jobs")

    def apply(self, document: Any, *, by: str, check: bool = False, expected: Any = None, wait_for_address: float = 0, reason: str = "") -> dict[str, Any]:
        site = parse_document(document)
        self.documents.append(document)
        named = [{"kind": kind, "name": key} for kind, entries in site.objects.items() for key in entries]
        return self._create(kind="apply", created_by=by, reason=reason, check=check, objects=named)

    def plan(self, document: Any, *, by: str) -> dict[str, Any]:
        site = parse_document(document)
        shown = [{"kind": kind, "name": key, "spec": plain(spec)} for kind, entries in site.objects.items() for key, spec in entries.items()]
        plan = {"id": str(uuid.uuid4()), "created_by": by, "changed": bool(shown), "objects": shown}
        return self.store.write(lambda connection: plans.create(connection, plan))

    def apply_plan(self, plan_id: str, *, by: str) -> dict[str, Any]:
        self.store.write(lambda connection: plans.take(connection, plan_id))
        return self._create(kind="apply", created_by=by)

    def verb(self, vm_id: str, verb: str, *, by: str, force: bool = False, timeout: int | None = None) -> dict[str, Any]:
        self.verbs.append((vm_id, verb, force, timeout))
        return self._create(kind=verb, created_by=by, reason=verb)

    def plan_evacuation(self, server: Any, options: Any, *, stopped: bool = False) -> dict[str, Any]:
        self.evacuations.append((dict(options), stopped))
        return {"server": server["name"], "server_id": server["id"], "possible": True, "moves": [], "staying": []}

    def queue(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["kind"] == "evacuate":
            self.evacuations.append({name: job["options"][name] for name in ("migration", "at_once", "stopped")})
        return self._create(**job)

    def cancel(self, job_id: str, *, by: str) -> dict[str, Any]:
        return jobs.request_cancel(self.store, job_id, by)

    def relaunch(self, job_id: str, *, by: str) -> dict[str, Any]:
        if jobs.find(self.store, job_id)["state"] in ("queued", "running"):
            raise Conflict("has not ended", object=f"job {job_id}")
        return self._create(kind="apply", created_by=by, relaunch_of=job_id)

    def wait(self, job_id: str, seconds: float) -> dict[str, Any]:
        if self.ends_while_waiting:
            jobs.finish(self.store, job_id, "succeeded", True)
        return jobs.find(self.store, job_id)

    def _create(self, **job: Any) -> dict[str, Any]:
        return self.store.write(lambda connection: jobs.create(connection, {"id": str(uuid.uuid4()), **job}))


class Manager:
    """The application and its parts, three people, and two servers."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.agents, self.jobs = FakeAgents(self.store), FakeJobs(self.store)
        self.parts = Parts(ManagerConfig(directory=directory), self.store, self.agents, self.jobs, Gate(self.store))  # type: ignore[arg-type]
        self.app = create_app(parts=self.parts)
        self.client = self.app.test_client()
        self.tokens = {}
        for role in ("viewer", "operator", "administrator"):
            users.create(self.store, role, _HASH, role)
            self.tokens[role] = tokens.create(self.store, role, "tests", role)[1]
        for number, server_id in enumerate((SERVER, OTHER_SERVER), 1):
            servers.add(self.store, {"id": server_id, "name": f"srv{number}", "address": "192.0.2.1", "port": 8899, "serial": "1f"})

    def call(self, method: str, path: str, role: str | None = "administrator", **rest: Any) -> Any:
        """The answer to one request of somebody with this role."""
        headers = dict(rest.pop("headers", {}))
        if role:
            headers.setdefault("Authorization", f"Bearer {self.tokens[role]}")
        return self.client.open(path, method=method, headers=headers, **rest)

    def get(self, path: str, **rest: Any) -> Any:
        """The JSON of a GET that succeeds."""
        answer = self.call("GET", path, **rest)
        assert answer.status_code == 200, answer.text
        return answer.json

    def report(self, kind: str, name: str, server_id: str = SERVER, **spec: Any) -> str:
        """Have a server report an object; returns its id."""
        description = described(kind, name, server_id, **spec)
        self.store.write(lambda connection: objects.put(connection, server_id, description, kind, description["key"], self.store.now()))
        return str(description["id"])

    def close(self) -> None:
        self.store.close()


_HASH = passwords.hash(PASSWORD)


def described(kind: str, name: str, server_id: str = SERVER, **spec: Any) -> dict[str, Any]:
    """What a server says of an object."""
    key = f"{spec['repository']}/{name}" if kind == "virtual_disk" else name
    whole = {"name": name, **spec}
    return {
        "kind": kind,
        "key": key,
        "id": str(uuid.uuid5(uuid.UUID(server_id), f"{kind}/{key}")),
        "name": name,
        "site": "default",
        "generation": 3,
        "state": "running" if kind == "vm" else "present",
        "spec": whole,
        "recorded": whole,
        "running": True if kind == "vm" else None,
        "measured": {"addresses": ["192.0.2.50"]} if kind == "vm" else {},
        "fingerprint": "f",
        "restart_required": [],
    }


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    """The header of a Basic login."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def route_like(permission: str) -> Any:
    """Something that the gate takes for a route."""
    return SimpleNamespace(permission=permission, instead="")
