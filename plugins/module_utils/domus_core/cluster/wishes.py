"""What somebody on this server has begun with an HA VM, told to the OCF agent in a file: that it is being stopped, or how it is to be migrated.

The files lie where a boot forgets them, and hold for a while only: whoever wrote one may have been killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from ..libvirt_driver.registry import write_atomically

STOPPING, MIGRATION = "stopping", "migration"


@dataclasses.dataclass(frozen=True)
class Migration:
    """How libvirt is to move a VM to the server `target`; `flags` are names of VIR_MIGRATE_..., `parameters` those of virDomainMigrateToURI3."""

    target: str
    uri: str
    flags: tuple[str, ...]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def stopping(folder: str, uuid: str, seconds: float) -> Iterator[None]:
    """While this lasts, `seconds` at most, a VM that is found to be off stays off: it is being stopped, and did not crash."""
    with _told(folder, uuid, STOPPING, {}, seconds):
        yield


@contextlib.contextmanager
def migrating(folder: str, uuid: str, migration: Migration, seconds: float) -> Iterator[None]:
    """While this lasts, `seconds` at most, a migration to that server is done so."""
    with _told(folder, uuid, MIGRATION, dataclasses.asdict(migration), seconds):
        yield


def is_stopping(folder: str, uuid: str) -> bool:
    """Is somebody stopping the VM?"""
    return _read(folder, uuid, STOPPING) is not None


def wanted_migration(folder: str, uuid: str, target: str) -> Optional[Migration]:
    """How somebody wants the VM to be moved to this server; None when nobody said."""
    told = _read(folder, uuid, MIGRATION)
    if told is None or told.get("target") != target:
        return None
    return Migration(target, str(told["uri"]), tuple(told["flags"]), told["parameters"])


@contextlib.contextmanager
def _told(folder: str, uuid: str, word: str, data: Mapping[str, Any], seconds: float) -> Iterator[None]:
    path = _path(folder, uuid, word)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    write_atomically(path, json.dumps({**data, "until": time.time() + seconds}).encode(), 0o600)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _read(folder: str, uuid: str, word: str) -> Optional[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(_path(folder, uuid, word), encoding="utf-8") as file:
        told = json.load(file)
        return dict(told) if told["until"] > time.time() else None
    return None


def _path(folder: str, uuid: str, word: str) -> str:
    return os.path.join(folder, f"{uuid}.{word}")
