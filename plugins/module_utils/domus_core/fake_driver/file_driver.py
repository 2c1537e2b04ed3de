"""A server in a JSON file: the fake driver for playbooks and tests without libvirt, kept from one run to the next."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from ..cancelling import require_not_cancelled
from ..driver import Target
from ..errors import Busy, InvalidSpec
from ..model.fields import given, make
from ..model.snapshot import Found, Snapshot, snapshot_as_dict, snapshot_from_dict
from .driver import EMPTY, FakeDriver

SCHEME = "fake://"
_RETRY = 0.05


def open_file_driver(uri: str) -> FileDriver:
    """Open the server in the file of `fake:///path.json`; a file that is not there yet is a server with nothing on it. Raises InvalidSpec."""
    path = uri[len(SCHEME) :]
    if not path.startswith("/") or not path.endswith(".json"):
        raise InvalidSpec("is not a file of a fake server", field="uri", value=uri, remedy="Write fake:///path/of/server.json")
    return FileDriver(path)


class FileDriver(FakeDriver):
    """Keeps its snapshot in a file, written once at the end of each apply that took a step."""

    def __init__(self, path: str) -> None:
        super().__init__(_load(path))
        self.path = path

    @contextmanager
    def locked(self, changing: Iterable[Target], using: Iterable[Target], *, patience: float) -> Iterator[None]:
        """Hold the file: one apply at a time, of all processes. Raises Busy."""
        with open(f"{self.path}.lock", "w", encoding="utf-8") as lock:
            _hold(lock, patience)
            self.snapshot, before = _load(self.path), len(self.taken)
            try:
                yield
            finally:
                if len(self.taken) > before:
                    self._save()

    def addresses(self, vm: str) -> tuple[str, ...]:
        """The first address that the DHCP of each of its networks gives out, once it runs."""
        found = self.snapshot.find("vm", vm)
        if found is None or found.running is None:
            return ()
        networks = [self.snapshot.find("network", nic.network) for nic in found.running.nics or () if nic.network]
        return tuple(network.spec.dhcp.start for network in networks if network and network.running and network.spec.dhcp)

    def _save(self) -> None:
        """Write the file, and read it again: what was wanted is now what is found, secrets only as digests."""
        objects = {kind: {key: _seen(found) for key, found in entries.items()} for kind, entries in self.snapshot.objects.items()}
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            json.dump(snapshot_as_dict(dataclasses.replace(self.snapshot, objects=objects)), file)
        os.replace(f"{self.path}.new", self.path)
        self.snapshot = _load(self.path)


def _seen(found: Found) -> Found:
    """An object as a server would show it: of a seed image that waits for a restart nobody can see what is in force."""
    if getattr(found.running, "cloud_init", None) == getattr(found.spec, "cloud_init", None):
        return found
    values = {name: value for name, value in given(found.running).items() if name != "cloud_init"} if found.running else {}
    return dataclasses.replace(found, running=make(type(found.spec), values) if found.running else None)


def _load(path: str) -> Snapshot:
    try:
        with open(path, encoding="utf-8") as file:
            return snapshot_from_dict(json.load(file))
    except FileNotFoundError:
        return EMPTY
    except ValueError as error:
        raise InvalidSpec(f"is not a snapshot: {error}", object=path) from None


def _hold(lock: IO[str], patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy("another apply holds this server", object="server", remedy="Apply again when it has ended") from None
            require_not_cancelled()
            time.sleep(_RETRY)
