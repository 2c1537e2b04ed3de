"""The storage of all repositories of one server: which plug-in it is, how it is, and how its files are reached without hanging."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Callable, Optional

from ..libvirt_driver.bounded import Work
from ..model.repository import RepositorySpec, RepositoryState, is_shared
from .local import LocalDirectory
from .mounts import Host, Mount, holding
from .nfs import NfsMount
from .plugin import StoragePlugin
from .reach import LIMIT, NotAnswering, reached, trouble, worked

REMEMBERED = 1.0


class Storage:
    """Everything that is asked of storage goes through here. Local directories are reached directly, shared ones with a limit."""

    def __init__(self, host: Optional[Host] = None) -> None:
        self.host = host or Host()
        self.limit = LIMIT
        self._local: StoragePlugin = LocalDirectory()
        self._nfs: StoragePlugin = NfsMount(self.host)
        self._mounts: tuple[float, list[Mount]] = (0.0, [])

    def plugin(self, spec: RepositorySpec) -> StoragePlugin:
        """The plug-in for a repository."""
        return self._nfs if spec.nfs is not None else self._local

    def reach(self, spec: RepositorySpec, call: Callable[[], Any]) -> Any:
        """What a short call on files of the repository returns. Raises what the call raises, NotAnswering when the file system does not answer."""
        if not is_shared(spec):
            return call()
        self._require_attached(spec, self.mounts())
        return reached(spec.path or "", self.plugin(spec).source(spec), call, limit=self.limit)

    def work(self, spec: RepositorySpec, call: Callable[[], Any]) -> Any:
        """The same for work that changes files, and may take its time."""
        if not is_shared(spec):
            return call()
        self._require_attached(spec, self.host.mounts())
        return worked(spec.path or "", self.plugin(spec).source(spec), call, poll=self.limit)

    def measure(self, spec: RepositorySpec, *, registered: bool, uuid: str) -> RepositoryState:
        """How a repository is now; takes LIMIT at most."""
        mounts = self.mounts()
        plugin = self.plugin(spec)
        known = RepositoryState(
            registered=registered,
            uuid=uuid,
            shared=is_shared(spec),
            mounted=plugin.is_attached(spec, mounts),
            not_for_ha=plugin.not_for_ha(spec),
            available=False,
        )
        try:
            room = self.reach(spec, lambda: os.statvfs(spec.path or ""))
        except NotAnswering as error:
            return dataclasses.replace(known, problem=error.message)
        except OSError as error:
            return dataclasses.replace(known, problem=trouble(error, plugin.source(spec)))
        there = holding(spec.path or "", mounts) if spec.nfs is not None else holding(os.path.realpath(spec.path or ""), mounts)
        return dataclasses.replace(
            known,
            capacity=room.f_blocks * room.f_frsize,
            free=room.f_bavail * room.f_frsize,
            available=True,
            file_system=there.file_system if there else "",
            lease=self.host.lease(spec.path or "") if spec.nfs is not None else None,
        )

    def measure_all(self, known: Mapping[str, tuple[RepositorySpec, str]]) -> dict[str, tuple[RepositorySpec, RepositoryState]]:
        """How registered repositories (specification and UUID by name) are now: the shared ones side by side, so that all take LIMIT at most."""
        asked = {name: Work(partial(self.measure, spec, registered=True, uuid=uuid)) for name, (spec, uuid) in known.items() if is_shared(spec)}
        states = {name: self.measure(spec, registered=True, uuid=uuid) for name, (spec, uuid) in known.items() if name not in asked}
        for name, work in asked.items():
            work.join()
            states[name] = work.result()
        return {name: (spec, states[name]) for name, (spec, dummy) in known.items()}

    def mounts(self) -> list[Mount]:
        """What is mounted, as it was a second ago at most."""
        at, mounts = self._mounts
        if not mounts or time.monotonic() - at > REMEMBERED:
            mounts = self.host.mounts()
            self._mounts = (time.monotonic(), mounts)
        return mounts

    def forget(self) -> None:
        """Something was mounted or unmounted."""
        self._mounts = (0.0, [])

    def _require_attached(self, spec: RepositorySpec, mounts: list[Mount]) -> None:
        """Nothing must be written into the empty directory that a repository is mounted on."""
        plugin = self.plugin(spec)
        if plugin.is_attached(spec, mounts) is False:
            raise NotAnswering(f"{plugin.source(spec)} is not mounted on {spec.path}", remedy="The agent mounts it when its server answers; or apply it again")
