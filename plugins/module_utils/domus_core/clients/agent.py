"""Call an agent: mutual TLS, connections that stay open, and its errors raised as ours."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import http.client
import re
import ssl
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import Conflict, DomusError, DriverError, Forbidden, InvalidSpec, NotFound, TooLarge, Unreachable, Unsupported
from .wire import MOST_BYTES, NOT_IDEMPOTENT, PATH, decode_answer, encode_request, server_urn

PORT = 8899
# How agents of every version refuse what a newer one would know.
NO_SUCH_METHOD = "there is no such method"
NEW_HERE = frozenset({"is not a parameter of this method", "is not a kind of operation"})
TIMEOUT = 30.0
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_PEM = "-----BEGIN"


class AgentClient:
    """One server's agent; any number of threads may call, each has a connection of its own that is kept for its next call."""

    def __init__(
        self,
        address: str,
        port: int,
        server_id: str,
        authority: str,
        certificate_path: str,
        key_path: str,
        timeout: float = TIMEOUT,
        context: Optional[ssl.SSLContext] = None,
    ) -> None:
        """`authority` is the servers' CA, as PEM or as the path of a file; `timeout` the seconds that an answer may take.

        Those who call many agents make the `context` once (`tls_context` of the same files), which costs as much as a handshake.
        """
        self.place = f"agent {address}:{port}"
        self._address, self._port, self._server_id, self._timeout = address, port, server_id, timeout
        self._context = context or tls_context(authority, certificate_path, key_path)
        self._kept = threading.local()
        self._open: weakref.WeakSet[http.client.HTTPSConnection] = weakref.WeakSet()
        self._lock = threading.Lock()

    def call(self, method: str, /, **parameters: Any) -> Any:
        """The method's result. Raises the agent's error, or Unreachable when it does not answer."""
        return self.request(method, parameters)

    def request(self, method: str, parameters: Mapping[str, Any], timeout: Optional[float] = None) -> Any:
        """As `call`, with another time-out than the client's."""
        try:
            return self._request(method, parameters, timeout)
        except (NotFound, InvalidSpec) as error:
            raise _too_old(error, method, self.place) from None

    def _request(self, method: str, parameters: Mapping[str, Any], timeout: Optional[float]) -> Any:
        body, seconds = encode_request(method, parameters), self._timeout if timeout is None else timeout
        connection: Optional[http.client.HTTPSConnection] = getattr(self._kept, "connection", None)
        if connection is not None:
            try:
                return self._exchange(connection, body, seconds)
            except (OSError, http.client.HTTPException) as error:
                if method in NOT_IDEMPOTENT or not isinstance(error, _CLOSED):
                    raise _unreachable(self.place, error) from None
        try:
            return self._exchange(self._connect(seconds), body, seconds)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.place, error) from None

    def close(self) -> None:
        """Close the connections of all threads; a later call opens a new one."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            connection.close()

    @staticmethod
    def peek(address: str, port: int, fingerprint: Optional[str] = None, timeout: float = TIMEOUT) -> FirstContact:
        """The first contact with a free server; see there. Raises Unreachable, and Conflict when it has another fingerprint."""
        contact = FirstContact(address, port, timeout)
        try:
            if fingerprint is not None:
                contact.require(fingerprint)
        except DomusError:
            contact.close()
            raise
        return contact

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(self._address, self._port, timeout=timeout, context=self._context)
        try:
            connection.connect()
            _check_identity(connection.sock.getpeercert() or {}, self._server_id, self.place)
        except BaseException:
            connection.close()
            raise
        self._kept.connection = connection
        with self._lock:
            self._open.add(connection)
        return connection

    def _exchange(self, connection: http.client.HTTPSConnection, body: bytes, timeout: float) -> Any:
        """One call over the connection, which is forgotten unless it is good for another."""
        try:
            answer = _exchange(connection, body, timeout)
        except BaseException:
            connection.close()
            self._kept.connection = None
            raise
        if connection.sock is None:
            self._kept.connection = None
        return decode_answer(answer)


@dataclasses.dataclass(frozen=True)
class Shown:
    """A server's certificate: whose it is, its serial number (hexadecimal), and when it ends (seconds since 1970)."""

    server_id: str
    serial: str
    ends_at: float


def who_answers(address: str, port: int, authority: str, certificate_path: str, key_path: str, timeout: float = TIMEOUT) -> Shown:
    """The certificate of this authority that a server shows there.

    Raises Unreachable: nobody answers, or with another certificate.
    """
    place = f"agent {address}:{port}"
    connection = http.client.HTTPSConnection(address, port, timeout=timeout, context=tls_context(authority, certificate_path, key_path))
    try:
        connection.connect()
        shown: Mapping[str, Any] = connection.sock.getpeercert() or {}
    except OSError as error:
        raise _unreachable(place, error) from None
    finally:
        connection.close()
    prefix = server_urn("")
    ids = [name[len(prefix) :] for name in _uris(shown) if name.startswith(prefix)]
    if len(ids) != 1:
        raise Unreachable("its certificate is not that of a server", object=place, field="certificate", remedy="Is it a Domus agent that listens there?")
    return Shown(ids[0], format(int(str(shown["serialNumber"]), 16), "x"), ssl.cert_time_to_seconds(str(shown["notAfter"])))


class FirstContact:
    """One TLS connection to a server nobody has a certificate of: nothing is sent before its fingerprint was compared."""

    def __init__(self, address: str, port: int, timeout: float = TIMEOUT) -> None:
        self.place = f"agent {address}:{port}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._connection, self._timeout, self._trusted = http.client.HTTPSConnection(address, port, timeout=timeout, context=context), timeout, False
        try:
            self._connection.connect()
        except OSError as error:
            self._connection.close()
            raise _unreachable(self.place, error) from None
        self._connection.auto_open = 0  # what was compared is this connection, not the next one
        #: the certificate that was shown (DER), which nobody has checked yet, and its SHA-256, hexadecimal
        self.certificate = self._connection.sock.getpeercert(binary_form=True) or b""
        self.fingerprint = hashlib.sha256(self.certificate).hexdigest()

    def require(self, fingerprint: str) -> None:
        """Trust the server if it has this fingerprint. Raises Conflict if it has another one."""
        expected = re.sub(r"[:\s]", "", fingerprint).lower()
        if not hmac.compare_digest(expected.encode(), self.fingerprint.encode()):
            self.close()
            raise Conflict(
                "another server answers: its certificate has not the expected fingerprint; nothing was sent",
                object=self.place,
                field="fingerprint",
                value=self.fingerprint,
                remedy="Compare it with what `domus-agent status` shows on the server; is the address right?",
            )
        self._trusted = True

    def call(self, method: str, /, **parameters: Any) -> Any:
        """The method's result. Raises the agent's error, Unreachable, and Conflict unless the fingerprint was compared before."""
        if not self._trusted:
            raise Conflict("its fingerprint was not compared yet", object=self.place, remedy="Call require first")
        return self._call(method, parameters)

    def greet(self) -> dict[str, Any]:
        """What a server says of itself to anybody, which is not to be trusted. Raises the agent's error, Unreachable."""
        return dict(self._call("hello", {}))

    def _call(self, method: str, parameters: Mapping[str, Any]) -> Any:
        try:
            return decode_answer(_exchange(self._connection, encode_request(method, parameters), self._timeout))
        except (NotFound, InvalidSpec) as error:
            raise _too_old(error, method, self.place) from None
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.place, error) from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> FirstContact:
        return self

    def __exit__(self, *dummy: Any) -> None:
        self.close()


def _too_old(error: DomusError, method: str, place: str) -> DomusError:
    """The agent's error, or that its agent is older than what calls it: then it does not know the method, or what comes with it."""
    unknown = isinstance(error, NotFound) and error.message == NO_SUCH_METHOD
    if not unknown and error.message not in NEW_HERE:
        return error
    what = f"its agent does not know {f'the method {method}' if unknown else f'{error.field} of the method {method}'}: it is older than what calls it"
    return Unsupported(what, object=place, remedy="Upgrade the agent on that server; domus server list shows the versions")


def tls_context(authority: str, certificate_path: str, key_path: str) -> ssl.SSLContext:
    """TLS that trusts this CA only and shows this certificate. Raises NotFound or DriverError when they can not be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # who it is stands in the certificate's URI: addresses change
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(**{"cadata" if _PEM in authority else "cafile": authority})
        context.load_cert_chain(certificate_path, key_path)
    except FileNotFoundError:
        missing = f"{certificate_path}, {key_path}" if _PEM in authority else f"{authority}, {certificate_path}, {key_path}"
        raise NotFound("a certificate or key is not there", object=missing) from None
    except (OSError, ValueError) as error:
        raise DriverError(f"a certificate or key can not be used: {error}", object=certificate_path) from None
    return context


def _check_identity(certificate: Mapping[str, Any], server_id: str, place: str) -> None:
    names = _uris(certificate)
    if server_urn(server_id) not in names:
        raise Unreachable(
            "another server answers there",
            object=place,
            field="certificate",
            value=", ".join(names),
            remedy=f"Expected {server_urn(server_id)}; is the server's address right?",
        )


def _uris(certificate: Mapping[str, Any]) -> list[str]:
    return [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]


def _exchange(connection: http.client.HTTPSConnection, body: bytes, timeout: float) -> bytes:
    """Send one call and return the body of its answer. Raises OSError, HTTPException, and DomusError for another status than 200."""
    if connection.sock is not None:
        connection.sock.settimeout(timeout)
    connection.request("POST", PATH, body, {"Content-Type": "text/xml"})
    response = connection.getresponse()
    answer = response.read(MOST_BYTES + 1)
    if response.status != 200 or len(answer) > MOST_BYTES:
        raise _refusal(response.status, f"agent {connection.host}:{connection.port}")
    if response.length:
        raise ConnectionResetError("the connection ended within the answer")
    if not response.isclosed():
        connection.close()
    return answer


def _refusal(status: int, place: str) -> DomusError:
    if status in (200, 413):
        return TooLarge(f"the {'request' if status == 413 else 'answer'} is more than {MOST_BYTES >> 20} MiB", object=place, remedy="Split the document")
    if status in (401, 403):
        return Forbidden("does not accept this certificate", object=place, remedy="Which manager has the server? domus-agent status")
    return Unreachable(f"answered with HTTP status {status}", object=place, remedy="Is it a Domus agent that listens there? journalctl -u domus-agent")


def _unreachable(place: str, error: BaseException) -> Unreachable:
    """What is wrong with a connection, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            f"its certificate is not one of this manager's servers: {error.verify_message}",
            object=place,
            field="certificate",
            remedy="Is the server taken over by this manager? Are the clocks right? domus-agent status",
        )
    if isinstance(error, (ssl.SSLError, *_CLOSED)):
        why = f"TLS failed: {error.reason or error}" if isinstance(error, ssl.SSLError) else f"closed the connection: {error}"
        return Unreachable(
            why,
            object=place,
            remedy="Does the agent belong to this manager, and is our certificate valid and not revoked? domus-agent status; journalctl -u domus-agent",
        )
    if isinstance(error, TimeoutError):
        return Unreachable(
            "did not answer in time", object=place, remedy="Is the server up, and the port open? Does the agent run? systemctl status domus-agent"
        )
    told = str(error) or type(error).__name__
    return Unreachable(
        f"can not be reached: {told}", object=place, remedy="Is the address right, and the server up? Does the agent run? systemctl status domus-agent"
    )
