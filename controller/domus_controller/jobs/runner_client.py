"""The manager's end of the job runner's socket: one connection is one job."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from domus_core.errors import Unreachable


class RunnerConnection:
    """A job that the runner works on; closing the connection cancels it."""

    def __init__(self, socket_path: str, request: dict[str, Any], timeout: float = 30.0) -> None:
        """Send the request. Raises Unreachable when no runner is there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(socket_path)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            self._socket.settimeout(None)
        except OSError as error:
            self._socket.close()
            raise Unreachable(
                f"the job runner does not answer: {error.strerror or error}", value=socket_path, remedy="Start it: domus-manager runner"
            ) from None

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the runner tells, in its order; ends after the line `end`, or when the runner is gone."""
        with self._socket.makefile("rb") as stream:
            try:
                for line in stream:
                    data = json.loads(line)
                    yield data
                    if "end" in data:
                        return
            except (OSError, ValueError):
                return

    def cancel(self) -> None:
        """Ask for the end of the job; it comes as the line `end`."""
        try:
            self._socket.sendall(b'{"cancel": true}\n')
        except OSError:  # it has ended already
            return

    def close(self) -> None:
        """Forget the job, which ends it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
