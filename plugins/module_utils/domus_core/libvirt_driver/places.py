"""Places and paths: `repository/folder/file` in documents, absolute paths in libvirt's XML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Optional

from ..errors import NotFound
from ..model.repository import RepositorySpec


class Places:
    """Translates between the two for the repositories known to a server."""

    def __init__(self, repositories: Mapping[str, RepositorySpec]) -> None:
        self.repositories = repositories
        longest_first = sorted(repositories.values(), key=lambda one: -len(one.path or ""))
        self._roots = [(f"{one.path}/", f"{one.name}/") for one in longest_first if one.path]

    def path(self, place: str) -> str:
        """The absolute path of a place. Raises NotFound when its repository is not known."""
        name, dummy, rest = place.partition("/")
        repository = self.repositories.get(name)
        if repository is None or not repository.path:
            raise NotFound("there is no repository of this name", field="repository", value=name)
        return os.path.join(repository.path, rest)

    def place(self, path: Optional[str]) -> Optional[str]:
        """The place of an absolute path; a path outside all repositories is given back as it is."""
        for root, name in self._roots:
            if path and path.startswith(root):
                return name + path[len(root) :]
        return path

    def in_folder(self, reference: str, folder: str) -> str:
        """The absolute path of `repository/file`, a file in one of the repository's folders. Raises NotFound."""
        name, dummy, rest = reference.partition("/")
        repository = self.repositories.get(name)
        return self.path(reference if repository is not None and repository.adopted else f"{name}/{folder}/{rest}")

    def reference(self, path: Optional[str], folder: str) -> Optional[str]:
        """`repository/file` for a path in one of the repository's folders; other paths as `place` gives them."""
        place = self.place(path)
        parts = (place or "").split("/")
        return f"{parts[0]}/{parts[2]}" if len(parts) == 3 and parts[0] and parts[1] == folder else place

    def directories(self) -> list[str]:
        """The directories of all repositories."""
        return [one.path for one in self.repositories.values() if one.path]
