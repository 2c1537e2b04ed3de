"""Agents for tests: the wire's TLS and messages, with operations that go as a test has written down."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Optional

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from domus_core.clients.wire import decode_request, encode_error, encode_result, server_urn
from domus_core.errors import DomusError

Status = dict[str, Any]


class Authority:
    """A CA whose certificates have a URI; files go into one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "servers")])
        self._write("ca", self._sign(self._name, self._key, x509.BasicConstraints(True, 0), critical=True), None)

    def issue(self, uri: str, name: str) -> tuple[str, str]:
        """The files of a certificate with this URI, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self._write(name, self._sign(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), key, names), key)
        return str(self.directory / f"{name}.pem"), str(self.directory / f"{name}.key")

    def _sign(self, subject: x509.Name, key: Any, extension: Any, critical: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        made = x509.CertificateBuilder(
            self._name, subject, key.public_key(), x509.random_serial_number(), now - datetime.timedelta(1), now + datetime.timedelta(1)
        )
        return made.add_extension(extension, critical).sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: Any) -> None:
        (self.directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        if key is not None:
            text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            (self.directory / f"{name}.key").write_bytes(text)


class FakeAgent:
    """An agent on a port of its own. `work(document)` gives the statuses that submit and then each status call answer, the last one again and again."""

    def __init__(self, authority: Authority, server_id: str, work: Callable[[Any], list[Status]]) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.operations: dict[str, list[Status]] = {}
        self.work, self.silent = work, 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(server_urn(server_id), f"agent-{server_id}"))
        context.load_verify_locations(authority.directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"agent": self}))
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, method: str, parameters: dict[str, Any]) -> Optional[Status]:
        """The answer of a method; None: the connection breaks off."""
        self.calls.append((method, parameters))
        operation = parameters["operation"]
        if method == "submit" and operation not in self.operations:
            self.operations[operation] = self.work(parameters["document"])
        if self.silent:
            self.silent -= 1
            return None
        states = self.operations[operation]
        return states.pop(0) if len(states) > 1 else states[0]

    def close(self) -> None:
        """Stop it."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    agent: FakeAgent
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *dummy: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer a call."""
        method, parameters = decode_request(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            result = self.agent.answer(method, parameters)
            text = b"" if result is None else encode_result(result)
        except DomusError as error:
            text = encode_error(error)
        if not text:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
