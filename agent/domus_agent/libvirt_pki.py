"""The files from which libvirt and QEMU take their keys and certificates: where they belong, and who may read them."""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import os
import pwd
from collections.abc import Mapping
from typing import Any, Optional

# Whose group may read QEMU's key: the account that QEMU runs under, as distributions call it.
QEMU_ACCOUNTS = ("libvirt-qemu", "qemu")
BEFORE = ".before-domus"
PUBLIC, PRIVATE, OF_QEMU = 0o644, 0o600, 0o640


@dataclasses.dataclass(frozen=True)
class PkiFile:
    """One file below the PKI directory, the part of the credentials that it holds, and its mode; 0640 is for QEMU's group."""

    path: str
    content: str
    mode: int


FILES = (
    PkiFile("CA/cacert.pem", "authority", PUBLIC),
    PkiFile("CA/cacrl.pem", "crl", PUBLIC),
    PkiFile("libvirt/servercert.pem", "certificate", PUBLIC),
    PkiFile("libvirt/private/serverkey.pem", "key", PRIVATE),
    PkiFile("libvirt/clientcert.pem", "certificate", PUBLIC),
    PkiFile("libvirt/private/clientkey.pem", "key", PRIVATE),
    PkiFile("qemu/ca-cert.pem", "authority", PUBLIC),
    PkiFile("qemu/ca-crl.pem", "crl", PUBLIC),
    PkiFile("qemu/server-cert.pem", "qemu_certificate", PUBLIC),
    PkiFile("qemu/server-key.pem", "qemu_key", OF_QEMU),
    PkiFile("qemu/client-cert.pem", "qemu_certificate", PUBLIC),
    PkiFile("qemu/client-key.pem", "qemu_key", OF_QEMU),
)
DIRECTORIES = {"": 0o755, "CA": 0o755, "libvirt": 0o755, "libvirt/private": 0o700, "qemu": 0o750}


def write_files(directory: str, credentials: Mapping[str, Any], *, keep_others: bool) -> list[str]:
    """Make the files hold these credentials; return those that did not. What somebody else put there is kept beside. Raises OSError."""
    group = _qemu_group()
    for name, mode in DIRECTORIES.items():
        path = os.path.join(directory, name)
        if not os.path.isdir(path):
            os.makedirs(path, mode)
            if name == "qemu" and group is not None:
                os.chown(path, 0, group)
                os.chmod(path, mode)
    changed = []
    for one in FILES:
        path, text = os.path.join(directory, one.path), str(credentials[one.content])
        if _read(path) == text:
            continue
        if keep_others and os.path.exists(path) and not os.path.exists(path + BEFORE):
            os.rename(path, path + BEFORE)
        _write(path, text, one.mode, group)
        changed.append(one.path)
    return changed


def remove_files(directory: str) -> None:
    """Take the files away; what somebody else had put there comes back. Raises OSError."""
    for one in FILES:
        path = os.path.join(directory, one.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + BEFORE, path)


def _read(path: str) -> Optional[str]:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii", errors="replace") as file:
        return file.read()
    return None


def _write(path: str, text: str, mode: int, group: Optional[int]) -> None:
    """Replace a file as a whole; it never is there for more eyes than its mode says."""
    temporary = f"{path}.domus-new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as file:
        if mode == OF_QEMU and group is not None:
            os.fchown(file.fileno(), 0, group)
        os.fchmod(file.fileno(), PRIVATE if mode == OF_QEMU and group is None else mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _qemu_group() -> Optional[int]:
    """The group that QEMU runs under: on Debian that of kvm, on others its own; None where QEMU has no account."""
    for name in QEMU_ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_gid
    with contextlib.suppress(KeyError):
        return grp.getgrnam("kvm").gr_gid
    return None
