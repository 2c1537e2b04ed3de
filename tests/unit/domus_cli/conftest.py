"""A manager in memory, and the command run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from domus_cli import commands
from domus_cli.__main__ import main
from domus_core.errors import DomusError, NotFound

VM = {
    "id": "5f1c3c4e-0000-4000-8000-000000000001",
    "kind": "vm",
    "name": "web1",
    "state": "running",
    "server": "s1",
    "site": "demo",
    "generation": 2,
    "addresses": ["198.18.10.101"],
    "spec": {"name": "web1", "cpus": 2, "memory": 134217728, "disks": [{"name": "root", "file": "demo/VirtualDisks/web1-root.qcow2"}]},
    "restart_required": ["machine"],
    "drift": [{"field": "memory", "asked": 1, "recorded": 2, "defined": 2, "running": 2}],
}
CHANGES = [{"field": "memory", "before": 134217728, "after": 268435456, "effect": "live"}]
PLANNED = [
    {"server": "s1", "kind": "vm", "name": "web1", "changed": True, "actions": ["update"], "changes": CHANGES},
    {"server": "s1", "kind": "vm", "name": "new", "changed": True, "actions": ["create", "start"], "changes": []},
    {"server": "s1", "kind": "vm", "name": "old", "changed": True, "actions": ["kill", "delete"], "changes": []},
    {"server": "s1", "kind": "vm", "name": "same", "changed": False, "actions": [], "changes": []},
]
JOB = {"id": "j1", "kind": "apply", "state": "queued", "changed": None, "error": None, "created_at": "2026-11-22T10:00:00Z", "objects": [], "result": None}


class FakeManager:
    """Answers what it was given by (method, path), and remembers what was asked."""

    url, authorization, context = "https://manager:7002", "Bearer x", None

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, Any, dict[str, Any]]] = []
        self.events: list[tuple[str | None, str, str]] = []

    def _answer(self, method: str, path: str, body: Any, query: dict[str, Any]) -> Any:
        self.asked.append((method, path, body, query))
        found = self.answers.get((method, path), NotFound("is not there", object=path))
        if isinstance(found, (DomusError, KeyboardInterrupt)):
            raise found
        return found(query) if callable(found) else found

    def get(self, path: str, **query: Any) -> Any:
        return self._answer("GET", path, None, query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self._answer("POST", path, body, query)

    def put(self, path: str, body: Any, **query: Any) -> Any:
        return self._answer("PUT", path, body, query)

    def delete(self, path: str, **query: Any) -> Any:
        return self._answer("DELETE", path, None, query)

    def pages(self, path: str, **filters: Any) -> Iterator[dict[str, Any]]:
        yield from self._answer("GET", path, None, filters)["items"]

    def stream(self, path: str, last_event_id: str | None = None, **query: Any) -> Iterator[tuple[str | None, str, str]]:
        self.asked.append(("STREAM", path, None, {"last_event_id": last_event_id, **{name: value for name, value in query.items() if value is not None}}))
        yield from self.events


class Said(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> FakeManager:
    """The manager that all commands talk to."""
    fake = FakeManager()
    for module in (
        commands.balancing,
        commands.documents,
        commands.events,
        commands.jobs,
        commands.objects,
        commands.people,
        commands.pools,
        commands.servers,
        commands.server_statistics,
        commands.vms,
        commands.common,
    ):
        monkeypatch.setattr(module, "connect", lambda: fake)
    return fake


@pytest.fixture
def domus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run a command line."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> Said:
        code = main(list(words))
        told = capsys.readouterr()
        return Said(code, told.out, told.err)

    return run
