"""libvirt's events: one thread turns libvirt's own event loop for ever, another keeps the connection that they come from."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import Any, Callable, Optional

from domus_core.errors import DomusError, Unsupported
from domus_core.libvirt_driver.connection import connect, libvirt

KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
FIRST_RETRIES, SOON, LATER = 10, 1.0, 10.0

_STARTED = ("booted", "migrated", "restored", "snapshot", "wakeup")
_SUSPENDED = ("paused", "migrated", "io_error", "watchdog", "restored", "snapshot", "api_error", "postcopy", "postcopy_failed")
_RESUMED = ("unpaused", "migrated", "snapshot", "postcopy", "postcopy_failed")
_STOPPED = ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "snapshot")
# https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainEventType; 6 (is shutting down) is always followed by 5
_LIFECYCLE: dict[int, tuple[str, str, tuple[str, ...]]] = {
    0: ("vm.defined", "", ("added", "updated", "renamed", "snapshot")),
    1: ("vm.undefined", "gone", ("removed", "renamed")),
    2: ("vm.started", "running", _STARTED),
    3: ("vm.suspended", "paused", _SUSPENDED),
    4: ("vm.resumed", "running", _RESUMED),
    5: ("vm.stopped", "stopped", _STOPPED),
    7: ("vm.suspended", "running", ("guest_memory", "guest_disk")),
    8: ("vm.crashed", "stopped", ("panicked", "crashloaded")),
}
_TROUBLE = {"io_error": "error", "watchdog": "warning", "api_error": "error", "postcopy_failed": "error"}
_NETWORK = ("network.defined", "network.undefined", "network.started", "network.stopped")
_WATCHDOG = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject_nmi")
_IO_ERROR = ("none", "pause", "report")
_METADATA = ("description", "title", "element")
_AGENT = {1: "connected", 2: "disconnected"}


@dataclasses.dataclass(frozen=True)
class Seen:
    """One thing that libvirt told: what (`kind` as the manager's events name it), of which object, and the particulars.

    `state` is that of a VM from now on: running, paused, stopped, gone, or empty when it is what it was.
    """

    kind: str
    state: str = ""
    object_kind: str = ""
    name: str = ""
    uuid: str = ""
    severity: str = "info"
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


LOST, BACK = "libvirt.lost", "libvirt.back"
# Not told to anybody: something of the object is to be looked at soon.
RESIZED = "resized"

_loop_lock = threading.Lock()
_loop: Optional[threading.Thread] = None


def run_event_loop() -> None:
    """Start turning libvirt's event loop, once a process and before its first connection: it can neither be stopped nor replaced.

    Raises Unsupported without python3-libvirt.
    """
    global _loop
    if libvirt is None:
        raise Unsupported("the libvirt bindings for Python are not installed here", remedy="Install them: apt-get install python3-libvirt")
    with _loop_lock:
        if _loop is None:
            libvirt.virEventRegisterDefaultImpl()
            _loop = threading.Thread(target=_turn, name="libvirt-events", daemon=True)
            _loop.start()


def _turn() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):  # one bad turn must not end keepalive and events for good
            libvirt.virEventRunDefaultImpl()


class LibvirtEvents:
    """A connection that is opened again whenever it breaks; `tell` hears of every event, of LOST and BACK, and must only enqueue."""

    def __init__(self, uri: str, tell: Callable[[Seen], None]) -> None:
        self.uri = uri
        self._tell = tell
        self._broken = threading.Event()
        self._end = threading.Event()
        self._connection: Any = None
        self._registered: list[tuple[Callable[[int], Any], int]] = []
        self._thread = threading.Thread(target=self._watch, name="libvirt-connection", daemon=True)

    @property
    def connection(self) -> Any:
        """The connection now, or None while libvirt is away."""
        return self._connection

    def start(self) -> None:
        """Begin to listen; the first BACK comes when libvirt answers. Raises Unsupported without python3-libvirt."""
        run_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Let go of the connection."""
        self._end.set()
        self._broken.set()
        if self._thread.is_alive():
            self._thread.join(LATER)

    def _watch(self) -> None:
        failures = 0
        while True:
            self._broken.clear()
            if self._end.is_set():
                return
            try:
                self._connection = self._open()
            except (DomusError, libvirt.libvirtError) as error:
                failures += 1
                if failures == 1:
                    self._tell(Seen(LOST, severity="error", data={"reason": str(error)}))
                self._end.wait(SOON if failures <= FIRST_RETRIES else LATER)
                continue
            self._tell(Seen(BACK))
            self._broken.wait()
            connection, self._connection = self._connection, None
            self._let_go(connection)
            failures = 1  # that it is lost is told once, below
            if not self._end.is_set():
                self._tell(Seen(LOST, severity="error", data={"reason": "the connection broke"}))

    def _open(self) -> Any:
        connection = connect(self.uri)
        try:
            self._register(connection)
        except libvirt.libvirtError:
            self._let_go(connection)
            raise
        return connection

    def _register(self, connection: Any) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # the test driver needs no keepalive and has none
            connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        connection.registerCloseCallback(lambda *dummy: self._broken.set(), None)
        self._registered = []
        for name, translate in _DOMAIN_EVENTS.items():
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}", None)
            if number is not None:
                callback = connection.domainEventRegisterAny(None, number, self._domain_event, translate)
                self._registered.append((connection.domainEventDeregisterAny, callback))
        callback = connection.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, self._network_event, None)
        self._registered.append((connection.networkEventDeregisterAny, callback))

    def _let_go(self, connection: Any) -> None:
        """Close it, after its callbacks: one that stays registered keeps its connection alive, even a broken one."""
        registered, self._registered = self._registered, []
        for deregister, callback in registered:
            with contextlib.suppress(libvirt.libvirtError):
                deregister(callback)
        for end in (connection.unregisterCloseCallback, connection.close):
            with contextlib.suppress(libvirt.libvirtError):
                end()

    def _domain_event(self, dummy: Any, domain: Any, *details: Any) -> None:
        *told, translate = details
        seen = translate(*told)
        if seen is not None:
            self._tell(dataclasses.replace(seen, object_kind="vm", name=domain.name(), uuid=domain.UUIDString()))

    def _network_event(self, dummy: Any, network: Any, event: int, *rest: Any) -> None:
        kind = _word(_NETWORK, event, "network.changed")
        self._tell(Seen(kind, object_kind="network", name=network.name(), uuid=network.UUIDString()))


def _word(words: tuple[str, ...], number: int, otherwise: str = "unknown") -> str:
    return words[number] if 0 <= number < len(words) else otherwise


def _lifecycle(event: int, detail: int) -> Optional[Seen]:
    if event not in _LIFECYCLE:
        return None
    kind, state, reasons = _LIFECYCLE[event]
    reason = _word(reasons, detail)
    if (event, reason) in ((5, "crashed"), (5, "failed")):
        kind = "vm.crashed"
    if (event, reason) == (0, "updated"):
        kind = "vm.changed"
    severity = "error" if kind == "vm.crashed" else _TROUBLE.get(reason, "info")
    return Seen(kind, state, severity=severity, data={"reason": reason})


def _reboot() -> Seen:
    return Seen("vm.rebooted")


def _watchdog(action: int) -> Seen:
    return Seen("vm.watchdog", severity="warning", data={"action": _word(_WATCHDOG, action)})


def _io_error(path: str, device: str, action: int, reason: str) -> Seen:
    return Seen("vm.io_error", severity="error", data={"device": device, "path": path, "action": _word(_IO_ERROR, action), "reason": reason})


def _device(change: str) -> Callable[[str], Seen]:
    return lambda device: Seen("vm.changed", data={"reason": change, "device": device})


def _agent(state: int, dummy_reason: int) -> Seen:
    return Seen("vm.guest_agent", data={"state": _AGENT.get(state, "unknown")})


def _metadata(what: int, dummy_namespace: Optional[str]) -> Seen:
    return Seen("vm.changed", data={"reason": f"metadata {_word(_METADATA, what)}"})


def _balloon(dummy_actual: int) -> Seen:
    return Seen(RESIZED)


_DOMAIN_EVENTS: dict[str, Callable[..., Optional[Seen]]] = {
    "LIFECYCLE": _lifecycle,
    "REBOOT": _reboot,
    "WATCHDOG": _watchdog,
    "IO_ERROR_REASON": _io_error,
    "DEVICE_ADDED": _device("device added"),
    "DEVICE_REMOVED": _device("device removed"),
    "AGENT_LIFECYCLE": _agent,
    "METADATA_CHANGE": _metadata,
    "BALLOON_CHANGE": _balloon,
}
