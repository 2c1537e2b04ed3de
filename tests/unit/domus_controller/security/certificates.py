"""Certificates as nginx passes them on, after it has checked them."""

from __future__ import annotations

import datetime
import functools
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_KEY = ec.generate_private_key(ec.SECP256R1())


@functools.lru_cache(maxsize=64)
def certificate_pem(uris: tuple[str, ...], serial: int) -> str:
    """A certificate with these URI names and this serial number."""
    now = datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(_KEY.public_key()).serial_number(serial)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    if uris:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=False)
    return builder.sign(_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def certificate_headers(server: str, serial: int) -> dict[str, str]:
    """What nginx adds to a request that came with the certificate of a server."""
    pem = certificate_pem((f"urn:domus:server:{server}",), serial)
    return {"X-Client-Verify": "SUCCESS", "X-Client-Cert": urllib.parse.quote(pem)}


def person_headers(user: str, serial: int) -> dict[str, str]:
    """What nginx adds to a request that came with the certificate of a person."""
    pem = certificate_pem((f"urn:domus:person:{user}",), serial)
    return {"X-Client-Verify": "SUCCESS", "X-Client-Cert": urllib.parse.quote(pem)}
