"""Serial consoles of VMs over WebSocket: bytes both ways, until either side ends it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import uuid
from typing import Any, Optional

from aiohttp import WSMsgType, web
from domus_core.errors import Busy, DomusError, InvalidSpec
from domus_core.libvirt_driver.bounded import bounded
from domus_core.libvirt_driver.connection import connect, libvirt, told

MOST = 32
CHUNK = 4096
LARGEST_MESSAGE = 1 << 16
# What a guest that does not read its serial port may leave waiting.
MOST_WAITING = 1024
HEARTBEAT = 30.0
LIMIT = 10.0
STATUS = {"not_found": 404, "invalid_spec": 400, "conflict": 409, "busy": 409, "unsupported": 422, "unreachable": 503}


class Consoles:
    """The consoles that are open on this server."""

    def __init__(self, uri: str, most: int = MOST) -> None:
        self._uri = uri
        self._most = most
        self._open: set[_Console] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /console/{vm}[?force=1]: binary frames are the serial console's bytes; `force` takes it from whoever has it.

        What can not be opened is answered as JSON {protocol, error} with a matching status.
        """
        console = _Console(self._uri, asyncio.get_running_loop())
        try:
            await self._begin(console, request)
        except DomusError as error:
            return web.json_response({"protocol": 1, "error": error.as_dict()}, status=STATUS.get(error.code, 500))
        try:
            return await console.serve(request)
        finally:
            self._open.discard(console)
            await asyncio.get_running_loop().run_in_executor(None, console.close)

    async def close(self) -> None:
        """End all of them."""
        for console in list(self._open):
            await console.end()

    async def _begin(self, console: _Console, request: web.Request) -> None:
        if len(self._open) >= self._most:
            raise Busy(f"{self._most} consoles are open on this server", remedy="Close one of them")
        try:
            vm = str(uuid.UUID(request.match_info["vm"]))
        except ValueError:
            raise InvalidSpec("is not a UUID", field="vm", value=request.match_info["vm"]) from None
        self._open.add(console)
        try:
            await asyncio.get_running_loop().run_in_executor(None, console.open, vm, request.query.get("force") == "1")
        except BaseException:
            self._open.discard(console)
            raise


class _Console:
    """One console: a libvirt connection and stream of its own, a thread for each direction."""

    def __init__(self, uri: str, loop: asyncio.AbstractEventLoop) -> None:
        self._uri = uri
        self._loop = loop
        self._socket: Optional[web.WebSocketResponse] = None
        self._typed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._connection: Any = None
        self._stream: Any = None

    def open(self, vm: str, force: bool) -> None:
        """Open the console. Raises NotFound, Busy (somebody has it), Conflict (does not run), Unreachable."""
        try:
            with told("opening the console"):
                bounded(lambda: self._open_stream(vm, force), LIMIT, "opening the console")
        except BaseException as error:
            self.close()
            if isinstance(error, DomusError) and "Active console session" in error.message:
                raise Busy("somebody has this console open", object=f"vm {vm}", remedy="Ask them to close it, or take it: force") from None
            raise

    def _open_stream(self, vm: str, force: bool) -> None:
        self._connection = connect(self._uri)
        domain = self._connection.lookupByUUIDString(vm)
        stream = self._connection.newStream(0)
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0)
        self._stream = stream

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Carry bytes both ways until the client, the VM or somebody who takes the console ends it."""
        self._socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=LARGEST_MESSAGE, autoclose=False)
        await self._socket.prepare(request)
        for name, work in (("console-out", self._carry_out), ("console-in", self._carry_in)):
            threading.Thread(target=work, name=name, daemon=True).start()
        async for message in self._socket:
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT) or self._typed.qsize() >= MOST_WAITING:
                break
            self._typed.put(message.data if message.type == WSMsgType.BINARY else message.data.encode())
        # Before the client hears that it is closed: the next one may come at once.
        await self._loop.run_in_executor(None, self.close)
        await self._socket.close()
        return self._socket

    async def end(self) -> None:
        """Close the client's side; the rest follows."""
        if self._socket is not None:
            await self._socket.close()

    def close(self) -> None:
        """Let go of the stream and the connection; whatever the threads wait for ends."""
        self._typed.put(b"")
        stream, self._stream = self._stream, None
        connection, self._connection = self._connection, None
        with contextlib.suppress(DomusError, libvirt.libvirtError):
            if stream is not None:
                bounded(stream.abort, LIMIT, "closing the console")
        with contextlib.suppress(libvirt.libvirtError):
            if connection is not None:
                connection.close()

    def _carry_out(self) -> None:
        """Guest to client; waits for a slow client, so that the guest waits in turn."""
        stream, socket = self._stream, self._socket
        with contextlib.suppress(libvirt.libvirtError, OSError, RuntimeError):
            while socket is not None and (data := stream.recv(CHUNK)):
                asyncio.run_coroutine_threadsafe(socket.send_bytes(data), self._loop).result()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            asyncio.run_coroutine_threadsafe(self.end(), self._loop)

    def _carry_in(self) -> None:
        """Client to guest."""
        stream = self._stream
        with contextlib.suppress(libvirt.libvirtError):
            while data := self._typed.get():
                while data:
                    data = data[stream.send(data) :]
