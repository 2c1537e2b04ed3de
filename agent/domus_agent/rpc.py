"""The door: XML-RPC and the console over TLS on one port. Nothing that a stranger sends, or does not send, stops anybody else."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Optional

from aiohttp import web
from domus_core.clients.wire import MOST_BYTES, PATH, decode_request, encode_error, encode_result
from domus_core.errors import DomusError, DriverError, Forbidden, InvalidSpec, TooLarge

from .methods import Methods
from .ownership import FREE, MANAGER, Caller, Ownership

HANDSHAKE_SECONDS = 10.0
BODY_SECONDS = 60.0
IDLE_SECONDS = 75.0
CLOSE_SECONDS = 2.0
SWEEP_SECONDS = 5.0
MOST_BYTES_OF_STRANGERS = 1 << 20
SMALL_BYTES = 1 << 20
LARGE_BODIES = 2
THREADS = 48
WANTED_FILES = 65536
# One string, which holds no markup: more is an attempt to exhaust the parser.
MOST_TAGS = 64

_log = logging.getLogger(__name__)
Console = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """Listens on an address and a port (0: any free one; `port` says which), and calls methods in threads."""

    def __init__(self, ownership: Ownership, methods: Methods, console: Console, address: str, port: int) -> None:
        self.address, self.port = address, port
        self._ownership, self._methods, self._console = ownership, methods, console
        self._threads = ThreadPoolExecutor(THREADS, "rpc")
        self._large = asyncio.Semaphore(LARGE_BODIES)
        self._socket: Optional[socket.socket] = None
        self._server: Optional[asyncio.AbstractServer] = None
        self._sweeper: Optional[asyncio.Task[None]] = None
        self._idle_since: dict[Any, float] = {}
        self._working: dict[Any, int] = {}
        application = web.Application(middlewares=[self._guard])
        application.router.add_post(PATH, self._answer)
        application.router.add_get("/console/{vm}", self._open_console)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=IDLE_SECONDS, handle_signals=False)

    async def open(self) -> None:
        """Begin to listen. Raises OSError when the port is taken."""
        _raise_file_limit()
        await self._runner.setup()
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._socket = socket.create_server((self.address, self.port), family=family, backlog=512)
        self.port = self._socket.getsockname()[1]
        await self._listen()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def renew(self) -> None:
        """Listen with the TLS of the new ownership; what is connected with the old one has to connect again."""
        if self._server is not None:
            self._server.close()
        await self._listen()
        for connection in self._connections():
            if connection not in self._working and connection.transport is not None:
                connection.transport.close()

    async def close(self) -> None:
        """Take no more calls; those that are being answered get 2 seconds."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        if self._runner.server is not None:
            await self._runner.server.shutdown(CLOSE_SECONDS)
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
        self._threads.shutdown(wait=False)

    async def _listen(self) -> None:
        if self._socket is None or self._runner.server is None:
            raise RuntimeError("the door is not open")
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server, sock=self._socket.dup(), ssl=self._ownership.context, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )

    def _connections(self) -> list[Any]:
        return list(self._runner.server.connections) if self._runner.server is not None else []

    async def _sweep(self) -> None:
        """Close connections on which nothing was asked for long: aiohttp waits for a first request for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self._look()
            now = loop.time()
            self._idle_since = {one: self._idle_since.get(one, now) for one in self._connections() if one not in self._working}
            for connection, since in list(self._idle_since.items()):
                if now - since > IDLE_SECONDS and connection.transport is not None:
                    connection.transport.abort()

    async def _look(self) -> None:
        """Whom to let in may have changed: root opens the door to another manager by a file."""
        try:
            if await asyncio.get_running_loop().run_in_executor(None, self._ownership.look):
                await self.renew()
        except Exception as error:  # a full disk, say: the door stays as it is
            _log.error("whether another manager may take this server over can not be seen: %s: %s", type(error).__name__, error)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """Whatever goes wrong is answered in one line, and the connection counts as busy meanwhile."""
        connection = request.protocol
        self._working[connection] = self._working.get(connection, 0) + 1
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n", headers={"Connection": "close"})
        except DomusError as error:
            return web.Response(status=_status(error), text=f"{error}\n", headers={"Connection": "close"})
        except (asyncio.TimeoutError, ConnectionError):
            return web.Response(status=408, text="Request Timeout\n", headers={"Connection": "close"})
        except Exception as error:
            _log.error("a request failed: unexpected %s: %s", type(error).__name__, error)
            return web.Response(status=500, text="Internal Server Error\n", headers={"Connection": "close"})
        finally:
            self._working.pop(connection)
            self._idle_since.pop(connection, None)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        most = MOST_BYTES_OF_STRANGERS if caller.role == FREE else MOST_BYTES
        if (request.content_length or 0) > most:
            raise _too_large(most)
        body = bytearray()
        if await self._read(request, body, min(most, SMALL_BYTES)):
            return await self._called(body, caller)
        async with self._large:
            if not await self._read(request, body, most):
                raise _too_large(most)
            return await self._called(body, caller)

    async def _read(self, request: web.Request, body: bytearray, most: int) -> bool:
        """Read on until the end (True), or until there is more than `most`."""
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        while True:
            left = deadline - asyncio.get_running_loop().time()
            part = await asyncio.wait_for(request.content.readany(), max(left, 0.0))
            body += part
            if len(body) > most:
                return False
            if not part and request.content.at_eof():
                return True

    async def _called(self, body: bytearray, caller: Caller) -> web.Response:
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._call, bytes(body), caller)
        body.clear()
        return web.Response(body=await work, content_type="text/xml")

    def _call(self, body: bytes, caller: Caller) -> bytes:
        """In a thread: the answer to one call; every error becomes an answer, too."""
        try:
            if body.count(b"<") > MOST_TAGS:
                raise InvalidSpec("does not hold one string", object="message", remedy="Send one string, which holds JSON")
            method, parameters = decode_request(body)
            return encode_result(self._methods.call(method, parameters, caller))
        except DomusError as error:
            return encode_error(error)
        except Exception as error:  # a surprise ends this call, not the agent
            _log.error("a call failed: unexpected %s: %s", type(error).__name__, error)
            return encode_error(DriverError(f"the agent failed: unexpected {type(error).__name__}", remedy="Please report this; journalctl -u domus-agent"))

    async def _open_console(self, request: web.Request) -> web.StreamResponse:
        if self._caller(request).role != MANAGER:
            raise Forbidden("may be opened by the manager only", object="console")
        return await self._console(request)

    def _caller(self, request: web.Request) -> Caller:
        """Who asks. Raises Unauthorized, Forbidden, and ConnectionAbortedError: who was connected before the last take-over or release has to connect again."""
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        if not isinstance(tls, ssl.SSLObject) or tls.context is not self._ownership.context:
            if transport is not None:
                transport.abort()
            raise ConnectionAbortedError
        return self._ownership.caller(tls.getpeercert())


def _status(error: DomusError) -> int:
    return {"unauthorized": 401, "forbidden": 403, "not_found": 404, "too_large": 413, "invalid_spec": 400, "conflict": 409, "busy": 409}.get(error.code, 500)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"is more than {most >> 20} MiB", object="request", remedy="Split the document")


def _raise_file_limit() -> None:
    """Connections that stay silent hold a file each until their time-out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
