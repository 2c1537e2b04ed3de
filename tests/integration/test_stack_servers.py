"""The states of servers on a whole Domus: agents that end and come back, and the maintenance mode, by the API and the command."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stack import WEB_AUTHORITY, Stack

DISCONNECTED, OFFLINE = 4, 7


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(("test:///default", "test:///default"), settings={"disconnected_seconds": DISCONNECTED, "offline_seconds": OFFLINE})
    try:
        yield made.up()
    finally:
        made.close()


def state(stack: Stack, server: str = "s0") -> str:
    return str(stack.client.get(f"/api/v1/servers/{server}")["state"])


def domus(stack: Stack, *words: str) -> str:
    """Run the command as a person would."""
    directory = stack.directory / "person"
    directory.mkdir(exist_ok=True)
    token = stack.client.authorization.removeprefix("Bearer ")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "LANG": "C.UTF-8", "DOMUS_URL": stack.url, "DOMUS_TOKEN": token}
    environment["DOMUS_CA"] = str(stack.manager_directory / WEB_AUTHORITY)
    done = subprocess.run([stack.install / "bin" / "domus", *words], env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def events(stack: Stack, server: str = "s0") -> list[str]:
    found: list[dict[str, Any]] = stack.client.get("/api/v1/events", since=0, server=server, kind="server.*")["items"]
    return [one["kind"] for one in found if not one["kind"].startswith("server.renew")]


def test_an_agent_that_ends_and_comes_back(stack: Stack) -> None:
    stack.end("agent0", signal.SIGKILL)
    for wanted in ("disconnected", "offline"):
        stack.wait_for(lambda wanted=wanted: state(stack) == wanted, wanted)  # type: ignore[misc]
    assert stack.client.get("/api/v1/health")["servers"] == {"running": 1, "disconnected": 0, "offline": 1, "maintenance": 0, "off": 0, "unknown": 0}
    assert [one["name"] for one in stack.client.pages("/api/v1/servers", state="offline")] == ["s0"]
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["problems"] != [], "the reason")
    stale = {one["server"]: one["stale"] for one in stack.client.pages("/api/v1/vms")}
    assert stale == {"s0": True, "s1": False}
    assert "running?" in domus(stack, "vm", "list", "--server", "s0") and "offline" in domus(stack, "server", "list")
    stack.start("agent0")
    stack.wait_for(lambda: state(stack) == "running", "its return")
    assert events(stack) == ["server.running", "server.disconnected", "server.offline", "server.running"]
    assert events(stack, "s1") == ["server.running"]


def test_maintenance_by_the_command(stack: Stack) -> None:
    assert "is in maintenance" in domus(stack, "server", "maintenance", "s1", "on", "--reason", "new memory")
    assert "new memory" in domus(stack, "server", "show", "s1") and state(stack, "s1") == "maintenance"
    assert "is out of maintenance" in domus(stack, "server", "maintenance", "s1", "off")
    assert state(stack, "s1") == "running" and events(stack, "s1")[1:] == ["server.maintenance", "server.maintenance"]


def test_the_view_of_the_site_and_figures(stack: Stack) -> None:
    assert domus(stack, "network", "list").count("default") == 1
    shown = domus(stack, "network", "show", "default")
    assert "s0" in shown and "s1" in shown and "active" in shown

    def measured() -> bool:
        return "memory used" in domus(stack, "server", "statistics", "s1")

    stack.wait_for(measured, "figures", 90)
