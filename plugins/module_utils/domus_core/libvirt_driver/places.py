"""Places and paths: `repository/folder/file` in documents, absolute paths in libvirt's XML."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Optional

from ..errors import NotFound
from ..model.repository import RepositorySpec, directory_of, is_shared
from ..storage_connect.reach import NotAnswering
from ..storage_connect.storage import Storage


class Places:
    """Translates between the two for the repositories known to a server; `uuids` are those of the shared ones, by name.

    Files are reached through it: those of a repository whose server is gone raise NotAnswering instead of hanging.
    """

    def __init__(self, repositories: Mapping[str, RepositorySpec], storage: Optional[Storage] = None, uuids: Optional[Mapping[str, str]] = None) -> None:
        self.repositories = repositories
        self.uuids = uuids or {}
        self._storage = storage or Storage()
        longest_first = sorted(repositories.values(), key=lambda one: -len(directory_of(one) or ""))
        self._roots = [(f"{directory_of(one)}/", one) for one in longest_first if directory_of(one)]
        self._real: Optional[list[str]] = None

    def path(self, place: str) -> str:
        """The absolute path of a place. Raises NotFound when its repository is not known."""
        name, dummy, rest = place.partition("/")
        repository = self.repositories.get(name)
        directory = directory_of(repository) if repository is not None else None
        if not directory:
            raise NotFound("there is no repository of this name", field="repository", value=name)
        return os.path.join(directory, rest)

    def place(self, path: Optional[str]) -> Optional[str]:
        """The place of an absolute path; a path outside all repositories is given back as it is."""
        for root, repository in self._roots:
            if path and path.startswith(root):
                return f"{repository.name}/{path[len(root) :]}"
        return path

    def holding(self, path: Optional[str]) -> Optional[RepositorySpec]:
        """The repository that an absolute path lies in, or None."""
        return next((repository for root, repository in self._roots if path and path.startswith(root)), None)

    @property
    def may_hang(self) -> bool:
        """Is there a repository whose files may be out of reach?"""
        return any(is_shared(repository) for repository in self.repositories.values())

    def reach(self, path: str, call: Callable[[], Any]) -> Any:
        """What a short call that touches the file at this path returns. Raises what it raises, and NotAnswering."""
        repository = self.holding(path)
        return call() if repository is None else self._storage.reach(repository, call)

    def require_answering(self, paths: Iterable[str]) -> None:
        """Refuse at once what would hang on a file server that does not answer. Raises NotAnswering."""
        for root in {directory_of(repository) or "" for path in paths if (repository := self.holding(path)) is not None and is_shared(repository)}:
            self.reach(f"{root}/", functools.partial(os.path.exists, root))

    def work(self, path: str, call: Callable[[], Any]) -> Any:
        """The same for a call that changes files and may take its time."""
        repository = self.holding(path)
        return call() if repository is None else self._storage.work(repository, call)

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
        """The directories of all repositories that can be reached, without links."""
        if self._real is None:
            self._real = [real for root, repository in self._roots for real in self._reachable(root.rstrip("/"), repository)]
        return self._real

    def _reachable(self, root: str, repository: RepositorySpec) -> list[str]:
        try:
            return [self._storage.reach(repository, lambda: os.path.realpath(root))]
        except NotAnswering:
            return []
