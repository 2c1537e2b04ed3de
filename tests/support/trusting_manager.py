"""What a manager has to do with certificates, in this process: its store, authorities and agents, and callbacks over real TLS."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from domus_controller.agents.pool import Agents
from domus_controller.config import ManagerConfig
from domus_controller.security.authority import Authority
from domus_controller.store import events, server_states, servers, trust
from domus_controller.store.database import Store

from .agent_process import RunningAgent


class Manager:
    """A manager's store, authorities and agents, with a clock that can be moved; it hears callbacks as the API does.

    Its authorities were made so many seconds ago (`age`): TLS goes by the real clock.
    """

    def __init__(self, directory: Path, address: str = "127.0.0.1", age: float = 0.0) -> None:
        self.address = address
        self.moved, self.authority_moved = 0.0, -age
        directory.mkdir(parents=True)
        self.store = Store(directory, lambda: time.time() + self.moved)
        self.authority = Authority(directory, lambda: time.time() + self.authority_moved)
        self.authority.ensure()
        self.authority_moved = 0.0
        #: the records of all callbacks
        self.told: list[dict[str, Any]] = []
        self.listener = Listener(self)
        self.agents = Agents(self.store, self.authority, ManagerConfig(directory=directory, run_directory=directory, url=self.listener.url))
        self.trust = self.agents.trust

    def take(self, agent: RunningAgent, name: str = "srv1", **more: Any) -> dict[str, Any]:
        """Take over an agent on this machine."""
        return self.agents.take_over(name, "127.0.0.1", agent.port, ":".join(agent.invitation()), **more)

    def events(self, kind: str) -> list[Any]:
        """The events of a kind, the manager's own and those that agents told."""
        return [one for one in events.page(self.store, since=0)["items"] if one["kind"] == kind]

    def close(self) -> None:
        """End it."""
        self.listener.close()
        self.store.close()


class Listener:
    """The way of the callbacks: TLS as nginx has it, then the gate's question, then what the API does with certificates."""

    def __init__(self, manager: Manager) -> None:
        self.seen: list[tuple[str, bool, Any]] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """One callback."""
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                shown = x509.load_der_x509_certificate(self.connection.getpeercert(True))  # type: ignore[attr-defined]
                right = trust.accepts(manager.store, message["server"], shown.serial_number)
                listener.seen.append((f"{shown.serial_number:x}", right, message.get("tls")))
                answer: dict[str, Any] = {"detail": "not the current one"}
                if right:
                    manager.store.write(lambda c: server_states.heard(c, message["server"], manager.store.now(), "1", "up", message["facts"]))
                    manager.told += message["records"]
                    news = manager.trust.heard_of(message["server"], message.get("tls"))
                    answer = {"acknowledged": max((one["seq"] for one in message["records"]), default=0), **news}
                    answer["revoked"] = servers.revoked(manager.store, message["server"])
                body = json.dumps(answer).encode()
                self.send_response(200 if right else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *dummy: Any) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*manager.authority.issue_web([manager.address]))
        context.load_verify_locations(cadata=manager.authority.servers_ca_pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self.context = context
        self._server = http.server.ThreadingHTTPServer((manager.address, 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://{manager.address}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
