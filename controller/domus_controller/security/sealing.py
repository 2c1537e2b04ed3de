"""Sealed secrets: encrypted with a key that is in a file of its own, outside the database and its backups."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from domus_core.errors import DriverError

from .files import alone, private_directory, told, write_private

FILE = "sealing.key"


class Sealing:
    """Seals and opens (Fernet: AES-128-CBC with HMAC-SHA256) with the key in `directory`, which is made when it is not there."""

    def __init__(self, directory: Path) -> None:
        self._path = Path(directory) / FILE
        private_directory(self._path.parent)
        with alone(self._path.parent):
            if not self._path.exists():
                write_private(self._path, Fernet.generate_key())
        try:
            with told(self._path):
                self._fernet = Fernet(self._path.read_bytes())
        except ValueError:
            raise DriverError("is not a key", object=f"file {self._path}", remedy="Restore it from a backup; without it, what was sealed is lost") from None

    def seal(self, content: bytes) -> bytes:
        """What `open` makes the content of again, and nothing else can."""
        return self._fernet.encrypt(content)

    def open(self, sealed: bytes) -> bytes:
        """The content. Raises DriverError when it was sealed with another key or has been changed."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise DriverError("can not be opened", object="sealed secret", remedy=f"It was sealed with another key than {self._path}, or is damaged") from None
