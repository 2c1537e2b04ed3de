"""The power supply of a lab: what a BMC is for real servers. `fence_domus_test` asks it from inside the hosts."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

from .commands import LabError
from .host import Host
from .lab import Lab

PORT = 8623
# Real BMCs take 3 to 10 seconds.
SECONDS = 4.0
PASSWORD = "power"
AGENT = Path(__file__).with_name("fence_domus_test")


class PowerService:
    """Switches hosts of a lab off and on for those who ask: a line of JSON with action, plug and password; a line of JSON back."""

    def __init__(self, lab: Lab, seconds: float = SECONDS) -> None:
        self.lab = lab
        self.seconds = seconds
        # What was asked for, in order: (action, plug).
        self.asked: list[tuple[str, str]] = []
        # What was done, in order, after its seconds.
        self.done: list[tuple[str, str]] = []
        # Faults of the device: `lies` has it say that it is done, and do nothing; `is_broken` has it refuse everything.
        self.lies = False
        self.is_broken = False
        self._locks: dict[str, threading.Lock] = {}
        service = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = 30

            def handle(self) -> None:
                self.wfile.write((json.dumps(service._answer(self.rfile.readline())) + "\n").encode())

        self._server = socketserver.ThreadingTCPServer((lab.network.gateway, PORT), Handler, bind_and_activate=False)
        self._server.allow_reuse_address = True
        self._server.daemon_threads = True
        self._server.server_bind()
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def __enter__(self) -> PowerService:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def install(self, host: Host) -> None:
        """Put the fence agent where Pacemaker looks for it."""
        host.write(f"/usr/sbin/{AGENT.name}", AGENT.read_text(), mode="755")

    @property
    def is_busy(self) -> bool:
        """Is a host being switched?"""
        return any(lock.locked() for lock in list(self._locks.values()))

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if asked.get("password") != PASSWORD:
                return {"error": "wrong password"}
            return self._do(asked["action"], asked.get("plug", ""))
        except (LabError, ValueError, KeyError, TypeError) as error:
            return {"error": str(error)}

    def _do(self, action: str, plug: str) -> dict[str, Any]:
        if self.is_broken:
            return {"error": "the device is broken"}
        if action == "list":
            return {"plugs": {host.name: _state(host) for host in self.lab.hosts()}}
        host = self.lab.host(plug)
        if action == "status":
            return {"state": _state(host)}
        if action not in ("on", "off", "reboot"):
            return {"error": f"unknown action {action}"}
        self.asked.append((action, plug))
        with self._locks.setdefault(plug, threading.Lock()):
            time.sleep(self.seconds)
            if self.lies:
                return {"state": "off" if action == "off" else "on"}
            if action in ("off", "reboot"):
                host.power_off()
            if action in ("on", "reboot") and not host.is_running:
                host.power_off()  # what is left of one that has switched itself off
                host.start()
            self.done.append((action, plug))
        return {"state": _state(host)}


def _state(host: Host) -> str:
    return "on" if host.is_running else "off"
