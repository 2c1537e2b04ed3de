"""What a server knows of objects that libvirt does not keep: one small JSON file each, written atomically."""

from __future__ import annotations

import json
import os
from typing import Any, Optional

from ..errors import DriverError
from .tools import explain, make_folder


class Registry:
    """Files `<directory>/<kind>/<name>.json`. Names are checked before they come here."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def names(self, kind: str) -> list[str]:
        """The names of all objects of a kind."""
        try:
            entries = os.listdir(os.path.join(self.directory, kind))
        except FileNotFoundError:
            return []
        return sorted(entry[:-5] for entry in entries if entry.endswith(".json") and not entry.startswith("."))

    def read(self, kind: str, name: str) -> Optional[dict[str, Any]]:
        """What is kept of an object, or None. Raises DriverError when the file is damaged."""
        path = self._path(kind, name)
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise DriverError(f"{path} can not be read: {error}", object=f"{kind} {name}", remedy="Delete that file, and apply again") from None
        return data if isinstance(data, dict) else None

    def write(self, kind: str, name: str, data: dict[str, Any], mode: int = 0o644) -> None:
        """Keep an object in a file of this mode; after a crash either the old or the new is there. Raises NoCapacity on a full disk."""
        path = self._path(kind, name)
        try:
            make_folder(os.path.dirname(path), 0o755)
            write_atomically(path, json.dumps(data).encode(), mode)
        except OSError as error:
            raise explain(error, f"writing {path}", path).located(f"{kind} {name}") from None

    def remove(self, kind: str, name: str) -> None:
        """Forget an object; one that is not there is forgotten already."""
        try:
            os.unlink(self._path(kind, name))
        except FileNotFoundError:
            pass

    def _path(self, kind: str, name: str) -> str:
        return os.path.join(self.directory, kind, f"{name}.json")


def write_atomically(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new one. Raises OSError.

    The caller holds the lock of what the file is about, so the temporary file of a run that was killed is taken over.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
