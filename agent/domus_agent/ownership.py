"""Whose this server is: its identity, the one-time secret of a free server, its manager, and who may call what.

Identity and trust are files (directory/identity), written so that a crash at any moment leaves the server either free or owned by one
manager: what changes together is laid beside first (NAME.next), then identity.json says so (the switch), then it takes its place, which
whoever starts next completes. They do not depend on the database.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import json
import os
import secrets
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from domus_core import owner
from domus_core.clients.wire import manager_urn, server_urn
from domus_core.errors import Conflict, DomusError, DriverError, Forbidden, InvalidSpec, TooLarge, Unauthorized

from . import rescue
from .identity_files import IdentityFiles, alone, fingerprint_of, manager_context
from .rescue import WRONG_TRIES, Rescue
from .store import AgentStore

FREE, JOB, MANAGER = "free", "job", "manager"
# What a switch lays beside, and where identity.json says which files are to take their place.
NEXT, MOVING = ".next", "moving"
NOTES, MOST_NOTES = "notes.json", 16 << 10
_JOB, _FOR = "urn:domus:job:", "urn:domus:for:"


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who calls: anybody (`free`), the manager, or one of its jobs; with the serial number (hex) of the certificate."""

    role: str
    name: str = ""
    serial: str = ""


class Ownership:
    """The identity of this server. `changed` is called after each take-over, release and renewal, and when the manager moved.

    `context` is the TLS of the door, a new object after each change (one can learn a CA, but not forget it): what was connected
    with an earlier one counts no more.
    """

    def __init__(self, directory: str, state_directory: str, store: AgentStore, clock: Callable[[], float] = time.time) -> None:
        self.directory = os.path.join(directory, "identity")
        self.state_directory = state_directory
        self.changed: Callable[[], None] = lambda: None
        self._store = store
        self._clock = clock
        self._lock = threading.RLock()
        self._wrong = 0
        self._request: Optional[str] = None
        self._renewing: Optional[tuple[str, str]] = None
        self._files = IdentityFiles(self.directory)
        with alone(self.directory):  # an agent that starts and `domus-agent secret` would else make a key each
            self._identity: dict[str, Any] = self._load()
            with contextlib.suppress(OSError, DomusError):  # on a full disk the files are in place at least; the next switch asks again
                self._complete()
                self._mark()
            self._rescue: Optional[Rescue] = None
            self._revoked = self._load_revoked()
            if not self.owned and not os.path.exists(self._files.path("secret")):
                self._become_free()
            self.context = self._server_context()

    @property
    def server_id(self) -> str:
        """The UUID of this server, for ever."""
        return str(self._identity["server"])

    @property
    def manager(self) -> Optional[str]:
        """The id of the manager that owns this server."""
        return self._identity.get("manager")

    @property
    def owned(self) -> bool:
        """Has this server a manager?"""
        return self.manager is not None

    @property
    def url(self) -> str:
        """Where the manager hears callbacks; empty on a free server."""
        return str(self._identity.get("url") or "")

    @property
    def name(self) -> str:
        """What the manager calls this server; empty on a free server."""
        return str(self._identity.get("name") or "")

    def fingerprint(self) -> str:
        """SHA-256 of this server's certificate, hexadecimal."""
        return fingerprint_of(self._files.read("certificate.pem"))

    def invitation(self) -> Optional[str]:
        """`fingerprint:secret`, with which a manager takes a free server over; None on an owned one."""
        return None if self.owned else f"{self.fingerprint()}:{self._files.read('secret').strip()}"

    def rescue(self) -> str:
        """Let a new manager take this server over from the one that is lost, once and within an hour; return its `fingerprint:secret`.

        A running agent sees it within seconds (`look`). Until the take-over nothing changes for the old manager.
        """
        opened = rescue.new_rescue(str(self.manager), self._clock())
        self._files.write(rescue.FILE, json.dumps(dataclasses.asdict(opened)))
        return f"{self.fingerprint()}:{opened.secret}"

    def look(self) -> bool:
        """See whether root has opened the way for another manager, or it has ended; is `context` another one because of that?"""
        with self._lock:
            before, self._rescue = self._rescue, rescue.read_rescue(self.directory, self.manager, self._clock())
            if self._rescue is None and before is None:
                return False
            if self._rescue is not None and (before is None or before.secret != self._rescue.secret):
                self._store.add_event("server.rescue_opened", severity="warning", data={"user": self._rescue.user, "until": self._rescue.until})
            if (before is None) == (self._rescue is None):
                return False
            self.context = self._server_context()
            return True

    @property
    def inviting(self) -> bool:
        """May a manager take this server over now: is it free, or was it opened for a rescue?"""
        return not self.owned or (self._rescue is not None and self._clock() < self._rescue.until)

    def certificate_request(self) -> Optional[str]:
        """The certificate signing request (PEM) of a server that may be taken over, else None."""
        with self._lock:
            if self.inviting and self._request is None:
                from . import certificates

                self._request = certificates.request(self._files.read("key.pem"), server_urn(self.server_id))
            return self._request if self.inviting else None

    def caller(self, certificate: Optional[Mapping[str, Any]]) -> Caller:
        """Who shows this (verified) certificate. Raises Forbidden, Unauthorized: another's, ended or revoked."""
        if not self.owned:
            return Caller(FREE)
        if not certificate and self.inviting:
            return Caller(FREE)
        if not certificate:
            raise Unauthorized("this server belongs to a manager and answers only with a certificate of it", remedy="Ask through the manager")
        serial = normal_serial(str(certificate.get("serialNumber", "")))
        if ssl.cert_time_to_seconds(str(certificate["notAfter"])) < self._clock():
            raise Forbidden("the certificate has ended", field="certificate", value=serial)
        if serial in self._revoked:
            raise Forbidden("the certificate is revoked", field="certificate", value=serial)
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        if manager_urn(str(self.manager)) in names:
            return Caller(MANAGER, str(self.manager), serial)
        jobs = [name[len(_JOB) :] for name in names if name.startswith(_JOB)]
        if jobs and f"{_FOR}{self.server_id}" in names:
            return Caller(JOB, jobs[0], serial)
        raise Forbidden("the certificate is neither the manager's nor that of a job for this server", field="certificate", value=", ".join(names))

    def revoke(self, serial: str, until: float) -> str:
        """Accept that certificate no more; return its serial number in our form. Raises InvalidSpec."""
        serial = normal_serial(serial)
        if self._revoked.get(serial) == until:
            return serial
        self._store.revoke(serial, until)
        with self._lock:  # trust does not depend on the database: a damaged one must not let a revoked certificate in
            kept = {one: end for one, end in self._revoked.items() if end > self._clock() - 86400}
            self._revoked = {**kept, serial: until}
            with contextlib.suppress(OSError):
                self._files.write("revoked.json", json.dumps(self._revoked))
        return serial

    def take_over(self, *, secret: str, manager: str, url: str, authority: str, callback_authority: str, certificate: str, name: str) -> dict[str, Any]:
        """Belong to a manager from now on. Raises Conflict, Unauthorized (wrong secret), InvalidSpec; then nothing has changed."""
        with self._lock:
            if not self.inviting:
                raise Conflict("this server belongs to a manager already", field="manager", value=self.manager, remedy="Have that one release it")
            self._check_secret(secret)
            _check_url(url)
            self._check_certificates(authority, callback_authority, certificate)
            before = self.manager
            owner.mark(self.state_directory, manager, url)
            self._switch(
                {"server": self.server_id, "manager": manager, "url": url, "name": name},
                {"authority.pem": authority, "callback_authority.pem": callback_authority, "certificate.pem": certificate},
            )
            self._forget_before(before)
            self.context = self._server_context()
        self._store.begin_epoch()
        if before is not None:
            self._store.add_event("server.rescued", severity="warning", data={"from": before})
        self.changed()
        return {"server": self.server_id}

    def serial(self) -> str:
        """The serial number (hex) of this server's certificate."""
        from . import certificates

        return certificates.serial_of(self._files.read("certificate.pem"))

    def renewal_request(self) -> str:
        """A signing request (PEM) for a new key, the same until `renew`; the key is kept in memory."""
        from . import certificates

        with self._lock:
            if self._renewing is None:
                self._renewing = certificates.new_request()
            return self._renewing[1]

    def renew(self, certificate: str) -> None:
        """Be known by a new key and certificate from now on; once more the same changes nothing. Raises InvalidSpec, Conflict; then nothing has changed."""
        from . import certificates

        with self._lock:
            if certificate == self._files.read("certificate.pem"):
                return
            if self._renewing is None:
                raise Conflict("was not asked for", object="certificate", remedy="Ask for the request (renewal) first: the agent was restarted meanwhile")
            authority = self._files.read("authority.pem")
            certificates.check_signed(certificate, authority, server_urn(self.server_id))
            certificates.check_issued(certificate, authority, self._renewing[0])
            self._switch(self._identity, {"certificate.pem": certificate, "key.pem": self._renewing[0]})
            self._renewing, self._request = None, None
            self.context = self._server_context()
        self.changed()

    def readdress(self, *, url: str, callback_authority: str) -> dict[str, Any]:
        """The same manager hears callbacks elsewhere from now on. Raises InvalidSpec; then nothing has changed."""
        with self._lock:
            _check_url(url)
            _check_authority(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "callback_authority", callback_authority)
            if url == self.url and callback_authority == self._files.read("callback_authority.pem"):
                return {"changed": False}
            before = self.url
            self._switch({**self._identity, "url": url}, {"callback_authority.pem": callback_authority})
            self.context = self._server_context()  # the callbacks' connection is made anew with it
        self._store.add_event("server.manager_moved", data={"from": before, "to": url})
        self.changed()
        return {"changed": True}

    def believe(self, authority: str) -> dict[str, Any]:
        """Accept callers whom one of these authorities (PEM) has signed; the one that signed our own certificate must be among them.

        Raises InvalidSpec; then nothing has changed.
        """
        from . import certificates

        with self._lock:
            if authority == self._files.read("authority.pem"):
                return {"changed": False}
            certificates.check_signed(self._files.read("certificate.pem"), authority, server_urn(self.server_id))
            _check_authority(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "authority", authority)
            self._switch(self._identity, {"authority.pem": authority})
            self.context = self._server_context()
        self.changed()
        return {"changed": True}

    def remember(self, notes: Mapping[str, Any]) -> None:
        """Keep what the manager knows of this server beside it, for one that has lost it. Raises TooLarge, OSError."""
        text = json.dumps(notes)
        if len(text) > MOST_NOTES:
            raise TooLarge(f"is more than {MOST_NOTES >> 10} KiB", field="notes")
        with self._lock:
            if notes != self.notes:
                self._files.write(NOTES, text)

    @property
    def notes(self) -> dict[str, Any]:
        """What the manager had kept here; empty when there is nothing, or it can not be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return dict(json.loads(self._files.read(NOTES)))
        return {}

    def release(self) -> dict[str, Any]:
        """Be free again: a new key, a new secret; the manager's certificates are accepted no more."""
        with self._lock:
            self._put_identity({"server": self.server_id})
            self._become_free()
            self._revoked, self._rescue = {}, None
            for name in ("authority.pem", "callback_authority.pem", "revoked.json", rescue.FILE, NOTES):
                self._files.remove(name)
            owner.unmark(self.state_directory)
            self.context = self._server_context()
        self._store.begin_epoch()
        self.changed()
        return {}

    def client_context(self) -> ssl.SSLContext:
        """TLS to the manager: our certificate, and the CA that its web server must be signed by."""
        return manager_context(self.directory)

    def _server_context(self) -> ssl.SSLContext:
        """TLS for those who call: who owns us must show a certificate of the owner's CA; a new manager has none yet when root let it in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.path("certificate.pem"), self._files.path("key.pem"))
        if self.owned:
            context.load_verify_locations(self._files.path("authority.pem"))
            context.verify_mode = ssl.CERT_OPTIONAL if self.inviting else ssl.CERT_REQUIRED
        return context

    def _check_secret(self, secret: str) -> None:
        right = self._rescue.secret if self._rescue is not None else self._files.read("secret").strip()
        if hmac.compare_digest(secret.encode(), right.encode()):
            return
        self._wrong += 1
        if self._wrong >= WRONG_TRIES:
            self._wrong = 0
            if self.owned:
                self._files.remove(rescue.FILE)
                self._rescue = dataclasses.replace(self._rescue, until=0.0) if self._rescue else None
            else:
                self._files.write("secret", secrets.token_hex(16))
        raise Unauthorized("that is not this server's secret", field="secret", remedy="Take the one that `domus-agent secret` shows on the server now")

    def _check_certificates(self, authority: str, callback_authority: str, certificate: str) -> None:
        """Look before anything is written: what does not fit would lock everybody out. Raises InvalidSpec."""
        from . import certificates

        certificates.check_signed(certificate, authority, server_urn(self.server_id))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w", dir=self.directory) as file:
            file.write(certificate)
            file.flush()
            try:
                context.load_cert_chain(file.name, self._files.path("key.pem"))
            except (ssl.SSLError, ValueError):
                raise InvalidSpec("is not for this server's key", field="certificate", remedy="Sign the request that hello returns") from None
        for field, text in (("authority", authority), ("callback_authority", callback_authority)):
            _check_authority(context, field, text)

    def _switch(self, identity: dict[str, Any], files: Mapping[str, str]) -> None:
        """Change the identity and these files at once, whenever a crash comes."""
        self._complete()  # what lies beside would else be taken for the rest of the last one
        for name, text in files.items():
            self._files.write(f"{name}{NEXT}", text)
        self._put_identity({**identity, MOVING: sorted(files)})
        self._complete()

    def _complete(self) -> None:
        """Put what the last switch laid beside in its place; a crash may have come in between."""
        if MOVING not in self._identity:
            return
        for name in self._identity[MOVING]:
            with contextlib.suppress(FileNotFoundError):  # in its place already
                os.replace(self._files.path(f"{name}{NEXT}"), self._files.path(name))
        self._files.sync()
        self._mark()
        self._put_identity({name: value for name, value in self._identity.items() if name != MOVING})

    def _mark(self) -> None:
        """What the engine goes by is what the identity says. Raises DriverError, NoCapacity."""
        if self.owned and owner.owner(self.state_directory) != {"manager": self.manager, "url": self.url}:
            owner.mark(self.state_directory, str(self.manager), self.url)
        elif not self.owned:
            owner.unmark(self.state_directory)

    def _forget_before(self, manager: Optional[str]) -> None:
        """What let the new manager in, and what the one before had revoked, counts no more."""
        for name in ("secret", rescue.FILE, *(("revoked.json",) if manager is not None else ())):
            self._files.remove(name)
        self._revoked = self._revoked if manager is None else {}
        self._rescue, self._request, self._wrong = None, None, 0

    def _become_free(self) -> None:
        from . import certificates

        self._request, self._renewing = None, None
        key, certificate = certificates.self_signed(server_urn(self.server_id))
        self._files.write("key.pem", key)
        self._files.write("certificate.pem", certificate)
        self._files.write("secret", secrets.token_hex(16))

    def _load(self) -> dict[str, Any]:
        try:
            data = json.loads(self._files.read("identity.json"))
        except FileNotFoundError:
            data = {"server": str(uuid.uuid4())}
            self._files.write("identity.json", json.dumps(data))
        except ValueError:
            raise DriverError(
                "the identity of this server is damaged",
                object=self._files.path("identity.json"),
                remedy="Restore it, or remove it and take the server over again",
            ) from None
        return dict(data)

    def _load_revoked(self) -> dict[str, float]:
        revoked = self._store.revoked()
        with contextlib.suppress(OSError, ValueError):
            revoked.update(json.loads(self._files.read("revoked.json")))
        return revoked

    def _put_identity(self, identity: dict[str, Any]) -> None:
        self._files.write("identity.json", json.dumps(identity))
        self._identity = identity


def normal_serial(serial: str) -> str:
    """A serial number as lower-case hex without leading zeros. Raises InvalidSpec."""
    try:
        return format(int(serial, 16), "x")
    except ValueError:
        raise InvalidSpec("is not a serial number in hexadecimal", field="serial", value=serial) from None


def _check_authority(context: ssl.SSLContext, field: str, text: str) -> None:
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise InvalidSpec("is not a certificate (PEM)", field=field) from None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme == "https" and parts.hostname and (parts.port or 443) > 0 and not parts.username
    except ValueError:
        sound = False
    if not sound:
        raise InvalidSpec("is not an https:// address", field="url", value=url)
