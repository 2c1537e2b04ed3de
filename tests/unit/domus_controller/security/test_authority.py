"""Each certificate is accepted where it should be and refused everywhere else, by real TLS."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import stat
import threading
import time
from pathlib import Path
from typing import Optional

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from domus_controller.security.authority import DAY, Authority, expires_at, identity, serial_of, uris_of
from domus_core.errors import DriverError, InvalidSpec

SERVER, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
Pair = tuple[Path, Path]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    made.ensure()
    return made


def request(key=None) -> tuple[str, str]:
    """A certificate request and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode(), private(key)


def private(key) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def files(directory: Path, name: str, certificate: str, key: str) -> Pair:
    paths = directory / f"{name}.pem", directory / f"{name}.key.pem"
    for path, text in zip(paths, (certificate, key)):
        path.write_text(text)
    return paths


def server_files(authority: Authority, directory: Path, name: str = "server", server: str = SERVER) -> Pair:
    csr, key = request()
    return files(directory, name, authority.issue_server(csr, server, ["host.example", "127.0.0.1"]).pem, key)


def connect(server: Pair, client_authority: Optional[str], client: Optional[Pair], server_authority: str, name: Optional[str] = None) -> list[str]:
    """Make a TLS connection and send a byte each way; return the URI names that the server sees. Raises ssl.SSLError."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(*server)
    if client_authority is not None:
        accepting.verify_mode = ssl.CERT_REQUIRED
        accepting.load_verify_locations(cadata=client_authority)
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = name is not None
    asking.load_verify_locations(cadata=server_authority)
    if client is not None:
        asking.load_cert_chain(*client)
    ours, theirs = socket.socketpair()
    seen: list[str] = []
    problems: list[Exception] = []

    def serve() -> None:
        try:
            with accepting.wrap_socket(theirs, server_side=True) as connection:
                found = connection.getpeercert() if client_authority else {}
                seen.extend(value for kind, value in (found or {}).get("subjectAltName", ()) if kind == "URI")
                connection.sendall(connection.recv(1))
        except (OSError, ssl.SSLError) as error:
            problems.append(error)
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(ours, server_hostname=name) as connection:
            connection.sendall(b"x")
            if connection.recv(1) != b"x":
                raise ssl.SSLError("the server closed the connection")
    except OSError as error:
        ours.close()
        raise error if isinstance(error, ssl.SSLError) else ssl.SSLError(str(error)) from error
    finally:
        thread.join()
    return seen


def test_everybody_is_who_their_certificate_says(authority: Authority, tmp_path: Path) -> None:
    agent = server_files(authority, tmp_path)
    servers = authority.servers_ca_pem
    assert connect(agent, servers, authority.issue_manager("m1"), servers) == ["urn:domus:manager:m1"]
    certificate, key, dummy, dummy = authority.issue_job("j1", [SERVER, OTHER], 60)
    job = files(tmp_path, "job", certificate, key)
    assert connect(agent, servers, job, servers) == ["urn:domus:job:j1", f"urn:domus:for:{SERVER}", f"urn:domus:for:{OTHER}"]
    web = authority.issue_web(["manager.example", "127.0.0.1", "::1"])
    for name in ("manager.example", "127.0.0.1", "::1"):
        assert connect(web, servers, agent, authority.web_ca_pem, name) == [f"urn:domus:server:{SERVER}"]
    assert uris_of(agent[0].read_text()) == [f"urn:domus:server:{SERVER}"] and identity(agent[0].read_text(), "server") == SERVER


def test_no_certificate_of_another_authority_is_accepted(authority: Authority, tmp_path: Path) -> None:
    agent, servers = server_files(authority, tmp_path), authority.servers_ca_pem
    csr, key = request()
    person = files(tmp_path, "person", authority.issue_person(csr, "ann").pem, key)
    stranger = Authority(tmp_path / "stranger")
    stranger.ensure()
    manager = authority.issue_manager("m1")
    for client in (None, person, authority.issue_web(["a.example"]), stranger.issue_manager("m1"), server_files(stranger, tmp_path, "theirs")):
        with pytest.raises(ssl.SSLError):
            connect(agent, servers, client, servers)
    for trusted in (authority.web_ca_pem, authority.people_ca_pem, stranger.servers_ca_pem):
        with pytest.raises(ssl.SSLError):
            connect(agent, servers, manager, trusted)
    connect(agent, authority.people_ca_pem, person, servers)


def test_a_clients_certificate_is_no_servers_and_no_authority(authority: Authority, tmp_path: Path) -> None:
    servers, manager = authority.servers_ca_pem, authority.issue_manager("m1")
    with pytest.raises(ssl.SSLError):
        connect(manager, servers, manager, servers)
    web = authority.issue_web(["a.example"])
    with pytest.raises(ssl.SSLError):
        connect(server_files(authority, tmp_path), authority.web_ca_pem, web, servers)
    with pytest.raises(ssl.SSLError):
        connect(web, None, None, authority.web_ca_pem, "b.example")
    chained = forged_by(manager, tmp_path)
    with pytest.raises(ssl.SSLError):
        connect(server_files(authority, tmp_path), servers, chained, servers)


def forged_by(signer: Pair, directory: Path) -> Pair:
    """What somebody with an ordinary certificate would sign."""
    issuer = x509.load_pem_x509_certificate(signer[0].read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer.subject).public_key(key.public_key())
    builder = builder.serial_number(5).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:domus:manager:m1")]), critical=True)
    made = builder.sign(serialization.load_pem_private_key(signer[1].read_bytes(), None), hashes.SHA256())
    return files(directory, "forged", made.public_bytes(serialization.Encoding.PEM).decode() + signer[0].read_text(), private(key))


def test_an_expired_certificate_is_refused_and_a_slow_clock_is_not(authority: Authority, tmp_path: Path) -> None:
    agent, servers = server_files(authority, tmp_path), authority.servers_ca_pem

    def job_of(offset: float, seconds: float) -> Pair:
        shifted = Authority(authority.directory, lambda: time.time() + offset)
        certificate, key, serial, not_after = shifted.issue_job("j", [SERVER], seconds)
        assert serial == serial_of(certificate) and not_after == expires_at(certificate)
        return files(tmp_path, "job", certificate, key)

    with pytest.raises(ssl.SSLError):
        connect(agent, servers, job_of(-120, 60), servers)
    with pytest.raises(ssl.SSLError):
        connect(agent, servers, job_of(7200, 60), servers)
    assert connect(agent, servers, job_of(3000, 60), servers)


def test_of_a_request_only_the_key_counts(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:domus:manager:m1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    issued = authority.issue_server(csr, SERVER, [])
    made = x509.load_pem_x509_certificate(issued.pem.encode())
    assert uris_of(issued.pem) == [f"urn:domus:server:{SERVER}"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert issued.not_after - time.time() == pytest.approx(365 * DAY, abs=60)


def test_bad_requests_and_names_are_refused(authority: Authority) -> None:
    good = request()[0]
    lines = good.splitlines()
    middle = len(lines) // 2
    broken = "\n".join([*lines[:middle], lines[middle][::-1], *lines[middle + 1 :]])
    for bad in ("", "x", broken, request(rsa.generate_private_key(65537, 2048))[0], request(ec.generate_private_key(ec.SECP384R1()))[0], "\ud800"):
        with pytest.raises(InvalidSpec):
            authority.issue_server(bad, SERVER, [])
    with pytest.raises(InvalidSpec):
        authority.issue_server(good, SERVER, ["a" * 70 + ".example"])
    with pytest.raises(InvalidSpec):
        authority.issue_web([])
    with pytest.raises(InvalidSpec):
        expires_at("x")


def test_two_identities_in_one_certificate_count_as_none(authority: Authority) -> None:
    certificate = authority.issue_job("j", [SERVER, OTHER], 60)[0]
    assert identity(certificate, "job") == "j" and identity(certificate, "for") is None and identity(certificate, "server") is None


def test_keys_are_private_and_made_once(authority: Authority) -> None:
    before = {path.name: path.read_bytes() for path in authority.directory.iterdir()}
    authority.ensure()
    assert {path.name: path.read_bytes() for path in authority.directory.iterdir()} == before
    assert stat.S_IMODE(authority.directory.stat().st_mode) == 0o700
    authority.issue_manager("m1")
    authority.issue_web(["a.example"])
    keys = list(authority.directory.glob("*.key"))
    assert len(keys) == 6 and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)


def test_two_processes_that_start_at_once_make_one_authority(tmp_path: Path) -> None:
    found: list[str] = []

    def start() -> None:
        mine = Authority(tmp_path / "authority")
        mine.ensure()
        found.append(mine.servers_ca_pem)

    threads = [threading.Thread(target=start) for dummy in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1


def test_kept_certificates_are_made_anew_when_they_must_be(authority: Authority) -> None:
    certificate, key = authority.issue_web(["a.example"])
    first = certificate.read_text()
    assert authority.issue_web(["a.example"])[0].read_text() == first
    assert authority.issue_web(["a.example", "b.example"])[0].read_text() != first
    second = certificate.read_text()
    later = Authority(authority.directory, lambda: time.time() + 276 * DAY)
    assert authority.renewal_due(second) is False and later.renewal_due(second) is True
    assert later.issue_web(["a.example", "b.example"])[0].read_text() != second
    third = certificate.read_text()
    key.write_text("damaged")
    assert authority.issue_web(["a.example", "b.example"])[0].read_text() != third
    manager = authority.issue_manager("m1")[0].read_text()
    assert authority.issue_manager("m1")[0].read_text() == manager != authority.issue_manager("m2")[0].read_text()


def test_half_an_authority_and_an_expired_one_are_told(authority: Authority) -> None:
    with pytest.raises(DriverError, match="expired"):
        Authority(authority.directory, lambda: time.time() + 3651 * DAY).ensure()
    os.unlink(authority.directory / "servers.key")
    with pytest.raises(DriverError, match="missing"):
        authority.ensure()
    with pytest.raises(DriverError):
        authority.issue_manager("m1")
