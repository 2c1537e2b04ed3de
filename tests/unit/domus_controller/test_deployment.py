"""nginx takes the configuration and serves with it: a real run on a loopback port, before a backend that tells what it was sent."""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme
from domus_controller.deployment import PROBLEMS, WebServer, gunicorn_command, nginx_command, nginx_configuration


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers it was sent."""

    def do_GET(self) -> None:
        """Tell them."""
        body = json.dumps(dict(self.headers.items())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Read what was sent, and tell its size."""
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(size).encode())

    def log_message(self, *dummy: Any) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """A UNIX socket has none."""
        return ""


class Backend(socketserver.ThreadingUnixStreamServer):
    """What stands for gunicorn."""

    daemon_threads = True


class Front:
    """nginx with a backend, its own CA, and a CA of clients."""

    def __init__(self, directory: Path) -> None:
        self.authority, self.clients = trustme.CA(), trustme.CA()
        certificate = self.authority.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(str(directory / "web.pem"))
        certificate.private_key_pem.write_to_path(str(directory / "web.key"))
        self.clients.cert_pem.write_to_path(str(directory / "clients.pem"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        run = directory / "run with space"
        run.mkdir()
        user = "root root" if os.geteuid() == 0 else None
        web = WebServer(
            address="127.0.0.1",
            port=self.port,
            socket=str(run / "app.socket"),
            run_directory=str(run),
            certificate=str(directory / "web.pem"),
            key=str(directory / "web.key"),
            authorities=str(directory / "clients.pem"),
            user=user,
        )
        self.configuration = directory / "nginx.conf"
        self.configuration.write_text(nginx_configuration(web))
        self.backend = Backend(web.socket, Echo)
        threading.Thread(target=self.backend.serve_forever, daemon=True).start()
        self.process = subprocess.Popen(nginx_command(str(self.configuration)), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 10
        while not self.answers():
            assert time.monotonic() < deadline and self.process.poll() is None, "nginx does not start"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Does it listen?"""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def connection(self, client: trustme.LeafCert | None = None) -> http.client.HTTPSConnection:
        """A connection, with a client's certificate if there is one."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if client is not None:
            client.configure_cert(context)
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)

    def get(self, path: str = "/", headers: dict[str, str] | None = None, client: trustme.LeafCert | None = None) -> tuple[int, Any]:
        """Status and JSON body of a GET."""
        connection = self.connection(client)
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        data = json.loads(answer.read())
        connection.close()
        return answer.status, data

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.backend.shutdown()
        self.backend.server_close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    if not Path("/usr/sbin/nginx").exists():
        pytest.fail("nginx is missing: apt-get install nginx")
    made = Front(tmp_path_factory.mktemp("front"))
    yield made
    made.close()


def test_nginx_accepts_the_configuration(front: Front) -> None:
    answer = subprocess.run([*nginx_command(str(front.configuration)), "-t"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "warn" not in answer.stderr.replace("warning", ""), answer.stderr


def test_headers_about_the_client_can_not_be_forged(front: Front) -> None:
    forged = {"X-Client-Verify": "SUCCESS", "X-Client-Cert": "me", "X-Real-IP": "192.0.2.1", "X_Client_Verify": "SUCCESS", "X-Forwarded-For": "192.0.2.1"}
    status, headers = front.get(headers=forged)
    assert status == 200
    assert {name.lower(): value for name, value in headers.items() if name.lower().startswith(("x-", "x_"))} == {
        "x-client-verify": "NONE",
        "x-real-ip": "127.0.0.1",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
    }


def test_a_client_certificate_is_passed_on(front: Front) -> None:
    status, headers = front.get(client=front.clients.issue_cert("agent"))
    assert (status, headers["X-Client-Verify"]) == (200, "SUCCESS")
    assert headers["X-Client-Cert"].startswith("-----BEGIN%20CERTIFICATE-----")


def test_a_certificate_of_another_authority_is_refused(front: Front) -> None:
    status, problem = front.get(client=trustme.CA().issue_cert("agent"))
    assert (status, problem["code"]) == (400, "bad_request")


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(front: Front) -> None:
    connection = front.connection()
    connection.putrequest("POST", "/api/v1/apply")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (413, "application/problem+json")
    assert json.loads(answer.read())["code"] == "too_large"
    connection.close()


def test_a_large_body_passes(front: Front) -> None:
    connection = front.connection()
    connection.request("POST", "/api/v1/apply", body=b"x" * (3 << 20))
    assert connection.getresponse().read() == str(3 << 20).encode()
    connection.close()


def test_stalled_handshakes_stop_nobody(front: Front) -> None:
    stalled = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(200)]
    try:
        assert front.get()[0] == 200
    finally:
        for one in stalled:
            one.close()


def test_plain_http_is_told_so(front: Front) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (400, "bad_request")
    connection.close()


def test_old_tls_is_refused(front: Front) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", front.port)) as raw:
        context.wrap_socket(raw)


def test_http_2_is_offered(front: Front) -> None:
    context = ssl.create_default_context()
    front.authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", front.port)) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as stream:
        assert stream.selected_alpn_protocol() == "h2"


def test_a_missing_manager_is_a_problem_document(tmp_path: Path) -> None:
    front = Front(tmp_path)
    front.backend.shutdown()
    front.backend.server_close()
    try:
        status, problem = front.get()
        assert (status, problem["code"], problem["type"]) == (502, "unreachable", "urn:domus:error:unreachable")
    finally:
        front.close()


def test_every_path_of_nginx_lies_in_the_run_directory(front: Front) -> None:
    paths = [line.split('"')[1] for line in front.configuration.read_text().splitlines() if "_temp_path" in line or line.startswith("pid")]
    assert len(paths) == 6 and all("/run with space/" in path for path in paths)


def test_problems_have_no_quote_that_ends_nginx_text() -> None:
    assert not any("'" in detail or "$" in detail for _, _, _, detail in PROBLEMS)


def test_gunicorn_is_one_process_behind_a_socket_without_a_control_socket() -> None:
    command = gunicorn_command("/run/domus/app.socket", "/run/domus")
    assert {"--workers=1", "--worker-class=gthread", "--bind=unix:/run/domus/app.socket", "--no-control-socket", "--umask=0077"} <= set(command)
    assert subprocess.run([*command[:-1], "--check-config", "flask:Flask('x')"], capture_output=True).returncode == 0
