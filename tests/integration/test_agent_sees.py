"""The agent's eyes on real QEMU: what happens behind its back, a libvirtd that dies, the serial console, statistics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer
from domus_agent.config import AgentConfig
from domus_agent.console import Consoles
from domus_agent.libvirt_events import run_event_loop
from domus_agent.observer import Observer
from domus_agent.statistics import Statistics
from domus_agent.store import AgentStore
from domus_core.libvirt_driver.connection import connect

from tests.support.private_libvirtd import PrivateLibvirtd

PATIENCE = 60
SERVER = "5c1b5e8e-0000-4000-8000-000000000002"
# A boot sector: read a byte from the serial port, write it back, for ever.
ECHO = bytes.fromhex("bafd03eca80174f8baf803eceeebf1").ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20)
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><os><type machine='pc'>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/><readonly/></disk>
<serial type='pty'/><console type='pty'/></devices></domain>"""


def wait_for(question: Callable[[], Any]) -> Any:
    """The answer, once it is one."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return answer


class Seeing:
    """An observer of the private libvirtd, and the VMs that are made for it."""

    def __init__(self, libvirtd: PrivateLibvirtd, directory: Path) -> None:
        self.libvirtd = libvirtd
        self.config = AgentConfig(directory=str(directory / "agent"), state_directory=str(directory / "state"), uri=libvirtd.uri)
        self.disk = libvirtd.directory / "echo.raw"
        self.disk.write_bytes(ECHO)
        libvirtd.run("mkdir", "-p", "/run/lock")  # where libvirt locks the terminals of consoles
        run_event_loop()
        self.store = AgentStore(self.config.directory)
        self.observer = Observer(self.config, self.store, SERVER, lambda kind, key: False)
        self.made: list[str] = []

    def vm(self, name: str) -> str:
        """A running VM that echoes what its serial port hears; its UUID."""
        with contextlib.closing(connect(self.libvirtd.uri)) as connection:
            domain = connection.defineXML(DOMAIN.format(name=name, disk=self.disk))
            self.made.append(name)
            domain.create()
            return str(domain.UUIDString())

    def state(self, name: str) -> Any:
        """A VM's state as last told."""
        return next((one["state"] for one in self.store.objects("vm") if one["key"] == name), None)

    def events(self) -> list[tuple[str, str, Any]]:
        """Kind, object and what happened meanwhile, of all events."""
        told = [record for record in self.store.unsent(1000) if record["type"] == "event"]
        return [(record["kind"], (record["object"] or {}).get("key", ""), record["data"].get("meanwhile", False)) for record in told]

    def close(self) -> None:
        """End it, with the VMs."""
        self.observer.stop()
        self.store.close()
        if not self.libvirtd.is_running():
            self.libvirtd.start()
        with contextlib.closing(connect(self.libvirtd.uri)) as connection:
            for domain in connection.listAllDomains(0):
                if domain.name() in self.made:
                    if domain.isActive():
                        domain.destroy()
                    domain.undefine()


@pytest.fixture
def seeing(private_libvirtd: PrivateLibvirtd, tmp_path: Path) -> Iterator[Seeing]:
    made = Seeing(private_libvirtd, tmp_path)
    yield made
    made.close()


def test_what_virsh_does_behind_our_back_shows(seeing: Seeing) -> None:
    seeing.vm("sees-a")
    seeing.observer.start()
    wait_for(lambda: seeing.state("sees-a") == "running")
    assert seeing.events() == []
    seeing.libvirtd.virsh("destroy", "sees-a")
    wait_for(lambda: seeing.state("sees-a") == "stopped")
    seeing.libvirtd.virsh("start", "sees-a", "--paused")
    wait_for(lambda: seeing.state("sees-a") == "paused")
    seeing.libvirtd.virsh("undefine", "sees-a")  # it runs on, and is gone once it stops
    seeing.libvirtd.virsh("destroy", "sees-a")
    wait_for(lambda: seeing.state("sees-a") is None)
    kinds = [kind for kind, dummy, dummy in seeing.events()]
    assert kinds == ["vm.stopped", "vm.started", "vm.suspended", "vm.undefined", "vm.stopped"]


def test_a_killed_qemu_is_a_crash(seeing: Seeing) -> None:
    seeing.vm("sees-b")
    seeing.observer.start()
    wait_for(lambda: seeing.state("sees-b") == "running")
    os.kill(seeing.libvirtd.guest("sees-b"), signal.SIGKILL)
    wait_for(lambda: seeing.state("sees-b") == "stopped")
    assert seeing.events() == [("vm.crashed", "sees-b", False)]


def test_a_libvirtd_that_was_killed_is_found_again(seeing: Seeing) -> None:
    for name in ("sees-c", "sees-d"):
        seeing.vm(name)
    seeing.observer.start()
    wait_for(lambda: seeing.state("sees-c") == seeing.state("sees-d") == "running")
    guest = seeing.libvirtd.guest("sees-c")
    seeing.libvirtd.kill()
    wait_for(lambda: ("libvirt.lost", "", False) in seeing.events())
    assert seeing.observer.libvirt == "down"
    os.kill(guest, signal.SIGKILL)
    seeing.libvirtd.start()
    wait_for(lambda: seeing.state("sees-c") == "stopped")
    wait_for(lambda: len(seeing.events()) == 3)
    (back, ended) = seeing.events()[1:]
    assert back == ("libvirt.back", "", False) and seeing.observer.libvirt == "up"
    assert ended[0] in ("vm.stopped", "vm.crashed") and ended[1:] == ("sees-c", True)
    assert seeing.state("sees-d") == "running"
    seeing.libvirtd.virsh("destroy", "sees-d")  # events come again
    wait_for(lambda: seeing.state("sees-d") == "stopped")
    assert seeing.events()[3:] == [("vm.stopped", "sees-d", False)]


def test_statistics_of_a_running_vm(seeing: Seeing) -> None:
    uuid = seeing.vm("sees-e")
    statistics = Statistics(seeing.libvirtd.uri, seeing.config.state_directory)
    figures = wait_for(lambda: (statistics.collect()["vms"] or {}).get(uuid))
    assert figures["state"] == "running" and figures["vcpus"] == 1 and figures["memory"] == 16 << 20
    assert figures["cpu_time_ns"] > 0 and figures["disk_read"] is not None and figures["net_sent"] == 0


def test_a_qemu_that_hangs_holds_up_no_statistics(seeing: Seeing) -> None:
    stuck, other = seeing.vm("sees-h"), seeing.vm("sees-i")
    guest = seeing.libvirtd.guest("sees-h")
    os.kill(guest, signal.SIGSTOP)
    asking = subprocess.Popen(["virsh", "--connect", seeing.libvirtd.uri, "qemu-monitor-command", "sees-h", "--hmp", "info version"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # by now the question holds the VM's job
        vms = Statistics(seeing.libvirtd.uri, seeing.config.state_directory).collect()["vms"]
        assert asking.poll() is None, "it does not hang"
        assert vms[other]["cpu_time_ns"] > 0 and vms[stuck]["state"] == "running"
    finally:
        os.kill(guest, signal.SIGCONT)
        asking.wait(PATIENCE)


@contextlib.asynccontextmanager
async def door(uri: str) -> AsyncIterator[tuple[TestClient, Consoles]]:
    """The consoles of a libvirt behind an HTTP server."""
    consoles = Consoles(uri)
    application = web.Application()
    application.router.add_get("/console/{vm}", consoles.handle)
    async with TestClient(TestServer(application)) as client:
        yield client, consoles


async def type_until_echoed(socket: ClientWebSocketResponse, text: bytes) -> bytes:
    """Send the text until it comes back: the firmware of a VM that has just started hears nothing."""
    heard = b""
    for dummy in range(PATIENCE * 2):
        await socket.send_bytes(text)
        with contextlib.suppress(asyncio.TimeoutError):
            while text not in heard:
                heard += (await socket.receive(timeout=0.5)).data
            return heard
    raise AssertionError(f"no echo, only {heard!r}")


async def ends(socket: ClientWebSocketResponse) -> None:
    """Wait until the other side closes."""
    while (await socket.receive(timeout=PATIENCE)).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
        pass


def test_a_console_carries_bytes_both_ways_to_one_at_a_time(seeing: Seeing) -> None:
    uuid = seeing.vm("sees-f")

    async def use() -> None:
        async with door(seeing.libvirtd.uri) as (client, consoles):
            first = await client.ws_connect(f"/console/{uuid}")
            assert bytes(range(0x80, 0xA0)) in await type_until_echoed(first, bytes(range(0x80, 0xA0)))
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect(f"/console/{uuid}")
            assert refused.value.status == 409
            answer = await client.get(f"/console/{uuid}")
            assert (await answer.json())["error"]["code"] == "busy"
            second = await client.ws_connect(f"/console/{uuid}?force=1")
            await ends(first)
            await type_until_echoed(second, b"mine now")
            await second.close()
            third = await client.ws_connect(f"/console/{uuid}")  # free again
            await asyncio.get_running_loop().run_in_executor(None, seeing.libvirtd.virsh, "destroy", "sees-f")
            await ends(third)
            assert (await client.get(f"/console/{uuid}")).status == 409  # it does not run

    asyncio.run(use())


def test_consoles_end_with_the_agent(seeing: Seeing) -> None:
    uuid = seeing.vm("sees-g")

    async def use() -> None:
        async with door(seeing.libvirtd.uri) as (client, consoles):
            socket = await client.ws_connect(f"/console/{uuid}")
            ending = asyncio.ensure_future(consoles.close())
            await ends(socket)
            await ending
            while consoles._open:
                await asyncio.sleep(0.01)

    asyncio.run(use())
