"""The certificates of servers (and people): given, renewed before they end, taken back. One thread renews; everybody may revoke.

A server's certificate is renewed in three steps, each of which may be the last for a while: the next one is noted (from then on both are
accepted), the agent installs it, and its first callback with it ends the one before. libvirt's goes the same way, but what was replaced is put
on the revocation list, since libvirt keeps no record of who may come.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Optional

from domus_core.errors import DomusError, Unreachable, Unsupported

from ..config import ManagerConfig
from ..security.authority import AUTHORITIES, CERTIFICATE_SECONDS, DAY, RENEWAL_SECONDS, RENEWED, SERVERS, Authority
from ..store import events, person_certificates, servers, trust, users
from ..store.database import Connection, Store
from ..web_certificate import renew_web_certificate
from .authorities import Authorities

if TYPE_CHECKING:
    from .pool import Agents

LOOK_SECONDS = 5.0
RETRY_SECONDS = 3600.0
# So long a server has to call back with what it was given, before it is given another.
CONFIRM_SECONDS = 300.0
AGAIN_SECONDS = 1.0
TELL_SECONDS = 5.0
TELL_AT_ONCE = 32
# An authority's end is told so long before, each day once.
WARN_SECONDS = 365 * DAY
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
logger = logging.getLogger(__name__)


class Trust:
    """What the manager's servers are given to be trusted by."""

    def __init__(self, store: Store, authority: Authority, agents: Agents, config: ManagerConfig) -> None:
        self._store, self._authority, self._agents, self._config = store, authority, agents, config
        self._lock = threading.Lock()
        self._crl: Optional[tuple[int, str]] = None
        self._not_before: dict[str, float] = {}
        self._looked = 0.0
        self._authorities = Authorities(store, authority, agents, config, lambda kind, severity, data: self._event(kind, severity, None, data))

    def start(self, stopping: threading.Event) -> None:
        """Begin to look after them, until `stopping` is set."""
        threading.Thread(target=self._run, args=(stopping,), name="trust", daemon=True).start()

    def papers(self, server: Mapping[str, Any], requests: Optional[Mapping[str, str]], pool: str) -> Optional[dict[str, str]]:
        """What a server {id, name, address, hostname} needs for its libvirt, noted as its next; None when it does not ask. Raises InvalidSpec."""
        if requests is None:
            return None
        names = self._names(server)
        libvirt, qemu = (
            self._authority.issue_libvirt(requests["libvirt"], server["id"], pool, names),
            self._authority.issue_qemu(requests["qemu"], server["id"], pool, names),
        )
        before = trust.row(self._store, server["id"])
        unconfirmed = [before[name] for name in ("next_libvirt_serial", "next_qemu_serial") if before[name]] if before is not None else []
        self._not_before[server["id"]] = self._store.now() + CONFIRM_SECONDS
        trust.note(
            self._store,
            server["id"],
            libvirt=1,
            next_libvirt_serial=libvirt.serial,
            next_qemu_serial=qemu.serial,
            next_libvirt_ends_at=libvirt.not_after,
            next_pool=pool,
        )
        self._refuse(unconfirmed)
        return {"authority": self._authority.libvirt_ca_pem, "crl": self.crl()[1], "certificate": libvirt.pem, "qemu_certificate": qemu.pem}

    def certify(self, csr: str, user: str, name: str, role: str) -> dict[str, Any]:
        """A certificate for a person, its item with the PEM text as `certificate`. Raises NotFound (no such user), InvalidSpec."""
        users.find(self._store, user)
        issued = self._authority.issue_person(csr, user)
        return {**person_certificates.add(self._store, issued.serial, user, name, role, issued.not_after), "certificate": issued.pem}

    def crl(self) -> tuple[int, str]:
        """Number and text of libvirt's revocation list."""
        with self._lock:
            if self._crl is None:
                self._crl = self._authority.libvirt_crl()
            return self._crl

    def heard_of(self, server_id: str, tls: Optional[Mapping[str, Any]]) -> dict[str, Any]:
        """Note what a callback tells of libvirt's certificate; return what the server is to know: {crl, gone}, or nothing new."""
        replaced = trust.heard(self._store, server_id, tls)
        if replaced:
            self._refuse(replaced)
        number = tls.get("crl") if tls is not None else None
        if not isinstance(number, int) or number >= self.crl()[0] or tls is None or tls.get("serial") is None:
            return {}
        return {"crl": self.crl()[1], "gone": trust.gone(self._store)}

    def renew(self, server_id: str, pool: Optional[str] = None) -> None:
        """Give a server new certificates; with `pool` from now on in that one. Raises NotFound, Unreachable, and what the agent raises."""
        server = servers.find(self._store, server_id)
        if pool is not None:
            trust.note(self._store, server["id"], pool=pool)
        known = trust.row(self._store, server["id"])
        asked = self._agents.call(server["id"], "renewal", {})
        if known is not None and known["next_serial"] is not None and asked["serial"] == known["next_serial"]:
            trust.accepts(self._store, server["id"], int(asked["serial"], 16))  # its answer was lost, the certificate was not
        issued = self._authority.issue_server(asked["csr"], server["id"], [server["address"]], self._store.manager_id)
        trust.note(self._store, server["id"], next_serial=issued.serial, next_ends_at=issued.not_after)
        self._not_before[server["id"]] = self._store.now() + CONFIRM_SECONDS
        hostname = (server["facts"] or {}).get("hostname")
        papers = self.papers({**server, "hostname": hostname}, asked.get("libvirt_csr"), pool or server["pool"])
        self._give(server["id"], {"certificate": issued.pem, "libvirt": papers})

    def _give(self, server_id: str, papers: Mapping[str, Any]) -> None:
        """An agent that gets a new certificate lets go of its connections, so that its answer may be lost; to give it twice does no harm."""
        try:
            self._agents.call(server_id, "renew", papers)
        except Unreachable:
            time.sleep(AGAIN_SECONDS)
            self._agents.call(server_id, "renew", papers)

    def revoke(self, server_id: str) -> None:
        """Have no certificate of a server accepted any more: here at once, by the servers that are heard within seconds, by others when they are back."""
        serial, replaced = servers.serial(self._store, server_id), trust.libvirt_serials(self._store, server_id)
        with self._lock:
            self._authority.revoke_libvirt(replaced)
            self._crl = None
        others = [server["id"] for server in servers.all(self._store) if server["id"] != server_id]
        until = self._store.now() + CERTIFICATE_SECONDS
        if serial is not None:
            servers.revoke(self._store, serial, others, until)
        trust.bury(self._store, server_id)
        online = [server["id"] for server in servers.all(self._store) if server["id"] != server_id and server["state"] in servers.CONNECTED]
        if serial is not None:
            self._tell(online, "revoke", {"serial": serial, "until": until})
        self._tell_crl(online)

    def look(self) -> None:
        """Renew what is due, and warn of what only people can renew. Raises what the database raises."""
        now = self._store.now()
        self._authorities.look()
        # Nothing is gained by another certificate that ends with its authority.
        for server_id in trust.due(self._store, min(now + RENEWAL_SECONDS, self._authority.expires_at(SERVERS) - DAY)):
            if self._not_before.get(server_id, 0.0) <= now:
                self._not_before[server_id] = now + RETRY_SECONDS
                self._renew(server_id)
        if now - self._looked > DAY or now < self._looked:
            self._looked = now
            self._look_daily(now)

    def _look_daily(self, now: float) -> None:
        for name in (one for one in AUTHORITIES if one not in RENEWED):
            left = self._authority.expires_at(name) - now
            if left < WARN_SECONDS:
                self._event("authority.ends_soon", "warning", None, {"authority": name, "days": int(left / DAY)})
        remedy = renew_web_certificate(self._authority, self._config)
        if remedy is not None:
            self._event("manager.web_certificate_renewed", "warning" if remedy else "info", None, {"remedy": remedy})
        trust.forget_gone(self._store)
        person_certificates.forget_ended(self._store)

    def _renew(self, server_id: str) -> None:
        try:
            self.renew(server_id)
        except Unsupported as error:  # an agent that is older than this
            logger.info("server %s can not renew its certificate: %s", server_id, error)
        except DomusError as error:
            logger.warning("the certificate of server %s can not be renewed yet: %s", server_id, error)
            self._event("server.renewal_failed", "warning", server_id, {"problem": str(error)})
        else:
            logger.info("server %s was given new certificates", server_id)
            self._event("server.renewed", "info", server_id, {})

    def _refuse(self, serials: Iterable[str]) -> None:
        """Put certificates for libvirt on its revocation list, and tell the servers."""
        if refused := list(serials):
            with self._lock:
                self._authority.revoke_libvirt(refused)
                self._crl = None
            threading.Thread(target=self._tell_crl, args=(self._online(),), name="revocation", daemon=True).start()

    def _online(self) -> list[str]:
        return [server["id"] for server in servers.all(self._store) if server["state"] in servers.CONNECTED]

    def _tell_crl(self, online: Iterable[str]) -> None:
        self._tell(set(online) & set(trust.with_libvirt(self._store)), "revoke_libvirt", {"crl": self.crl()[1], "gone": trust.gone(self._store)})

    def _tell(self, server_ids: Iterable[str], method: str, parameters: Mapping[str, Any]) -> None:
        """Tell servers at once; who does not hear it hears it with the answer to its next callback."""

        def tell(server_id: str) -> None:
            try:
                self._agents.call(server_id, method, parameters, timeout=TELL_SECONDS)
            except DomusError as error:
                logger.info("server %s was not told of a revocation yet: %s", server_id, error)

        if told := sorted(server_ids):
            with ThreadPoolExecutor(min(TELL_AT_ONCE, len(told)), "revocation") as pool:
                list(pool.map(tell, told))

    def _names(self, server: Mapping[str, Any]) -> list[str]:
        """What libvirt's clients may call a server: where it is, what it is called here, and its host name unless that is another's."""
        others = {one[field] for one in servers.all(self._store) if one["id"] != server["id"] for field in ("name", "address")}
        wanted = [server["address"], server["name"], server.get("hostname")]
        return [name for name in wanted if name and (":" in name or _HOST_NAME.fullmatch(name)) and (name == server["address"] or name not in others)]

    def _event(self, kind: str, severity: str, server_id: Optional[str], data: dict[str, Any]) -> None:
        event = {"at": self._store.now(), "kind": kind, "severity": severity, "server_id": server_id, "object": None, "data": data, "operation": None}

        def change(connection: Connection) -> int:
            return events.add(connection, event)

        self._store.write(change)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except DomusError as error:
                logger.error("certificates: %s", error)
            except Exception:
                logger.exception("certificates")
