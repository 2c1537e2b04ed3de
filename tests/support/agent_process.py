"""A real agent in a process of its own, on libvirt's test driver, and a stand-in for the manager that owns it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Optional

import yaml
from domus_agent.identity_files import read_identity
from domus_core.clients.agent import AgentClient, FirstContact
from domus_core.clients.wire import split_invitation
from domus_core.errors import DomusError
from domus_core.libvirt_driver.locks import held

from tests.support.small_authority import SmallAuthority

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
# What most operations are tried with.
NETWORK = {"networks": [{"name": "lan", "mode": "isolated"}]}
MANAGER = "6a1f4e0e-0000-4000-8000-000000000001"


def wait_until(what: Any, seconds: float = 30.0) -> Any:
    """What the function returns as soon as that is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain")
        time.sleep(0.02)
    return found


class RunningAgent:
    """`domus-agent serve` under the system's Python, as a server runs it; `start` may be called again after `stop` or `kill`."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.state_directory = directory / "state"
        self.log = directory / "agent.log"
        self.port = 0
        self.process: Optional[subprocess.Popen[bytes]] = None
        told = {
            "directory": str(directory / "agent"),
            "state_directory": str(self.state_directory),
            "uri": "test:///default",
            "address": "127.0.0.1",
            "port": 0,
            "power_off": False,  # its server is the machine that the tests run on
        }
        (directory / "agent.yml").write_text(yaml.safe_dump({**told, **settings}))

    def start(self) -> None:
        """Start it, and wait until it listens."""
        begun = self.log.stat().st_size if self.log.exists() else 0
        environment = {**os.environ, "DOMUS_AGENT_CONFIG": str(self.directory / "agent.yml"), "PYTHONPATH": f"{ROOT}/agent:{ROOT}/plugins/module_utils"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([PYTHON, "-m", "domus_agent", "serve"], env=environment, stderr=log, stdout=log, cwd=self.directory)
        self.port = int(wait_until(lambda: self._listens(begun)))

    def _listens(self, begun: int) -> Optional[str]:
        text = self.log.read_bytes()[begun:].decode()
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(
                f"the agent ended:\n{text}\nIs everything installed? apt-get install python3-libvirt python3-lxml python3-aiohttp python3-defusedxml"
            )
        found = re.search(r"listens on 127\.0\.0\.1:(\d+)", text)
        return found.group(1) if found else None

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and return its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.end(signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def memory(self, name: str = "VmRSS") -> int:
        """Its memory now (or VmHWM: the most it had), in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text() if self.process else ""
        return int(re.search(rf"{name}:\s+(\d+) kB", text).group(1)) * 1024  # type: ignore[union-attr]

    @property
    def server_id(self) -> str:
        """The server's UUID."""
        return str(read_identity(str(self.directory / "agent"))["server"])

    def invitation(self) -> tuple[str, str]:
        """Fingerprint and secret of the free server."""
        return split_invitation(read_identity(str(self.directory / "agent"))["invitation"])


class Owner:
    """A manager's part: its CAs, its certificates, the take-over, and clients for it and for its jobs."""

    def __init__(self, directory: Path, url: str = "https://127.0.0.1:9") -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.url = url
        self.servers, self.web = SmallAuthority("servers"), SmallAuthority("web")
        self.manager = self.servers.files(directory, "manager", [f"urn:domus:manager:{MANAGER}"])
        self._clients: list[AgentClient] = []

    def take_over(self, agent: RunningAgent) -> dict[str, Any]:
        """Take the free server over with the secret that it shows."""
        fingerprint, secret = agent.invitation()
        with FirstContact("127.0.0.1", agent.port) as contact:
            contact.require(fingerprint)
            told = contact.call("hello")
            return dict(contact.call("take_over", secret=secret, **self.papers(told["csr"], told["server"])))

    def papers(self, request: str, server_id: str) -> dict[str, str]:
        """What take_over is given beside the secret."""
        certificate = self.servers.sign(request, f"urn:domus:server:{server_id}")
        told = {"manager": MANAGER, "url": self.url, "name": "srv1", "certificate": certificate}
        return {**told, "authority": self.servers.pem, "callback_authority": self.web.pem}

    def client(self, agent: RunningAgent, files: Optional[tuple[str, str]] = None) -> AgentClient:
        """A client with the manager's certificate, or with another one."""
        client = AgentClient("127.0.0.1", agent.port, agent.server_id, self.servers.pem, *(files or self.manager))
        self._clients.append(client)
        return client

    def job(self, job_id: str, servers: list[str], days: float = 30) -> tuple[str, str]:
        """The files of a job's certificate."""
        uris = [f"urn:domus:job:{job_id}", *(f"urn:domus:for:{server}" for server in servers)]
        return self.servers.files(self.directory, f"job-{job_id}", uris, days)

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()


class ListeningManager:
    """The manager's end of the callbacks: HTTPS that asks for a server's certificate, keeps every record, acknowledges the highest."""

    def __init__(self, directory: Path) -> None:
        self.owner = Owner(directory)
        self.messages: list[dict[str, Any]] = []
        self.records: dict[tuple[str, int], dict[str, Any]] = {}
        self.revoked: list[dict[str, Any]] = []
        self.failing = False
        manager = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = (503, {}) if manager.failing else (200, manager.take(message))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *dummy: Any) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.owner.web.files(directory, "web", []))
        context.load_verify_locations(cadata=self.owner.servers.pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.owner.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def take(self, message: dict[str, Any]) -> dict[str, Any]:
        """Store the records and acknowledge them."""
        self.messages.append(message)
        self.records.update({(message["epoch"], record["seq"]): record for record in message["records"]})
        mine = [seq for epoch, seq in self.records if epoch == message["epoch"]]
        return {"acknowledged": max(mine, default=0), "revoked": self.revoked, "time": time.time()}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of this kind that came."""
        return [record for record in list(self.records.values()) if record["type"] == "event" and record["kind"] == kind]

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.owner.close()


def submit_apply(client: AgentClient, document: dict[str, Any], operation: str = "", **options: Any) -> dict[str, Any]:
    """Submit an apply, wait for its end, return its status."""
    operation = operation or str(uuid.uuid4())
    client.call("submit", operation=operation, kind="apply", document=document, **options)
    return ended(client, operation)


def ended(client: AgentClient, operation: str) -> dict[str, Any]:
    """The status of an operation once it has ended."""
    return dict(wait_until(lambda: _when_ended(client.call("status", operation=operation, wait=20))))


def _when_ended(status: dict[str, Any]) -> Optional[dict[str, Any]]:
    return status if status["state"] in ("succeeded", "failed", "cancelled") else None


@contextlib.contextmanager
def raises_code(code: str) -> Any:
    """Expect a DomusError with this code; the context's value holds it as [0] afterwards."""
    caught: list[DomusError] = []
    try:
        yield caught
    except DomusError as error:
        caught.append(error)
    assert [error.code for error in caught] == [code]


def hold(agent: RunningAgent, kind: str, key: str) -> Any:
    """Hold an object's lock, so that an operation on it waits."""
    return held(str(agent.state_directory / "objects.lock"), [(kind, key)], [], patience=10)


def lines(status: dict[str, Any]) -> list[str]:
    """What an operation's status tells people."""
    return [line["line"] for line in status["progress"]]
