"""Directories that are there anyway: of the server itself, or mounted by an administrator."""

from __future__ import annotations

from typing import Optional

from ..model.repository import RepositorySpec, is_shared
from .mounts import Mount
from .plugin import StoragePlugin


class LocalDirectory:
    """Storage that needs no attaching."""

    def source(self, spec: RepositorySpec) -> str:
        """Its directory."""
        return spec.path or ""

    def attach(self, spec: RepositorySpec) -> None:
        """It is there."""

    def attach_later(self, spec: RepositorySpec) -> None:
        """It is there."""

    def detach(self, spec: RepositorySpec, *, force: bool) -> None:
        """It stays."""

    def is_attached(self, spec: RepositorySpec, mounts: list[Mount]) -> Optional[bool]:
        """Nobody attaches it."""
        return None

    def not_for_ha(self, spec: RepositorySpec) -> Optional[str]:
        """Only what other servers see can be used there."""
        return None if is_shared(spec) else "only this server sees it"


_: type[StoragePlugin] = LocalDirectory
