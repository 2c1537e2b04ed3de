"""The serial console of a VM: bytes relayed both ways between a WebSocket of the caller and one of the agent."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import simple_websocket
from domus_core.errors import DomusError

if TYPE_CHECKING:
    from .api.call import Call

PING_SECONDS = 25
LARGEST_MESSAGE = 1 << 16
SLOWEST_READER = 20
LOOK_SECONDS = 1.0
INTERNAL_ERROR = 1011
# Free for programs: RFC 6455 7.4.2.
TAKEN_OVER = 4001
LONGEST_REASON = 120
SERVER_OPTIONS = {"ping_interval": PING_SECONDS, "max_message_size": LARGEST_MESSAGE}


def relay_console(call: Call, vm: Any, force: bool, caller: Any) -> None:
    """Connect the caller with the serial console of a VM until one of them ends; `force` takes it from whoever has it.

    Raises Overloaded, and what the agent raises.
    """
    give_back = call.parts.consoles.take()
    try:
        agent = _taken(call, vm) if force else call.parts.agents.console(vm["server_id"], vm["id"], force=False)
        side = Relayed(caller)
        with call.parts.relays.held(vm["id"], side):
            _relay(side, agent, call.parts.ending)
    finally:
        give_back()


def _taken(call: Call, vm: Any) -> Any:
    """The console, taken from whoever has it; they hear why it ends, so they are told before it does."""
    call.parts.relays.tell_taken(vm["id"], call.principal.name)
    try:
        return call.parts.agents.console(vm["server_id"], vm["id"], force=True)
    except DomusError:
        call.parts.relays.tell_taken(vm["id"], "")
        raise


class Relayed:
    """The caller's side of a console; once it is taken over, its end says by whom."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.sock = getattr(socket, "sock", None)
        self.taken_by = ""

    def receive(self, timeout: float | None = None) -> Any:
        """The next message, None when the time is over."""
        return self._socket.receive(timeout=timeout)

    def send(self, data: bytes) -> None:
        """Send a message."""
        self._socket.send(data)

    def close(self, reason: int | None, message: str | None) -> None:
        """Close it, and say why."""
        taken = f"{self.taken_by} took this console over"[:LONGEST_REASON] if self.taken_by else None
        self._socket.close(reason or (TAKEN_OVER if taken else None), taken or message)


class Relays:
    """Who has which console through this manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sides: dict[str, list[Relayed]] = {}

    def tell_taken(self, vm_id: str, by: str) -> None:
        """Note who takes the console of the VM from whoever has it; "": nobody does."""
        with self._lock:
            for side in self._sides.get(vm_id, ()):
                side.taken_by = by

    @contextlib.contextmanager
    def held(self, vm_id: str, side: Relayed) -> Iterator[None]:
        """It has the console meanwhile."""
        with self._lock:
            self._sides.setdefault(vm_id, []).append(side)
        try:
            yield
        finally:
            with self._lock:
                self._sides[vm_id].remove(side)
                if not self._sides[vm_id]:
                    del self._sides[vm_id]


def _relay(caller: Any, agent: Any, ending: threading.Event) -> None:
    """Pass bytes on in both directions; the end of one side is the end of both, and so is that of the manager."""
    for side in (caller, agent):
        _bound_sending(side)
    ended = threading.Event()
    back = threading.Thread(target=_pass_on, args=(agent, caller, ended, ending), name="console", daemon=True)
    back.start()
    _pass_on(caller, agent, ended, ending)
    back.join()


def _pass_on(source: Any, target: Any, ended: threading.Event, ending: threading.Event) -> None:
    reason, message = None, ""
    try:
        # The other direction may have ended: closing a WebSocket does not wake whoever reads from it.
        while not ended.is_set() and not ending.is_set():
            data = source.receive(timeout=LOOK_SECONDS)
            if data is not None:
                target.send(data if isinstance(data, bytes) else str(data).encode())
    except (simple_websocket.ConnectionClosed, OSError) as closed:
        reason, message = getattr(closed, "reason", None), str(getattr(closed, "message", None) or "")
    ended.set()
    close(target, reason, message)


def _bound_sending(side: Any) -> None:
    """Whoever does not read for a while is cut off: what waits for it is kept in memory."""
    found: Any = getattr(side, "sock", None)
    if isinstance(found, socket.socket):
        with contextlib.suppress(OSError):  # it has gone already: the first message that is passed on finds out
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SLOWEST_READER, 0))


def close(side: Any, reason: int | None, message: str) -> None:
    """Close a WebSocket, if it is still open, and say why."""
    # A peer may have gone without a code, or with one that must not be sent (RFC 6455 7.4.1).
    sendable = reason if reason is not None and (1000 <= reason <= 1003 or 1007 <= reason <= 1014 or reason >= 3000) else None
    with contextlib.suppress(simple_websocket.ConnectionClosed, OSError):
        side.close(sendable, message.encode()[:LONGEST_REASON].decode(errors="ignore") or None)
