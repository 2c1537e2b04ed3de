"""A certificate authority for tests: as small as one can be, and able to issue what a real one never would."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class SmallAuthority:
    """One CA; what it issues is valid from yesterday for `days` days."""

    def __init__(self, name: str) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        self.pem = self._sign(self._name, self._key.public_key(), [(constraint, True)], 30)

    def issue(self, uris: list[str], days: float = 30) -> tuple[str, str]:
        """A certificate with these URIs and for 127.0.0.1, and its key; both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[Any] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self._issued(key.public_key(), names, days), pem.decode()

    def issue_host(self, organization: str, name: str, addresses: list[str], days: float = 30) -> tuple[str, str]:
        """A certificate for a host of these DNS names and IP addresses, for both ends of a connection, and its key; both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[Any] = [_host_name(address) for address in addresses]
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self._sign(subject, key.public_key(), [(x509.SubjectAlternativeName(names), False)], days), pem.decode()

    def sign(self, request: str, uri: str, days: float = 30) -> str:
        """A certificate for the key of a signing request (PEM)."""
        return self._issued(x509.load_pem_x509_csr(request.encode()).public_key(), [x509.UniformResourceIdentifier(uri)], days)

    def files(self, directory: Path, name: str, uris: list[str], days: float = 30) -> tuple[str, str]:
        """The paths of a new certificate and of its key."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, text in zip(paths, self.issue(uris, days)):
            path.write_text(text)
        return str(paths[0]), str(paths[1])

    def _issued(self, key: Any, names: list[Any], days: float) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        return self._sign(subject, key, [(x509.SubjectAlternativeName(names), False)], days)

    def _sign(self, subject: x509.Name, key: Any, extensions: list[tuple[Any, bool]], days: float) -> str:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - 10 * DAY).not_valid_after(now + days * DAY)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _host_name(address: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def serial_of(path: str) -> str:
    """The serial number of a certificate's file, hexadecimal."""
    return format(x509.load_pem_x509_certificate(Path(path).read_bytes()).serial_number, "x")
