"""What the engine needs of a server: the interface that the libvirt driver and the fake driver offer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Optional, Protocol

from .model.document import Site
from .model.snapshot import Found, Snapshot
from .model.vm_devices import CpuBaselineSpec
from .planning.steps import Step

Target = tuple[str, str]


class Driver(Protocol):
    """One server. Every method may raise DomusError; none changes anything but `carry_out` and `take_vm`."""

    def locked(self, changing: Iterable[Target], using: Iterable[Target], *, patience: float) -> AbstractContextManager[None]:
        """Hold the objects (kind, key): those to change alone, those to use together with others; Busy after `patience` seconds."""

    def read(self, site: Site) -> Snapshot:
        """The server as it is, with the files that the document names."""

    def read_one(self, kind: str, key: str, *, addresses: bool = True) -> Optional[Found]:
        """One object as it is now, or None; the IP addresses of a running VM, which take a while to find out, only on request."""

    def find_vm(self, name_or_uuid: str) -> Optional[Found]:
        """A VM by its name or UUID, as far as a verb needs it: run state and record, perhaps without its devices; or None."""

    def take_vm(self, name_or_uuid: str) -> Optional[Found]:
        """A VM that is not here, and whose server in the same pool is proven to be off, is this server's from now on; None: the pool knows of none.

        Raises Moved for a VM that another server has.
        """

    def fingerprint(self, kind: str, key: str) -> str:
        """The fingerprint of an object as it is now; empty when there is none."""

    def carry_out(self, step: Step, site: str) -> None:
        """Take one step. What could not be done live is left in the definition, and shows as a difference to what runs."""

    def addresses(self, vm: str) -> tuple[str, ...]:
        """The IP addresses that a running VM is known to have, best first."""

    def baseline_cpu(self, cpus: Sequence[CpuBaselineSpec]) -> CpuBaselineSpec:
        """The richest CPU that all of these offer a guest; Conflict when they have none in common, Unsupported where that is not to be known."""

    def close(self) -> None:
        """Let go of the server."""
