"""Simulated servers: the agent's own door, ownership, operations and callbacks, many in one process, on servers in memory.

What is left out is libvirt: operations work on the engine's fake driver, and the figures of the VMs are made up. Everything that goes
over the wire is what real agents send, with certificates that each got by a take-over.

    python -m tests.support.fleet DIRECTORY SERVERS VMS_PER_SERVER

Servers without VMs do not report. A line of JSON for each server ({"port", "invitation"}) as soon as it listens; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from domus_agent.callbacks import Callbacks, LatestStatistics
from domus_agent.config import AgentConfig
from domus_agent.libvirt_tls import LibvirtTls
from domus_agent.methods import Methods
from domus_agent.operations import Operations
from domus_agent.ownership import MANAGER, Caller, Ownership
from domus_agent.rpc import Door
from domus_agent.store import AgentStore
from domus_core.errors import NotFound
from domus_core.fake_driver.driver import FakeDriver
from domus_core.version import VERSION

from .made_up import description

ROOT = Path(__file__).parents[2]
FACTS = {
    **{"hostname": "simulated", "cpus": 32, "memory": 256 << 30, "architecture": "x86_64", "kvm": True, "libvirt": "9.0.0", "qemu": "7.2.22"},
    **{"networks": ["default"], "uuid": "", "cpu_model": "EPYC-Rome", "sockets": 2, "cores": 8, "threads": 2, "numa_nodes": 2},
}


class _Connections:
    """In place of libvirt connections: one server in memory."""

    state_directory = ""

    def __init__(self) -> None:
        self._driver = FakeDriver()

    @contextlib.contextmanager
    def driver(self) -> Iterator[FakeDriver]:
        yield self._driver

    def connection(self) -> Any:
        raise NotFound("a simulated server has no libvirt", object="libvirt")


class _Methods(Methods):
    """All of an agent's methods; what libvirt would tell for an inventory is made up."""

    def call(self, method: str, parameters: Mapping[str, Any], caller: Caller) -> Any:
        if method == "inventory" and caller.role == MANAGER:
            return {"objects": self._store.objects(), "server": FACTS}
        return super().call(method, parameters, caller)


class SimulatedAgent:
    """One server: all of an agent but what looks at libvirt."""

    def __init__(self, directory: Path, number: int, vms: int) -> None:
        config = AgentConfig(directory=str(directory), state_directory=str(directory / "state"), address="127.0.0.1", port=0)
        self.store = AgentStore(config.directory)
        self.ownership = Ownership(config.directory, config.state_directory, self.store)
        self.connections: Any = _Connections()
        self.operations = Operations(self.store, self.connections, lambda: self.ownership.server_id)
        self.methods = _Methods(self.ownership, self.store, self.operations, self.connections, VERSION, LibvirtTls(config, self.store))
        self.vms = [description(self.ownership.server_id, number * vms + one) for one in range(vms)]
        with self.store.transaction():
            for one in self.vms:
                self.store.put_object("vm", one["key"], one["id"], one)
        self.statistics = LatestStatistics(self._collect, config.statistics)
        facts = {**FACTS, "hostname": f"simulated{number}", "uuid": self.ownership.server_id}
        self.callbacks = Callbacks(self.ownership, self.store, VERSION, config, lambda: "up", lambda: facts, self.statistics.take, lambda serial, until: None)
        self.store.wake = self.callbacks.wake
        self.door = Door(self.ownership, self.methods, _no_console, "127.0.0.1", 0)

    async def start(self) -> None:
        """Listen and report."""
        await self.door.open()
        loop = asyncio.get_running_loop()
        self.ownership.changed = lambda: self._changed(loop)
        if self.vms:
            self.statistics.start()
            self.callbacks.start()

    def _changed(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.run_coroutine_threadsafe(self.door.renew(), loop)
        self.callbacks.begin_anew()

    def _collect(self) -> dict[str, Any]:
        """What `Statistics.collect` tells of running VMs."""
        now = time.time()
        traffic = {name: int(now * 1000) for name in ("disk_read", "disk_written", "net_received", "net_sent")}
        figures = {"state": "running", "cpu_time_ns": int(now * 1e8), "vcpus": 2, "memory": 2 << 30, **traffic}
        host = {"cpus": 32, "cpu": 0.25, "load": [4.0, 4.1, 4.2], "memory": 256 << 30, "memory_available": 128 << 30}
        file_systems = {"main": {"path": "/srv/main", "size": 4 << 40, "free": int(now) << 10}}
        return {"at": now, "vms": {one["id"]: figures for one in self.vms}, "host": {**host, "file_systems": file_systems}}


async def _no_console(request: web.Request) -> web.StreamResponse:
    raise NotFound("a simulated server has no consoles", object="console")


async def _serve(directory: Path, servers: int, vms: int) -> None:
    logging.disable(logging.WARNING)
    agents = []
    for number in range(servers):
        agents.append(SimulatedAgent(directory / f"server{number}", number, vms))
        await agents[-1].start()
        sys.stdout.write(json.dumps({"port": agents[-1].door.port, "invitation": agents[-1].ownership.invitation()}) + "\n")
        sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Fleet:
    """Simulated servers in a process of their own; `servers` are their ports and invitations."""

    def __init__(self, directory: Path, servers: int, vms: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.support.fleet", str(directory), str(servers), str(vms)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.servers: list[dict[str, Any]] = [json.loads(self.process.stdout.readline()) for dummy in range(servers)]

    def close(self) -> None:
        """End them."""
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    import os

    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
    os._exit(0)
