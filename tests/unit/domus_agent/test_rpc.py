"""The door, open inside this process: time-outs and what happens on a change of ownership; hostile input is in tests/integration/test_agent_doors.py."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Callable

import pytest
from aiohttp import web
from domus_agent import rpc
from domus_agent.ownership import Caller, Ownership
from domus_agent.rpc import Door
from domus_agent.store import AgentStore
from domus_core.clients.wire import decode_answer, encode_request
from domus_core.errors import Conflict, DomusError


class FakeMethods:
    """Answers `echo`, fails as told for any other method."""

    def call(self, method: str, parameters: Mapping[str, Any], caller: Caller) -> Any:
        """The parameters and who asks."""
        if method == "conflict":
            raise Conflict("no", object="vm a", remedy="Wait")
        if method == "surprise":
            raise ValueError("secret detail")
        return {"parameters": dict(parameters), "role": caller.role}


async def no_console(request: web.Request) -> web.StreamResponse:
    """Stands where consoles are opened."""
    return web.Response(text="console\n")


def with_door(directory: Path, test: Callable[[Door, Ownership], Awaitable[None]]) -> None:
    """Run the test against an open door of a free server."""

    async def run() -> None:
        store = AgentStore(str(directory))
        ownership = Ownership(str(directory), str(directory / "state"), store)
        door = Door(ownership, FakeMethods(), no_console, "127.0.0.1", 0)  # type: ignore[arg-type]
        await door.open()
        try:
            await test(door, ownership)
        finally:
            await door.close()
            store.close()

    asyncio.run(run())


async def connect(door: Door) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection("127.0.0.1", door.port, ssl=context)


async def post(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], body: bytes, path: str = "/RPC2") -> tuple[int, bytes]:
    reader, writer = streams
    writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split(":")[1]) for line in head.lower().splitlines() if line.startswith("content-length"))
    return int(head.split()[1]), await reader.readexactly(length)


def test_a_call_is_answered_and_the_connection_kept(tmp_path: Path) -> None:
    async def test(door: Door, ownership: Ownership) -> None:
        streams = await connect(door)
        for number in range(3):
            status, answer = await post(streams, encode_request("echo", {"big": 1 << 62, "none": None, "text": "a\r\n\x00"}))
            assert status == 200, number
            assert decode_answer(answer) == {"parameters": {"big": 1 << 62, "none": None, "text": "a\r\n\x00"}, "role": "free"}
        streams[1].close()

    with_door(tmp_path, test)


@pytest.mark.parametrize(("method", "code"), [("conflict", "conflict"), ("surprise", "driver_error")])
def test_errors_arrive_as_errors_and_surprises_without_particulars(tmp_path: Path, method: str, code: str) -> None:
    async def test(door: Door, ownership: Ownership) -> None:
        streams = await connect(door)
        dummy, answer = await post(streams, encode_request(method, {}))
        with pytest.raises(DomusError) as caught:
            decode_answer(answer)
        assert caught.value.code == code
        assert b"secret detail" not in answer
        streams[1].close()

    with_door(tmp_path, test)


def test_a_silent_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(rpc, "SWEEP_SECONDS", 0.05)

    async def test(door: Door, ownership: Ownership) -> None:
        reader, writer = await connect(door)
        writer.write(b"POST /RPC2 HTTP/1.1\r\nHost:")
        assert await asyncio.wait_for(ends(reader), 30)
        writer.close()

    with_door(tmp_path, test)


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "BODY_SECONDS", 0.05)

    async def test(door: Door, ownership: Ownership) -> None:
        reader, writer = await connect(door)
        writer.write(b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome")
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 30)
        writer.close()

    with_door(tmp_path, test)


def test_a_handshake_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "HANDSHAKE_SECONDS", 0.05)

    async def test(door: Door, ownership: Ownership) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        assert await asyncio.wait_for(ends(reader), 30)
        writer.close()

    with_door(tmp_path, test)


def test_a_change_of_ownership_ends_what_was_connected_before(tmp_path: Path) -> None:
    async def test(door: Door, ownership: Ownership) -> None:
        idle, asking = await connect(door), await connect(door)
        assert (await post(asking, encode_request("echo", {})))[0] == 200
        await asyncio.get_running_loop().run_in_executor(None, ownership.release)
        asking[1].write(b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert await asyncio.wait_for(ends(asking[0]), 30)
        await door.renew()
        assert await asyncio.wait_for(ends(idle[0]), 30)
        again = await connect(door)
        assert (await post(again, encode_request("echo", {})))[0] == 200
        for one in (idle, asking, again):
            one[1].close()

    with_door(tmp_path, test)


def test_consoles_are_not_for_strangers(tmp_path: Path) -> None:
    async def test(door: Door, ownership: Ownership) -> None:
        reader, writer = await connect(door)
        writer.write(b"GET /console/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 403 " in await asyncio.wait_for(reader.readline(), 30)
        writer.close()

    with_door(tmp_path, test)


async def ends(reader: asyncio.StreamReader) -> bool:
    """Wait for the end of the connection, whatever comes before."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True
