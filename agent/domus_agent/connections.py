"""Warm libvirt connections for the threads that work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from domus_core.errors import DomusError
from domus_core.libvirt_driver.connection import connect, libvirt
from domus_core.libvirt_driver.driver import LibvirtDriver

KEPT = 4


class Connections:
    """Warm libvirt connections, one for each thread that works; drivers inside this process have only the one."""

    def __init__(self, uri: str, state_directory: str) -> None:
        self.uri = uri
        self.state_directory = state_directory
        self.one_process = urlsplit(uri).scheme == "test" or urlsplit(uri).path == "/embed"
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection that answers. Raises Unreachable."""
        connection = self._take()
        sound = False
        try:
            yield connection
            sound = True
        except DomusError as error:
            sound = error.code != "unreachable"
            raise
        finally:
            if not self.one_process:
                self._give_back(connection, sound)

    @contextlib.contextmanager
    def driver(self) -> Iterator[LibvirtDriver]:
        """A driver that remembers nothing of earlier work. Raises Unreachable."""
        with self.connection() as connection:
            yield LibvirtDriver(connection, self.uri, self.state_directory)

    def close(self) -> None:
        """Close what nobody works with."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    def _take(self) -> Any:
        with self._lock:
            if self.one_process:
                self._idle = self._idle or [connect(self.uri)]
                return self._idle[0]
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return connect(self.uri)
            with contextlib.suppress(libvirt.libvirtError):
                connection.getLibVersion()  # a libvirt that was restarted shows only when it is asked
                return connection
            _close(connection)

    def _give_back(self, connection: Any, sound: bool) -> None:
        with self._lock:
            if sound and len(self._idle) < KEPT:
                self._idle.append(connection)
                return
        _close(connection)


def _close(connection: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()
