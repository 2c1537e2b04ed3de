"""A server in memory: the driver's interface over the simulation."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

from ..driver import Target
from ..model.document import Site
from ..model.server import ServerState
from ..model.snapshot import Found, Snapshot
from ..model.vm_devices import CpuBaselineSpec
from ..planning.steps import Step
from .cpu_models import baseline_cpu
from .simulation import simulate

EMPTY = Snapshot(ServerState(virtualization="qemu"), {})


class FakeDriver:
    """Keeps one snapshot and changes it step by step; `taken` are the steps taken so far."""

    def __init__(self, snapshot: Snapshot = EMPTY) -> None:
        self.snapshot = snapshot
        self.taken: list[Step] = []
        self._lock = threading.RLock()

    @contextmanager
    def locked(self, changing: Iterable[Target], using: Iterable[Target], *, patience: float) -> Iterator[None]:
        """Hold everything: one apply at a time."""
        with self._lock:
            yield

    def read(self, site: Site) -> Snapshot:
        """The server as it is."""
        return self.snapshot

    def read_one(self, kind: str, key: str, *, addresses: bool = True) -> Optional[Found]:
        """One object as it is now, or None."""
        return self.snapshot.find(kind, key)

    def find_vm(self, name_or_uuid: str) -> Optional[Found]:
        """A VM by its name or UUID, or None."""
        named = self.snapshot.find("vm", name_or_uuid)
        return named or next((found for dummy, found in self.snapshot.all("vm") if found.state.uuid == name_or_uuid.lower()), None)

    def take_vm(self, name_or_uuid: str) -> Optional[Found]:
        """This server is in no pool."""
        return None

    def fingerprint(self, kind: str, key: str) -> str:
        """The fingerprint of an object as it is now; empty when there is none."""
        found = self.snapshot.find(kind, key)
        return found.fingerprint if found else ""

    def carry_out(self, step: Step, site: str) -> None:
        """Take one step."""
        with self._changing:
            self.snapshot = simulate(self.snapshot, step, site)
            self.taken.append(step)

    _changing = threading.Lock()

    def addresses(self, vm: str) -> tuple[str, ...]:
        """No guest runs here, so there are none."""
        return ()

    def baseline_cpu(self, cpus: Sequence[CpuBaselineSpec]) -> CpuBaselineSpec:
        """As libvirt would, of the models that are known here."""
        return baseline_cpu(cpus)

    def close(self) -> None:
        """Nothing to let go of."""
