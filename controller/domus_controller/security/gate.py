"""The one gate in front of every route: who asks, and may they? What no rule allows is refused."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import os
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryptography import x509
from domus_core.errors import Forbidden, NotFound, Unauthorized
from flask import Request

from ..errors import Overloaded, Throttled
from ..store import person_certificates, server_states, tokens, trust, users
from ..store.database import Store
from . import passwords
from .authority import PERSON_URN
from .principal import Principal, may, role_for

if TYPE_CHECKING:
    from ..api.route import Route

OPEN, AGENT = "open", "agent"
NOBODY = Principal("", "nobody")
SERVER_URN = "urn:domus:server:"
REMEDIES = {"server": "Take the server over again", "person": "Send a token, or name and password"}
VERIFIED_SECONDS = 60.0
FREE_TRIES = 4
LONGEST_PENALTY = 30.0
MOST_REMEMBERED = 10_000
AT_ONCE = 2
LONGEST_QUEUE = 3.0


class Gate:
    """Knows who asks by token, password or client certificate; wrong passwords are slowed down name by name."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._key = os.urandom(32)
        self._lock = threading.Lock()
        self._verified: dict[bytes, float] = {}
        self._failed: dict[str, tuple[int, float]] = {}
        # Each check takes 64 MiB and a core: many at once would stop everybody else.
        self._checking = threading.BoundedSemaphore(AT_ONCE)

    def require(self, route: Route | None, request: Request) -> Principal:
        """Return who asks. Raises Unauthorized, Forbidden or Throttled; a request for which there is no route is refused."""
        if route is None:
            raise Forbidden("no rule allows this", remedy="GET /api/v1/openapi.json lists what there is")
        if route.permission == OPEN:
            return NOBODY
        if route.permission == AGENT:
            return self._agent(request)
        principal = self._person(request)
        if not may(principal, route.permission):
            remedy = f"It takes the role {role_for(route.permission)}: ask an administrator{route.instead and f', or {route.instead}'}"
            message = f"{principal.name} is {principal.role}, which does not allow to {route.permission}"
            raise Forbidden(message, object=f"{request.method} {request.path}", remedy=remedy)
        return principal

    def _person(self, request: Request) -> Principal:
        scheme, dummy, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            found = tokens.authenticate(self._store, value.strip())
            if found is None:
                raise Unauthorized("the token is not known, or has expired")
            return found
        if scheme.lower() == "basic":
            _refuse_foreign_pages(request)
            return self._by_password(*_basic(value))
        if not scheme and request.headers.get("X-Client-Verify") == "SUCCESS":
            _refuse_foreign_pages(request)
            return self._by_certificate(request.headers.get("X-Client-Cert", ""))
        raise Unauthorized("nobody said who asks", remedy="Send a token as `Authorization: Bearer`, name and password as Basic, or show a certificate")

    def _by_certificate(self, quoted: str) -> Principal:
        """The person whose certificate nginx has checked, if it is one that was given to them and not revoked."""
        name, serial = identify(quoted, PERSON_URN, "person")
        found = person_certificates.authenticate(self._store, name, f"{serial:x}")
        if found is None:
            raise Unauthorized("the certificate is revoked, or was not given by this manager", remedy="Get another one: domus user certificate")
        return found

    def _by_password(self, name: str, password: str) -> Principal:
        try:
            known = users.credentials(self._store, name)
        except NotFound:
            known = {}
        stored = known.get("password")
        # The stored hash is part of it: another password ends what was remembered.
        remembered = hmac.digest(self._key, "\0".join((name, password, stored or "")).encode("utf-8", "surrogatepass"), hashlib.sha256)
        if stored and self._verified.get(remembered, 0) > self._clock():
            return Principal(name, known["role"])
        right = self._verify(name, stored, password)
        if not right:
            raise Unauthorized("the name or the password is wrong")
        with self._lock:
            self._failed.pop(name, None)
            _make_room(self._verified)
            self._verified[remembered] = self._clock() + VERIFIED_SECONDS
        return Principal(name, known["role"])

    def _verify(self, name: str, stored: str | None, password: str) -> bool:
        if not self._checking.acquire(timeout=LONGEST_QUEUE):
            raise Overloaded("too many passwords are being checked", headers={"Retry-After": "5"}, remedy="Use a token")
        try:
            self._wait_for_turn(name)
            right = passwords.verify(stored, password)
            if not right:
                self._note_failure(name)
            return right
        finally:
            self._checking.release()

    def _wait_for_turn(self, name: str) -> None:
        """Raises Throttled while the name must wait; whoever was verified within a minute never comes here."""
        until = self._failed.get(name, (0, 0.0))[1]
        left = until - self._clock()
        if left > 0:
            seconds = int(left) + 1
            raise Throttled(f"wait {seconds} seconds", object="user", remedy="A token is never slowed down", headers={"Retry-After": str(seconds)})

    def _note_failure(self, name: str) -> None:
        with self._lock:
            tries = self._failed.pop(name, (0, 0.0))[0] + 1
            _make_room(self._failed)
            penalty = min(2.0 ** (tries - FREE_TRIES), LONGEST_PENALTY) if tries > FREE_TRIES else 0.0
            self._failed[name] = (min(tries, 64), self._clock() + penalty)

    def _agent(self, request: Request) -> Principal:
        """The server whose current certificate nginx has checked; only nginx reaches the socket on which these headers are believed."""
        if request.headers.get("X-Client-Verify") != "SUCCESS":
            raise Unauthorized("no client certificate of a server was shown")
        server_id, serial = identify(request.headers.get("X-Client-Cert", ""), SERVER_URN, "server")
        if not trust.accepts(self._store, server_id, serial):
            server_states.refused(self._store, server_id)
            raise Forbidden(
                "the certificate is not the current one of a server of this manager", object=f"server {server_id}", remedy="Take the server over again"
            )
        return Principal(server_id, "agent")


@functools.lru_cache(maxsize=1024)
def identify(quoted: str, prefix: str, kind: str) -> tuple[str, int]:
    """Return whom a client certificate (PEM, percent-encoded) is for, as its one URI name with this prefix says, and its serial number.

    Raises Unauthorized, Forbidden.
    """
    try:
        certificate = x509.load_pem_x509_certificate(urllib.parse.unquote(quoted).encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise Unauthorized("the client certificate can not be read") from None
    urns = [urn.removeprefix(prefix) for urn in names.get_values_for_type(x509.UniformResourceIdentifier) if urn.startswith(prefix)]
    if len(urns) != 1:
        raise Forbidden(f"the certificate is not that of a {kind}", remedy=REMEDIES[kind])
    return urllib.parse.unquote(urns[0]), certificate.serial_number


def _basic(value: str) -> tuple[str, str]:
    try:
        name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        colon = ""
    if not colon:
        raise Unauthorized("the Basic credentials can not be read")
    return name, password


def _refuse_foreign_pages(request: Request) -> None:
    """A browser sends Basic credentials and certificates by itself, also for a page of somebody else: that page must not act for the person."""
    origin = request.headers.get("Origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc != request.host:
        raise Forbidden("the page that sends this is not of this manager", field="Origin", value=origin, remedy="Open the manager's own page, or use a token")


def _make_room(remembered: dict[Any, Any]) -> None:
    while len(remembered) >= MOST_REMEMBERED:
        del remembered[next(iter(remembered))]
