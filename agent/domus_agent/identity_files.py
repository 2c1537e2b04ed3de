"""The files of an agent's identity: written whole, so that a power cut leaves the old or the new ones, and read by commands beside the agent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import ssl
from collections.abc import Iterator
from typing import Any

from domus_core.errors import DriverError, NotFound
from domus_core.libvirt_driver.registry import write_atomically

from .config import VARIABLE
from .service import advice


class IdentityFiles:
    """The directory that holds them; it is made when it is not there."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def path(self, name: str) -> str:
        """Where a file is."""
        return os.path.join(self.directory, name)

    def read(self, name: str) -> str:
        """What is in it. Raises OSError."""
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def write(self, name: str, text: str) -> None:
        """Replace a file (0600) as a whole, also in the face of a power cut."""
        write_atomically(self.path(name), text.encode(), 0o600)
        self.sync()

    def sync(self) -> None:
        """Have the directory itself outlive a power cut."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self, name: str) -> None:
        """It may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path(name))


@contextlib.contextmanager
def alone(directory: str) -> Iterator[None]:
    """Only one process at a time makes the first identity of a server."""
    lock = os.open(f"{directory}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read_identity(directory: str) -> dict[str, Any]:
    """What the files of an agent's directory say, for a command on the server itself: server, manager, url, name, invitation.

    Raises NotFound before the agent's first start, DriverError when the files can not be read.
    """
    files = os.path.join(directory, "identity")
    try:
        with open(os.path.join(files, "identity.json"), encoding="utf-8") as file:
            told = {"manager": None, "url": None, "name": None, "invitation": None, **json.load(file)}
        if told["manager"] is None:
            with open(os.path.join(files, "certificate.pem"), encoding="utf-8") as file, open(os.path.join(files, "secret"), encoding="utf-8") as secret:
                told["invitation"] = f"{fingerprint_of(file.read())}:{secret.read().strip()}"
    except FileNotFoundError:
        raise NotFound(
            f"no agent has been set up in {directory}",
            remedy=f"Start it: {advice('start', 'domus-agent serve')}; if its settings are elsewhere, name them: {VARIABLE}=FILE",
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DriverError(f"can not be read: {error}", object=files, remedy="Ask as root") from None
    return told


def manager_context(identity: str) -> ssl.SSLContext:
    """TLS to the manager, from the files in an agent's directory `identity`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(os.path.join(identity, "callback_authority.pem"))
    context.load_cert_chain(os.path.join(identity, "certificate.pem"), os.path.join(identity, "key.pem"))
    return context


def fingerprint_of(certificate_pem: str) -> str:
    """SHA-256 of a certificate's DER, hexadecimal."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem)).hexdigest()
