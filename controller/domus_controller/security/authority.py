"""The manager's certificate authorities: one for servers (and those who talk to them), one for libvirt, one for the web, one for people.

Who a certificate is for is in its URI names: `urn:domus:server:<uuid>`, `urn:domus:manager:<id>`, `urn:domus:job:<id>` with one
`urn:domus:for:<server uuid>` for each server the job may talk to, `urn:domus:owner:<manager id>` with that of a server. libvirt looks at
the subject instead: `domus_core.clients.wire.libvirt_subjects`. Keys are EC P-256 (RFC 5480), certificates follow RFC 5280.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Callable, Optional

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from domus_core.errors import DriverError, InvalidSpec

from . import revocation, succession
from .files import alone, private_directory, told, write_private

DAY = 86400.0
AUTHORITY_SECONDS = 3650 * DAY
CERTIFICATE_SECONDS = revocation.LONGEST_SECONDS
# A certificate is renewed when it has less than this left.
RENEWAL_SECONDS = 90 * DAY
LEAST_SECONDS = 60.0
SERVERS, LIBVIRT, WEB, PEOPLE = "servers", "libvirt", "web", "people"
AUTHORITIES = (SERVERS, LIBVIRT, WEB, PEOPLE)
# Those that the manager can have followed by another without anybody's help.
RENEWED = (SERVERS, PEOPLE)
# The revocation list of what the authority for libvirt has signed.
CRL = "libvirt.crl"
QEMU_UNIT = "QEMU"
OWNER_URN, PERSON_URN = "urn:domus:owner:", "urn:domus:person:"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclasses.dataclass(frozen=True)
class Issued:
    """A certificate: PEM text, serial number in hex, end of validity in seconds since 1970."""

    pem: str
    serial: str
    not_after: float


class Authority:
    """The authorities whose keys and certificates are in `directory` (keys 0600)."""

    def __init__(self, directory: Path | str, clock: Callable[[], float] = time.time) -> None:
        self.directory = Path(directory)
        self._clock = clock

    def ensure(self) -> None:
        """Make each authority that is not there. Raises DriverError when only half of one is there, or it has expired."""
        private_directory(self.directory)
        with alone(self.directory):
            for name in AUTHORITIES:
                succession.complete(self.directory, name)
                present = [path.exists() for path in self._files(name)]
                if not any(present):
                    self._make(name)
                elif not all(present):
                    raise DriverError(
                        "key or certificate is missing", object=f"authority {name}", value=str(self.directory), remedy="Restore both files from a backup"
                    )
                elif expires_at(self._certificate(name)) <= self._clock():
                    raise DriverError("has expired", object=f"authority {name}", remedy="Move both files away and take the servers over again")

    @property
    def servers_ca_pem(self) -> str:
        """The certificates that agents, the manager's client certificate and jobs are checked against: the first one signs."""
        return succession.believed(self.directory, SERVERS, self._clock())

    @property
    def libvirt_ca_pem(self) -> str:
        """The certificate that libvirt and QEMU of the servers check each other against; it has signed nothing else."""
        return self._certificate(LIBVIRT)

    @property
    def web_ca_pem(self) -> str:
        """The certificate that the manager's web address is checked against."""
        return self._certificate(WEB)

    @property
    def people_ca_pem(self) -> str:
        """The certificates that people's certificates are checked against; agents never accept those."""
        return succession.believed(self.directory, PEOPLE, self._clock())

    @property
    def servers_ca_path(self) -> Path:
        """The file with `servers_ca_pem`."""
        return self._files(SERVERS)[0]

    @property
    def web_ca_path(self) -> Path:
        """The file with `web_ca_pem`."""
        return self._files(WEB)[0]

    def issue_server(self, csr_pem: str, server_id: str, addresses: Iterable[str] = (), owner: Optional[str] = None) -> Issued:
        """A certificate of one year for an agent, which names the manager that owns it; of the request only the key counts. Raises InvalidSpec."""
        uris = [f"urn:domus:server:{server_id}", *([f"{OWNER_URN}{owner}"] if owner else [])]
        return self._issue(SERVERS, _requested_key(csr_pem), _subject(server_id), uris, addresses, (SERVER, CLIENT), CERTIFICATE_SECONDS)

    def issue_libvirt(self, csr_pem: str, server_id: str, pool: str, names: Iterable[str]) -> Issued:
        """A certificate of one year for the libvirt of a server: as a server under these names and addresses, as a client in its pool."""
        return self._issue(LIBVIRT, _requested_key(csr_pem), _subject(server_id, pool), [], names, (SERVER, CLIENT), CERTIFICATE_SECONDS)

    def issue_qemu(self, csr_pem: str, server_id: str, pool: str, names: Iterable[str]) -> Issued:
        """The same for its QEMU, whose key a guest that broke out could read: with another subject, so that no libvirt accepts it."""
        return self._issue(LIBVIRT, _requested_key(csr_pem), _subject(server_id, QEMU_UNIT, pool), [], names, (SERVER, CLIENT), CERTIFICATE_SECONDS)

    def revoke_libvirt(self, serials: Iterable[str]) -> None:
        """Add certificates (serial numbers in hex) to libvirt's revocation list, which is kept beside the keys."""
        with alone(self.directory):
            self._crl(serials)

    def libvirt_crl(self) -> tuple[int, str]:
        """Number and text (PEM) of libvirt's revocation list; a later one has a higher number."""
        with alone(self.directory):
            return self._crl(())

    def _crl(self, serials: Iterable[str]) -> tuple[int, str]:
        path, signer = self.directory / CRL, x509.load_pem_x509_certificate(self._certificate(LIBVIRT).encode())
        known = revocation.read(path, signer)
        fresh = [serial for serial in serials if known is None or serial not in revocation.serials(known)]
        if known is None or fresh:
            known = revocation.extended(known, fresh, signer, self._signing_key(LIBVIRT), self._clock())
            write_private(path, revocation.text(known).encode(), 0o644)
        return revocation.number(known), revocation.text(known)

    def issue_manager(self, manager_id: str) -> tuple[Path, Path]:
        """The files (certificate, key) of the manager as the agents' client; made anew when they are missing, another's, or about to expire."""
        return self._kept("manager", SERVERS, manager_id, [f"urn:domus:manager:{manager_id}"], (), (CLIENT,))

    def issue_web(self, names: Sequence[str]) -> tuple[Path, Path]:
        """The files (certificate, key) of the web address for these host names and IP addresses; made anew as `issue_manager` says."""
        if not names:
            raise InvalidSpec("is empty", object="web certificate", field="names", remedy="Name the host at least")
        return self._kept("web-server", WEB, names[0], [], names, (SERVER,))

    def issue_job(self, job_id: str, server_ids: Iterable[str], seconds: float) -> tuple[str, str, str, float]:
        """A certificate and key (PEM) for one job on these servers, its serial number and end; the key is kept nowhere here."""
        key = ec.generate_private_key(ec.SECP256R1())
        uris = [f"urn:domus:job:{job_id}", *(f"urn:domus:for:{server}" for server in server_ids)]
        issued = self._issue(SERVERS, key.public_key(), _subject(job_id), uris, (), (CLIENT,), seconds)
        return issued.pem, _key_text(key).decode(), issued.serial, issued.not_after

    def issue_person(self, csr_pem: str, name: str) -> Issued:
        """A certificate of one year for a person; of the request only the key counts. Raises InvalidSpec."""
        return self._issue(PEOPLE, _requested_key(csr_pem), _subject(name), [f"{PERSON_URN}{urllib.parse.quote(name)}"], (), (CLIENT,), CERTIFICATE_SECONDS)

    def expires_at(self, name: str) -> float:
        """The end of an authority, in seconds since 1970: what it has signed ends with it."""
        return expires_at(self._certificate(name))

    def coming(self, name: str) -> Optional[str]:
        """The certificate of the authority that is to follow; None when there is none."""
        return succession.coming(self.directory, name)

    def prepare(self, name: str) -> None:
        """Make the authority that is to follow, if it is not there: believed from now on, it signs nothing yet. Raises DriverError."""
        with alone(self.directory):
            if succession.coming(self.directory, name) is None:
                self._make(name, succession.stem_of_next(name))

    def promote(self, name: str) -> None:
        """Let the authority that is to follow sign from now on; whoever is to believe it must do so already. Raises DriverError."""
        with alone(self.directory):
            if succession.coming(self.directory, name) is not None:
                succession.promote(self.directory, name)

    def renewal_due(self, pem: str) -> bool:
        """Has the certificate less than 90 days left (or none)?"""
        return expires_at(pem) - self._clock() < RENEWAL_SECONDS

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def _certificate(self, name: str) -> str:
        path = self._files(name)[0]
        with told(path):
            return path.read_text(encoding="ascii")

    def _make(self, name: str, stem: str = "") -> None:
        certificate_path, key_path = self._files(stem or name)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"Domus {name} authority")
        builder = self._builder(subject, subject, key.public_key(), AUTHORITY_SECONDS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(authority=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        made = builder.sign(key, hashes.SHA256())
        write_private(key_path, _key_text(key))
        write_private(certificate_path, made.public_bytes(serialization.Encoding.PEM), 0o644)

    def _kept(
        self, file: str, authority: str, subject: str, uris: list[str], names: Sequence[str], usages: tuple[x509.ObjectIdentifier, ...]
    ) -> tuple[Path, Path]:
        certificate_path, key_path = self._files(file)
        with alone(self.directory):
            if not self._still_good(certificate_path, key_path, authority, uris, names):
                key = ec.generate_private_key(ec.SECP256R1())
                issued = self._issue(authority, key.public_key(), _subject(subject), uris, names, usages, CERTIFICATE_SECONDS)
                write_private(key_path, _key_text(key))
                write_private(certificate_path, issued.pem.encode(), 0o644)
        return certificate_path, key_path

    def _still_good(self, certificate_path: Path, key_path: Path, authority: str, uris: list[str], names: Sequence[str]) -> bool:
        """Is what is there for the same names, of this authority, with its own key, and not about to expire?"""
        try:
            found = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            found.verify_directly_issued_by(x509.load_pem_x509_certificate(self._certificate(authority).encode()))
            same_names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == _alternative_names(uris, names)
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        text = certificate_path.read_text(encoding="ascii")
        # Another one would end with the authority, too.
        longest = expires_at(text) >= self.expires_at(authority) - DAY
        return same_names and key.public_key() == found.public_key() and (longest or not self.renewal_due(text))

    def _issue(
        self,
        authority: str,
        key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        uris: list[str],
        names: Iterable[str],
        usages: tuple[x509.ObjectIdentifier, ...],
        seconds: float,
    ) -> Issued:
        signer, signing_key = self._signer(authority)
        if authority in RENEWED:  # so that it is renewed in time by the authority that follows
            seconds = min(seconds, max(LEAST_SECONDS, signer.not_valid_after_utc.timestamp() - self._clock()))
        builder = self._builder(subject, signer.subject, key, seconds)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if authority != LIBVIRT:  # libvirt and QEMU ask a key usage for key encipherment, which RFC 8813 forbids to EC keys
            builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(_alternative_names(uris, names), critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        made = builder.sign(signing_key, hashes.SHA256())
        pem = made.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(pem, serial_of(pem), made.not_valid_after_utc.timestamp())

    def _builder(self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, seconds: float) -> x509.CertificateBuilder:
        now = self._clock()
        start, end = revocation.moment(now - revocation.SKEW), revocation.moment(now + seconds)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)

    def _signer(self, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Certificate and key of an authority, also in the moment in which another one follows: the key comes first."""
        key, next_one = self._signing_key(name), self._files(succession.stem_of_next(name))[0]
        signer = x509.load_pem_x509_certificate(self._certificate(name).encode())
        if signer.public_key() != key.public_key() and next_one.exists():
            signer = x509.load_pem_x509_certificate(next_one.read_bytes())
        return signer, key

    def _signing_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self._files(name)[1]
        with told(path):
            content = path.read_bytes()
        try:
            key = serialization.load_pem_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise DriverError("is not a key", object=f"file {path}", remedy="Restore it from a backup")
        return key


def serial_of(pem: str) -> str:
    """The serial number of a certificate in hex, lower case, without leading zeros. Raises InvalidSpec."""
    return f"{_loaded(pem).serial_number:x}"


def expires_at(pem: str) -> float:
    """The end of a certificate's validity, in seconds since 1970. Raises InvalidSpec."""
    return _loaded(pem).not_valid_after_utc.timestamp()


def uris_of(pem: str) -> list[str]:
    """The URI names of a certificate. Raises InvalidSpec."""
    try:
        names = _loaded(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return list(names.get_values_for_type(x509.UniformResourceIdentifier))


def identity(pem: str, kind: str) -> Optional[str]:
    """The id in a certificate's one `urn:domus:<kind>:` name; None when there is none, or several."""
    prefix = f"urn:domus:{kind}:"
    found = [uri[len(prefix) :] for uri in uris_of(pem) if uri.startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _loaded(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise InvalidSpec("is not a certificate", object="certificate", remedy="Expected PEM text") from None


def _requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key in a certificate request, whose sender has the private one. Raises InvalidSpec."""
    problem = "is not a certificate request"
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        if not request.is_signature_valid:
            problem = "is not signed by the key in it"
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return key
        else:
            problem = "has no EC P-256 key"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    raise InvalidSpec(problem, object="certificate request", remedy="Expected PEM text with an EC P-256 key")


def _subject(common_name: str, *units: str) -> x509.Name:
    """RFC 5280 allows a common name 64 characters; but for libvirt, whom a certificate is for is in the URI names."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Domus"), *attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _alternative_names(uris: list[str], names: Iterable[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(_host_name(name))
    return x509.SubjectAlternativeName(found)


def _host_name(name: str) -> x509.DNSName:
    try:
        return x509.DNSName(name.encode("idna").decode("ascii"))
    except (ValueError, UnicodeError):
        raise InvalidSpec("is neither a host name nor an IP address", object="certificate", field="name", value=name) from None


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
