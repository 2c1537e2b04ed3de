"""A manager without servers: its real store, authorities and jobs, with agents and a runner that do as a test says."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from domus_controller.config import ManagerConfig
from domus_controller.jobs.jobs import Jobs
from domus_controller.security.authority import Authority
from domus_controller.security.sealing import Sealing
from domus_controller.store import callbacks, jobs, objects, server_states, servers
from domus_controller.store.database import Store
from domus_core.errors import Conflict, DomusError, Moved, NotFound, Unreachable
from domus_core.fake_driver.cpu_models import baseline_cpu
from domus_core.model.document import key_of, parse_document
from domus_core.model.fields import plain, restore
from domus_core.model.kinds import KINDS
from domus_core.model.vm_devices import CpuBaselineSpec
from domus_core.version import VERSION

ENDED = {"succeeded", "failed", "cancelled"}


class FakeAgents:
    """Keeps operations as agents do; what they come to is in the test's hands."""

    def __init__(self) -> None:
        self.operations: dict[str, dict[str, Any]] = {}
        self.submitted: list[tuple[str, dict[str, Any]]] = []
        self.revoked: list[tuple[str, str]] = []
        self.unreachable: set[str] = set()
        self.fingerprints: dict[str, str] = {}
        self.holding = False
        self.fails: Mapping[str, DomusError] = {}
        self.marks: dict[str, int] = {}
        # Whose libvirt was asked for the baseline of CPUs.
        self.compared: list[str] = []
        # Where VMs are by server id: {name: UUID}. Until a test says so, every server has what it is asked for.
        self.vms: dict[str, dict[str, str]] | None = None
        self.news = threading.Condition()

    def call(self, server_id: str, method: str, parameters: Mapping[str, Any], timeout: float = 30) -> Any:
        """What an agent does, without a network."""
        if server_id in self.unreachable:
            raise Unreachable("does not answer", object=f"server {server_id}")
        return copy.deepcopy(getattr(self, f"_{method}")(server_id, **parameters))

    def _submit(self, server_id: str, operation: str, **content: Any) -> dict[str, Any]:
        with self.news:
            if operation not in self.operations:
                self.submitted.append((server_id, {"operation": operation, **content}))
                self.operations[operation] = {"operation": operation, "state": "running", "progress": [{"n": 1, "at": 0, "line": "begun"}]}
                self.operations[operation] |= {"result": None, "error": None, "mark": None, "content": content}
                if not self.holding:
                    self._end(operation, server_id)
                self.news.notify_all()
            return self.operations[operation]

    def _end(self, operation: str, server_id: str = "") -> None:
        kept = self.operations[operation]
        expected, fingerprint = kept["content"].get("expected"), self.fingerprints.get(server_id, "same")
        if expected not in (None, fingerprint):
            kept.update(state="failed", error=Conflict("the server has changed since the plan was made", object="plan").as_dict())
            return
        objects = [{"kind": kind, "name": key, "changed": True, "actions": ["create"], "changes": []} for kind, key in named(kept["content"])]
        for entry in objects:
            uuid = (kept["content"].get("existing") or {}).get(entry["name"])
            if entry["kind"] == "vm" and uuid is not None and self.vms is not None and uuid not in self.vms.get(server_id, {}).values():
                entry.update(changed=False, actions=[], error=Moved("is not on this server any more", object=f"vm {entry['name']}", value=uuid).as_dict())
            if entry["name"] in self.fails:
                entry.update(changed=False, actions=[], error=self.fails[entry["name"]].as_dict())
        error = next((entry["error"] for entry in objects if "error" in entry), None)
        kept.update(state="failed" if error else "succeeded", error=error, result={"changed": True, "objects": objects}, mark=self.marks.get(server_id))

    def finish(self, operation: str, server_id: str = "") -> None:
        """Let an operation that is held succeed, on this server where that matters."""
        with self.news:
            self._end(operation, server_id)
            self.news.notify_all()

    def _status(self, server_id: str, operation: str, wait: float = 0, since: int = 0) -> dict[str, Any]:
        with self.news:
            if operation not in self.operations:
                raise NotFound("is not known", object=f"operation {operation}")
            self.news.wait_for(lambda: self.operations.get(operation, {"state": "failed"})["state"] in ENDED, wait)
            if operation not in self.operations:
                raise Unreachable("was stopped")
            return self.operations[operation]

    def _cancel(self, server_id: str, operation: str) -> dict[str, Any]:
        with self.news:
            if operation not in self.operations:
                raise NotFound("is not known", object=f"operation {operation}")
            kept = self.operations[operation]
            if kept["state"] not in ENDED:
                kept.update(state="cancelled", error={"code": "cancelled", "message": "was cancelled"})
            self.news.notify_all()
            return kept

    def _revoke(self, server_id: str, serial: str, until: float) -> dict[str, Any]:
        self.revoked.append((server_id, serial))
        return {}

    def _plan(self, server_id: str, document: dict[str, Any], server: str, expected: str | None, existing: Any = None) -> dict[str, Any]:
        objects = [{"kind": kind, "name": key, "changed": True, "actions": ["create"], "changes": []} for kind, key in named({"document": document})]
        return {"changed": True, "check": True, "objects": objects, "fingerprint": self.fingerprints.get(server_id, "same")}

    def _find_vms(self, server_id: str, vms: list[str]) -> dict[str, Any]:
        there = (self.vms or {}).get(server_id, {}).values()
        return {"vms": {uuid: {"state": "running", "persistent": True} for uuid in vms if uuid in there}}

    def _baseline_cpu(self, server_id: str, cpus: list[dict[str, Any]]) -> dict[str, Any]:
        self.compared.append(server_id)
        return {"cpu": plain(baseline_cpu([restore(CpuBaselineSpec, cpu) for cpu in cpus]))}

    def _inventory(self, server_id: str) -> dict[str, Any]:
        return {"objects": [], "server": {}}


def named(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The objects of an operation's content."""
    if "document" not in content:
        return [("vm", "web1")]
    site = parse_document(content["document"])
    return [(kind.name, key_of(kind.name, spec)) for kind in KINDS for spec in site.wanted(kind.name).values()]


class FakeRunner:
    """A runner whose playbook brings the documents to fake agents."""

    def __init__(self, path: Path, agents: FakeAgents) -> None:
        self.agents = agents
        self.requests: list[dict[str, Any]] = []
        self.dies = False
        self.says = ""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed before
            return
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._job, args=(connection,), daemon=True).start()

    def _job(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            request = json.loads(stream.readline())
            self.requests.append(request)
            cancelled = threading.Event()

            def listen() -> None:
                try:
                    stream.readline()
                except (OSError, ValueError):
                    pass
                cancelled.set()

            threading.Thread(target=listen, daemon=True).start()
            send(connection, {"event": {"at": time.time(), "event": "verbose", "stdout": "srv1: begun"}})
            if self.says:
                send(connection, {"event": {"at": time.time(), "event": "runner_on_ok", "stdout": self.says}})
            targets = json.loads(request["files"]["targets.json"])
            outcome = {server: self._submit(server, one, targets, request) for server, one in targets["servers"].items()}
            while not cancelled.is_set() and not self.dies and any(one["state"] not in ENDED for one in outcome.values()):
                time.sleep(0.01)
                outcome = {server: self.agents.operations.get(one["operation"], one) for server, one in outcome.items()}
            if self.dies:
                connection.shutdown(socket.SHUT_RDWR)
                return
            shown = {server: {name: one.get(name) for name in ("state", "result", "error", "mark")} for server, one in outcome.items()}
            status = "cancelled" if cancelled.is_set() else "successful" if all(one["state"] == "succeeded" for one in shown.values()) else "failed"
            send(connection, {"end": {"status": status, "rc": 0, "error": "", "result": None if cancelled.is_set() else {"servers": shown}}})

    def _submit(self, server: str, one: Mapping[str, Any], targets: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
        document = json.loads(request["files"][one["document_file"]])
        content = {"operation": one["operation"], "kind": "apply", "document": document, "expected": one["expected"], "check": targets["check"]}
        content["existing"] = one["existing"]
        try:
            return dict(self.agents.call(server, "submit", content))
        except DomusError as error:
            return {"state": "failed", "error": error.as_dict(), "operation": one["operation"]}


def send(connection: socket.socket, line: Any) -> None:
    try:
        connection.sendall(json.dumps(line).encode() + b"\n")
    except OSError:
        pass


class Room:
    """One manager in a directory; `restart` is what a SIGKILL and a new start look like to its database."""

    def __init__(self, directory: Path, names: tuple[str, ...] = ("srv1",), clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        # A UNIX socket's path may have 107 characters.
        self.config = ManagerConfig(directory=directory / "manager", run_directory=directory, runner_socket=directory / "r.sock", job_seconds=60)
        self.store = Store(self.config.directory, clock)
        self.authority = Authority(self.config.directory)
        self.authority.ensure()
        self.agents = FakeAgents()
        self.runner = FakeRunner(self.config.runner_socket, self.agents)
        self.servers = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in names}
        for name, server_id in self.servers.items():
            servers.add(self.store, {"id": server_id, "name": name, "address": "192.0.2.1", "port": 8899, "serial": "1"})
        # An agent numbers one record after the other.
        self._recording = threading.Lock()
        self.jobs = self._make()
        self.jobs.start()

    def _make(self) -> Jobs:
        return Jobs(self.store, self.agents, self.authority, Sealing(self.config.directory), self.config)  # type: ignore[arg-type]

    def restart(self) -> None:
        """A new process with the same database; the old one can not tell the database anything any more."""
        self.jobs.stop()
        self.jobs = self._make()
        self.jobs.start()

    def add_vm(self, name: str = "web1", server: str = "srv1", state: str = "stopped") -> str:
        """A VM that an agent has reported; returns its id."""
        server_id = self.servers[server]
        vm_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        spec = {"name": name, "state": state}
        description = {"kind": "vm", "key": name, "id": vm_id, "name": name, "site": "default", "generation": 1, "state": state, "spec": spec}
        description |= {"recorded": spec, "running": None, "measured": {"state": state}, "fingerprint": "f", "restart_required": []}
        number = callbacks.position(self.store, server_id)["acknowledged"] + 1
        record = {"seq": number, "at": time.time(), "type": "object", "kind": "vm", "key": name, "id": vm_id, "description": description}
        callbacks.ingest(self.store, server_id, "e1", [record])
        return vm_id

    def hear(self, *names: str, memory: int = 8 << 30, **facts: Any) -> None:
        """Servers (all, if none is named) that have told what they are, and answer."""
        told = {"memory": memory, "cpus": 4, **facts}
        for name in names or tuple(self.servers):
            self.store.write(lambda connection, one=self.servers[name]: server_states.heard(connection, one, self.store.now(), VERSION, "up", told))

    def tell(self, server: str, kind: str, spec: Mapping[str, Any], **more: Any) -> str:
        """Have an agent report an object; returns its id."""
        server_id, key = self.servers[server], str(more.pop("key", spec["name"]))
        id = str(uuid.uuid5(uuid.UUID(server_id), f"{kind}/{key}"))
        description = {"kind": kind, "key": key, "id": id, "name": spec["name"], "site": None, "generation": 0, "state": "present", "spec": dict(spec)}
        description |= {"recorded": None, "running": None, "measured": {}, "fingerprint": "f", "restart_required": [], **more}
        self._record(server_id, kind, key, description["id"], description)
        return str(description["id"])

    def forget(self, server: str, kind: str, key: str) -> None:
        """Have an agent report that an object is gone."""
        found = objects.find(self.store, kind, key, server)
        self._record(self.servers[server], kind, key, found["id"], None)

    def _record(self, server_id: str, kind: str, key: str, id: str, description: Any) -> None:
        with self._recording:
            number = callbacks.position(self.store, server_id)["acknowledged"] + 1
            record = {"seq": number, "at": time.time(), "type": "object", "kind": kind, "key": key, "id": id, "description": description}
            callbacks.ingest(self.store, server_id, "e1", [record])

    def until(self, holds: Callable[[], Any], patience: float = 20) -> Any:
        """What `holds` gives once it is true."""
        deadline = time.monotonic() + patience
        while not (found := holds()):
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)
        return found

    def ended(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The job at its end."""
        found = self.jobs.wait(job["id"], 20)
        assert found["state"] in ENDED, found
        return found

    def state(self, job: Mapping[str, Any]) -> str:
        """How it stands."""
        return str(jobs.find(self.store, job["id"])["state"])

    def close(self) -> None:
        """End it."""
        self.jobs.stop()
        self.runner.close()
        self.store.close()
