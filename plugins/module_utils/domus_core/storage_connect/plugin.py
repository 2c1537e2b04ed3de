"""What Domus needs of each kind of storage: a small interface."""

from __future__ import annotations

from typing import Optional, Protocol

from ..model.repository import RepositorySpec
from .mounts import Mount


class StoragePlugin(Protocol):
    """One kind of storage. Nothing here touches a file in a repository: that is reach.py's."""

    def source(self, spec: RepositorySpec) -> str:
        """What people call it: the directory, or server and export."""

    def attach(self, spec: RepositorySpec) -> None:
        """Have its directory there; again is fine. Raises DomusError."""

    def attach_later(self, spec: RepositorySpec) -> None:
        """The same without waiting for it: it was there before. Raises DomusError."""

    def detach(self, spec: RepositorySpec, *, force: bool) -> None:
        """Take its directory away, with the files in it; not being there is fine. Raises DomusError."""

    def is_attached(self, spec: RepositorySpec, mounts: list[Mount]) -> Optional[bool]:
        """Is its directory there? None for storage that is always there."""

    def not_for_ha(self, spec: RepositorySpec) -> Optional[str]:
        """Why VMs on it can not be restarted on another server, or None."""
