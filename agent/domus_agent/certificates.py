"""Keys and certificates of this server. Imported only when one is made or checked: the library is large, an owned agent runs without it."""

from __future__ import annotations

import datetime
import re
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from domus_core.errors import InvalidSpec

YEARS = 20
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def self_signed(urn: str) -> tuple[str, str]:
    """A new key and a certificate for it that nobody has signed but itself; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = _name(), datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=365 * YEARS))
    certificate = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(urn)]), critical=False).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


def request(key_pem: str, urn: str) -> str:
    """A certificate signing request (PEM) for the key."""
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    builder = x509.CertificateSigningRequestBuilder(_name())
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(urn)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


def new_request() -> tuple[str, str]:
    """A new key and a signing request for it; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    made = x509.CertificateSigningRequestBuilder(_name()).sign(key, hashes.SHA256())
    return pem, made.public_bytes(serialization.Encoding.PEM).decode()


def check_signed(certificate_pem: str, authority_pem: str, urn: str) -> None:
    """Raise InvalidSpec unless the authority signed the certificate, it names the server and is valid now."""
    certificate = _checked(certificate_pem, authority_pem)
    if urn not in _uris(certificate):
        raise InvalidSpec("is not for this server", field="certificate", remedy=f"It must name {urn}")


def check_issued(certificate_pem: str, authority_pem: str, key_pem: str) -> None:
    """Raise InvalidSpec unless the authority signed the certificate, it is for this key and valid now."""
    certificate = _checked(certificate_pem, authority_pem)
    try:
        keys = [serialization.load_pem_private_key(key_pem.encode(), None).public_key(), certificate.public_key()]
        fits = len({_spki(key) for key in keys}) == 1
    except ValueError:
        fits = False
    if not fits:
        raise InvalidSpec("is not for this server's key", field="certificate", remedy="Sign the latest request")


def serial_of(certificate_pem: str) -> str:
    """The serial number of a certificate in hex, lower case, without leading zeros."""
    return f"{x509.load_pem_x509_certificate(certificate_pem.encode()).serial_number:x}"


def crl_number(crl_pem: str, authority_pem: str) -> int:
    """The number of a revocation list that the authority has signed. Raises InvalidSpec."""
    try:
        crl = x509.load_pem_x509_crl(crl_pem.encode())
        signer = x509.load_pem_x509_certificate(authority_pem.encode()).public_key()
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if isinstance(signer, ec.EllipticCurvePublicKey) and crl.is_signature_valid(signer):
            return int(number)
    except (ValueError, x509.ExtensionNotFound):
        pass
    raise InvalidSpec("is not a revocation list of this authority", field="crl")


def _checked(certificate_pem: str, authority_pem: str) -> x509.Certificate:
    """The certificate, if one of the authorities signed it and it is valid now. Raises InvalidSpec."""
    try:
        certificate, *authorities = (x509.load_pem_x509_certificate(text.encode()) for text in (certificate_pem, *_blocks(authority_pem)))
    except ValueError:
        raise InvalidSpec("is not a certificate (PEM)", field="certificate, authority") from None
    if not any(_has_signed(authority, certificate) for authority in authorities):
        raise InvalidSpec("is not signed by this authority", field="certificate")
    ends = certificate.not_valid_after_utc if hasattr(certificate, "not_valid_after_utc") else certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)
    if ends < datetime.datetime.now(datetime.timezone.utc):
        raise InvalidSpec("has ended already", field="certificate", remedy="Are the clocks of manager and server right?")
    return certificate


def _blocks(pem: str) -> list[str]:
    """The certificates in a text, each by itself: cryptography reads several at once from version 39 on only."""
    return _BLOCK.findall(pem) or [pem]


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    signer, algorithm = authority.public_key(), certificate.signature_hash_algorithm
    if not isinstance(signer, ec.EllipticCurvePublicKey) or algorithm is None:
        return False
    try:
        signer.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def _spki(key: Any) -> bytes:
    """A public key as bytes: before cryptography 40 equal keys do not compare so."""
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return list(names.get_values_for_type(x509.UniformResourceIdentifier))


def _name() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "domus-agent")])
