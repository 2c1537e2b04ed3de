"""One authority follows another with an overlap: the coming one is believed beside the present one before it signs anything.

In one directory NAME.crt and NAME.key sign; NAME.next.crt and NAME.next.key wait for their turn; NAME.before.crt is believed until it ends.
Every order of files that a crash can leave is one that `complete` mends and that nobody is locked out by.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from cryptography import x509

from .files import told, write_private


def stem_of_next(name: str) -> str:
    """What the files of the coming authority are called, without their extension."""
    return f"{name}.next"


def names_of(name: str) -> tuple[str, ...]:
    """The files that an authority may have besides its own two."""
    return (f"{name}.next.crt", f"{name}.next.key", f"{name}.before.crt")


def coming(directory: Path, name: str) -> Optional[str]:
    """The certificate (PEM) of the authority that is to follow, None when there is none."""
    certificate, key = (directory / f"{stem_of_next(name)}.{kind}" for kind in ("crt", "key"))
    return _text(certificate) if key.exists() else None


def believed(directory: Path, name: str, now: float) -> str:
    """All certificates (PEM) of the authority that are to be believed: first the one that signs, then the others that have not ended."""
    with told(directory / f"{name}.crt"):
        signs = (directory / f"{name}.crt").read_text(encoding="ascii")
    others = [_text(directory / f"{name}.{kind}.crt") for kind in ("next", "before")]
    return signs + "".join(text for text in dict.fromkeys(others) if text is not None and text != signs and _ends(text) > now)


def promote(directory: Path, name: str) -> None:
    """Let the coming authority sign from now on; the present one is believed until it ends, and its key is gone. Raises DriverError."""
    signs, before = directory / f"{name}.crt", directory / f"{name}.before.crt"
    with told(signs):
        write_private(before, signs.read_bytes(), 0o644)
        os.replace(directory / f"{stem_of_next(name)}.key", directory / f"{name}.key")
    complete(directory, name)


def complete(directory: Path, name: str) -> None:
    """Finish a promotion that was broken off between the key and the certificate."""
    certificate, key = (directory / f"{stem_of_next(name)}.{kind}" for kind in ("crt", "key"))
    with told(certificate):
        if certificate.exists() and not key.exists():
            os.replace(certificate, directory / f"{name}.crt")
            _told_file(directory, name).unlink(missing_ok=True)


def forget_ended(directory: Path, name: str, now: float) -> None:
    """Take away the authority before, once it has ended."""
    path = directory / f"{name}.before.crt"
    text = _text(path)
    if text is not None and _ends(text) <= now:
        with told(path):
            path.unlink(missing_ok=True)


def who_believes(directory: Path, name: str) -> set[str]:
    """The ids of the servers that were told of the coming authority and believe it."""
    text, next_one = _text(_told_file(directory, name)), coming(directory, name)
    try:
        noted = json.loads(text or "{}")
        return set(noted["servers"]) if next_one is not None and noted["serial"] == _serial(next_one) else set()
    except (ValueError, KeyError, TypeError):
        return set()


def note_who_believes(directory: Path, name: str, servers: Iterable[str]) -> None:
    """Write down who believes the coming authority: a manager that is restarted need not ask them again. Raises DriverError."""
    next_one = coming(directory, name)
    if next_one is not None:
        write_private(_told_file(directory, name), json.dumps({"serial": _serial(next_one), "servers": sorted(servers)}).encode())


def _told_file(directory: Path, name: str) -> Path:
    return directory / f"{stem_of_next(name)}.told"


def _text(path: Path) -> Optional[str]:
    if not path.exists():
        return None
    with told(path):
        return path.read_text(encoding="ascii")


def _ends(pem: str) -> float:
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()


def _serial(pem: str) -> str:
    return f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"
