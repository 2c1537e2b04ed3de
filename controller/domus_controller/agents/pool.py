"""The agents of all servers, as the manager calls them: with its own certificate, over connections that stay open."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import simple_websocket
from domus_core.clients.agent import AgentClient, Shown, tls_context, who_answers
from domus_core.clients.wire import server_urn
from domus_core.errors import DomusError, Unreachable

from ..config import ManagerConfig
from ..security.authority import Authority
from ..store import servers
from ..store.database import Store
from . import discovery, takeover
from .trust import Trust

PING_SECONDS = 25
LARGEST_MESSAGE = 1 << 20

CERTIFICATE_SECONDS = 3600.0

Place = tuple[str, int, int]


class Agents:
    """Calls to agents, by server id; any thread may call."""

    def __init__(self, store: Store, authority: Authority, config: ManagerConfig) -> None:
        self._store = store
        self._authority = authority
        self._config = config
        self._clients: dict[str, tuple[Place, AgentClient]] = {}
        self.trust = Trust(store, authority, self, config)
        self._lock = threading.Lock()
        self._certificate: Optional[tuple[Path, Path]] = None
        self._looked_at = 0.0
        self._renewed = 0
        self._context: Optional[ssl.SSLContext] = None

    def call(self, server_id: str, method: str, parameters: Mapping[str, Any], timeout: float = 30.0) -> Any:
        """The result of an agent's method. Raises NotFound (not our server), the agent's error, or Unreachable; the last two name the server."""
        client, name = self._client(server_id)
        try:
            return client.request(method, parameters, timeout)
        except DomusError as error:
            raise error.on(name) from None

    def take_over(self, name: Optional[str], address: str, port: int, secret: str, *, pool: Optional[str] = None, replace: bool = False) -> dict[str, Any]:
        """Make a free server ours; `secret` is the line fingerprint:secret that it shows. Without `name` or `pool` it keeps those it has.

        Raises what `takeover.take_over` raises.
        """
        wanted = takeover.Wanted(name, address, port, pool, replace)
        server = takeover.take_over(self._store, self._authority, self.trust, self._config.url, wanted, secret, self._is_ours)
        self._forget(server["id"])
        return server

    def who_answers(self, address: str, port: int, timeout: float) -> Shown:
        """The certificate of our authority that a server shows there. Raises Unreachable."""
        with self._lock:
            certificate, key = self._own_certificate()
        return who_answers(address, port, self._authority.servers_ca_pem, str(certificate), str(key), timeout)

    def at(self, address: str, port: int, server_id: str) -> AgentClient:
        """A client of our own for a server that need not be on record; whoever asks closes it."""
        with self._lock:
            certificate, key = self._own_certificate()
        return AgentClient(address, port, server_id, self._authority.servers_ca_pem, str(certificate), str(key))

    def release(self, server_id: str) -> None:
        """Make a server free again, and forget it. Raises NotFound, Unreachable; then nothing has changed here."""
        self.call(server_id, "release", {})
        self.forget(server_id)

    def discover(self, address: str, port: int) -> dict[str, Any]:
        """What answers there, as `discovery.discover` says. Raises Unreachable."""
        return discovery.discover(self._store, self._authority, address, port)

    def forget(self, server_id: str) -> None:
        """Accept no certificate of a server any more anywhere, and forget it. Raises NotFound."""
        self.trust.revoke(server_id)
        servers.remove(self._store, server_id)
        self._forget(server_id)

    def revoke(self, server_id: str) -> None:
        """Accept no certificate of a server any more anywhere; it stays on record, and is talked to no more. Raises NotFound."""
        self.trust.revoke(server_id)
        self._forget(server_id)

    def console(self, server_id: str, vm_uuid: str, *, force: bool = False) -> simple_websocket.Client:
        """A WebSocket to the serial console of a VM; `force` takes it from whoever has it. Raises NotFound, Unreachable."""
        server = servers.find(self._store, server_id)
        host = f"[{server['address']}]" if ":" in server["address"] else server["address"]
        with self._lock:
            certificate, key = self._own_certificate()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # who it is stands in the certificate's URI
        context.load_verify_locations(cadata=self._authority.servers_ca_pem)
        context.load_cert_chain(certificate, key)
        label = f"console of vm {vm_uuid}"
        try:
            url = f"wss://{host}:{server['port']}/console/{vm_uuid}{'?force=1' if force else ''}"
            client = simple_websocket.Client(url, ping_interval=PING_SECONDS, max_message_size=LARGEST_MESSAGE, ssl_context=context)
        except (OSError, simple_websocket.ConnectionError, simple_websocket.ConnectionClosed) as error:
            reason = " ".join(str(error).split())[:200]
            raise Unreachable(f"the agent does not give it: {reason}", object=label, remedy="Does the VM run? Is the server heard?") from None
        names = [value for kind, value in (client.sock.getpeercert() or {}).get("subjectAltName", ()) if kind == "URI"]
        if server_urn(server_id) not in names:
            client.close()
            raise Unreachable("another server answers there", object=label, value=", ".join(names), remedy="Is the server's address right?")
        return client

    def authority_changed(self) -> None:
        """Another authority signs from now on: our own certificate is to be of it at once, and agents' of either are believed."""
        with self._lock:
            self._certificate = self._context = None

    def _client(self, server_id: str) -> tuple[AgentClient, str]:
        """The client of a server, and the name of that."""
        server = servers.find(self._store, server_id)
        if server["revoked"]:
            label, remedy = f"server {server['name']}", "Forget it: domus server remove --forget; reinstalled, it is added again with --replace"
            raise Unreachable("its certificate is revoked, so that it is not talked to", object=label, field="certificate", remedy=remedy)
        with self._lock:
            certificate, key = self._own_certificate()
            place = (str(server["address"]), int(server["port"]), self._renewed)
            known = self._clients.get(server["id"])
            if known is None or known[0] != place:
                client = AgentClient(place[0], place[1], server["id"], "", str(certificate), str(key), context=self._context)
                self._clients[server["id"]] = known = (place, client)
        return known[1], str(server["name"])

    def _own_certificate(self) -> tuple[Path, Path]:
        """The files of the manager's certificate, looked after once an hour; `_renewed` tells one from the next."""
        if self._certificate is None or time.monotonic() - self._looked_at > CERTIFICATE_SECONDS:
            self._certificate = self._authority.issue_manager(self._store.manager_id)
            self._looked_at = time.monotonic()
            renewed = self._certificate[0].stat().st_mtime_ns
            if self._context is None or renewed != self._renewed:
                self._context = tls_context(self._authority.servers_ca_pem, str(self._certificate[0]), str(self._certificate[1]))
            self._renewed = renewed
        return self._certificate

    def _forget(self, server_id: str) -> None:
        with self._lock:
            known = self._clients.pop(server_id, None)
        if known is not None:
            known[1].close()

    def _is_ours(self, server_id: str) -> bool:
        """Does the server take our certificate, and say that it is ours?"""
        try:
            told = self.call(server_id, "hello", {}, timeout=10)
        except DomusError:
            return False
        return bool(told.get("manager") == self._store.manager_id)
