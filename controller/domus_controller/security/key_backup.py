"""The manager's keys as one file under a passphrase: what a backup of the database leaves out, and a new machine needs.

It holds the authorities, the revocation list, the sealing key and the manager's id, to which its servers are bound. The passphrase makes a
key by scrypt (RFC 7914), with which the content is sealed (Fernet: AES-128-CBC with HMAC-SHA256).
"""

from __future__ import annotations

import base64
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from domus_core.errors import Conflict, DriverError, InvalidSpec, NotFound, Unauthorized

from . import sealing, succession
from .authority import AUTHORITIES, CRL, RENEWED, serial_of
from .files import alone, private_directory, told, write_private

FORMAT, VERSION = "domus-keys", 1
LEAST_PASSPHRASE = 12
# scrypt: 64 MiB and about 0.2 s for each try.
COST, BLOCK, PARALLEL = 1 << 16, 8, 1
LARGEST_FILE = 16 << 20
REQUIRED = tuple(f"{name}.{kind}" for name in AUTHORITIES for kind in ("crt", "key"))
OPTIONAL = (CRL, sealing.FILE, *(file for name in RENEWED for file in succession.names_of(name)))


def export_keys(directory: Path, manager_id: str, passphrase: str, path: Path) -> None:
    """Write the keys of the manager in `directory` to a file (0600) that must not be there. Raises InvalidSpec, Conflict, DriverError."""
    if len(passphrase) < LEAST_PASSPHRASE:
        raise InvalidSpec("is too short", object="passphrase", remedy=f"Take {LEAST_PASSPHRASE} characters or more: it protects all servers")
    if path.exists():
        raise Conflict("is there already", object=f"file {path}", remedy="Name a file that is not there")
    files = {name: text for name in (*REQUIRED, *OPTIONAL) if (text := _text(directory / name, name in REQUIRED)) is not None}
    salt = os.urandom(16)
    sealed = _fernet(passphrase, salt).encrypt(json.dumps({"manager": manager_id, "files": files}).encode())
    content = {"format": FORMAT, "version": VERSION, "salt": base64.b64encode(salt).decode(), "sealed": sealed.decode()}
    write_private(path, json.dumps(content, indent=1).encode() + b"\n")


def read_keys(path: Path, passphrase: str) -> dict[str, Any]:
    """What `export_keys` wrote: {manager, files}. Raises NotFound, DriverError (not such a file, damaged), Unauthorized (passphrase)."""
    label = f"file {path}"
    if not path.is_file():
        raise NotFound("is not there", object=label)
    try:
        with told(path), path.open("rb") as file:
            content = json.loads(file.read(LARGEST_FILE))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError
        salt, sealed = base64.b64decode(content["salt"], validate=True), str(content["sealed"]).encode()
    except (ValueError, KeyError, TypeError):
        raise DriverError("holds no keys of a manager", object=label, remedy="Choose a file that `domus-manager authority export` made") from None
    try:
        opened = json.loads(_fernet(passphrase, salt).decrypt(sealed))
    except InvalidToken:
        raise Unauthorized("the passphrase is wrong, or the file is damaged", object=label, remedy="Nothing was changed; try again") from None
    return {"manager": str(opened["manager"]), "files": dict(opened["files"])}


def import_keys(directory: Path, files: Mapping[str, str], *, replace: bool = False) -> Optional[Path]:
    """Put exported keys in place; return where other keys that were there are kept, None when there were none. The manager must not run.

    Raises Conflict when there are others, unless `replace`; then nothing has changed.
    """
    private_directory(directory)
    with alone(directory):
        others = [name for name in REQUIRED if name.endswith(".crt") and _differs(directory / name, files[name])]
        if others and not replace:
            raise Conflict(
                "has authorities of its own",
                object=f"manager {directory}",
                value=", ".join(others),
                remedy="Its servers would have to be taken over again; with --replace they are kept aside, and the imported ones take their place",
            )
        aside = _set_aside(directory, (*REQUIRED, *OPTIONAL)) if others else None
        for name in (*OPTIONAL, *REQUIRED):
            if name in files:
                write_private(directory / name, files[name].encode(), 0o644 if name.endswith(".crt") else 0o600)
    return aside


def _fernet(passphrase: str, salt: bytes) -> Fernet:
    key = Scrypt(salt=salt, length=32, n=COST, r=BLOCK, p=PARALLEL).derive(passphrase.encode())
    return Fernet(base64.urlsafe_b64encode(key))


def _text(path: Path, required: bool) -> Optional[str]:
    if not required and not path.exists():
        return None
    with told(path):
        return path.read_text(encoding="ascii")


def _differs(path: Path, text: str) -> bool:
    found = _text(path, False)
    return found is not None and serial_of(found) != serial_of(text)


def _set_aside(directory: Path, names: tuple[str, ...]) -> Path:
    at = datetime.datetime.now(datetime.timezone.utc)
    aside = directory / f"keys.before-import-{at:%Y%m%dT%H%M%S.%fZ}"
    private_directory(aside)
    with told(aside):
        for name in names:
            if (directory / name).exists():
                (directory / name).rename(aside / name)
    return aside
