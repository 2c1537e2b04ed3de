"""Revocation lists (RFC 5280, section 5) as libvirt and QEMU read them."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# No certificate is good for longer: after that it needs not be listed any more.
LONGEST_SECONDS = 365 * 86400.0
# A peer's clock may be behind by this much.
SKEW = 3600.0
CRL = x509.CertificateRevocationList


def read(path: Path, signer: x509.Certificate) -> Optional[CRL]:
    """The list in a file, when there is one that this authority has signed."""
    key = signer.public_key()
    with contextlib.suppress(FileNotFoundError, ValueError):
        found = x509.load_pem_x509_crl(path.read_bytes())
        if isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key):
            return found
    return None


def extended(before: Optional[CRL], fresh: Sequence[str], signer: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: float) -> CRL:
    """A new list: what was revoked before and could be good still, and these serial numbers (hex).

    It is good as long as the authority: an overdue list would stop libvirt everywhere. Its number is the time, or higher than the one
    before, so that it grows also where an older list was restored.
    """
    builder = x509.CertificateRevocationListBuilder().issuer_name(signer.subject).last_update(moment(now - SKEW)).next_update(signer.not_valid_after_utc)
    for one in before or ():
        if one.revocation_date_utc.timestamp() > now - LONGEST_SECONDS - 2 * SKEW:
            builder = builder.add_revoked_certificate(one)
    for serial in dict.fromkeys(fresh):
        revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(moment(now - SKEW))
        builder = builder.add_revoked_certificate(revoked.build())
    next_number = max(int(now), 0 if before is None else number(before) + 1)
    return builder.add_extension(x509.CRLNumber(next_number), critical=False).sign(key, hashes.SHA256())


def number(crl: CRL) -> int:
    """Its number: that of a later list is higher."""
    return int(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)


def serials(crl: CRL) -> frozenset[str]:
    """The serial numbers (hex) that it revokes."""
    return frozenset(f"{one.serial_number:x}" for one in crl)


def text(crl: CRL) -> str:
    """The list as PEM."""
    return crl.public_bytes(serialization.Encoding.PEM).decode()


def moment(seconds: float) -> datetime.datetime:
    """A time in seconds since 1970, as certificates take it."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)
