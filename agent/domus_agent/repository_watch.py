"""Repositories whose storage may go away and come back: looked at all the time, mounted again when their server answers, and told of."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Callable, Optional

from domus_core.errors import Busy, DomusError
from domus_core.libvirt_driver.bounded import Work
from domus_core.libvirt_driver.locks import held, lock_file
from domus_core.libvirt_driver.registry import Registry
from domus_core.libvirt_driver.repository import registered_places
from domus_core.libvirt_driver.virtual_disk import names_of_disks
from domus_core.model.repository import RepositorySpec, RepositoryState, is_shared
from domus_core.storage_connect.reach import NotAnswering
from domus_core.storage_connect.storage import Storage

from .libvirt_events import Seen
from .looking import Looking

SECONDS, MOUNT_AGAIN_SECONDS = 10.0, 60.0
LOST, BACK = "repository.lost", "repository.back"

Target = tuple[str, str]
_log = logging.getLogger(__name__)


class RepositoryWatch(Looking):
    """Tells of shared repositories that are lost or back, and which virtual disks another server has made or deleted in them.

    `came_late` hears of the directory of one that was not mounted before, in a thread of its own.
    """

    def __init__(
        self,
        state_directory: str,
        tell: Callable[[Seen], None],
        look_at: Callable[[Iterable[Target]], None],
        came_late: Callable[[str], None],
        storage: Optional[Storage] = None,
    ) -> None:
        super().__init__("repositories", SECONDS)
        self._registry = Registry(os.path.join(state_directory, "objects"))
        self._lock_file = lock_file(state_directory)
        self._storage = storage or Storage()
        self._tell, self._look_at, self._came_late = tell, look_at, came_late
        self._problems: dict[str, Optional[str]] = {}
        self._disks: dict[str, frozenset[str]] = {}
        self._absent: set[str] = set()
        self._first = True
        self._mounting: dict[str, tuple[Work, float]] = {}

    def recall(self, descriptions: Iterable[Mapping[str, Any]]) -> None:
        """What the manager was told last: differences to that have happened since."""
        for one in descriptions:
            if one["kind"] == "repository":
                self._problems[one["key"]] = (one.get("measured") or {}).get("problem")

    def look(self) -> None:
        """Look at all of them once, side by side; takes 5 seconds at most for what does not answer."""
        self._storage.forget()
        places = registered_places(self._registry, self._storage)
        shared = {name: (spec, places.uuids.get(name, "")) for name, spec in places.repositories.items() if is_shared(spec)}
        for name, (spec, state) in self._storage.measure_all(shared).items():
            if state.problem is not None and not self._is_settled(name):
                continue
            self._compare(name, state)
            if state.mounted is False:
                self._absent.add(name)
                self._mount(spec)
            elif state.available:
                self._compare_disks(name, spec, places)
                if name in self._absent:
                    self._absent.discard(name)
                    Work(partial(self._came_late, spec.path or ""))
        self._first = False
        self._problems = {name: problem for name, problem in self._problems.items() if name in shared}

    def _is_settled(self, name: str) -> bool:
        """Is nobody at it, and is it one of ours still? One that is being taken away is not lost (seen: it was told)."""
        try:
            with held(self._lock_file, [], [("repository", name)], patience=0.0):
                return self._registry.read("repository", name) is not None
        except Busy:
            return False

    def _compare(self, name: str, state: RepositoryState) -> None:
        before, self._problems[name] = self._problems.get(name), state.problem
        if (before is None) == (state.problem is None):
            return
        kind, severity = (BACK, "info") if state.problem is None else (LOST, "error")
        data = {"problem": before or state.problem}
        _log.log(logging.INFO if kind == BACK else logging.ERROR, "%s %s: %s", kind, name, data["problem"])
        self._tell(Seen(kind, object_kind="repository", name=name, uuid=state.uuid, severity=severity, data=data))
        self._look_at(("virtual_disk", f"{name}/{disk}") for disk in self._disks.get(name, ()))
        self._look_at((kind, known) for kind in ("template", "iso") for known in self._registry.names(kind))

    def _compare_disks(self, name: str, spec: RepositorySpec, places: Any) -> None:
        try:
            found = frozenset(disk for disk, dummy in names_of_disks(places, spec))
        except NotAnswering:
            return
        # The observer begins by looking at everything; a repository that is new later has disks that nobody has looked at.
        before = self._disks.get(name, found if self._first else frozenset())
        self._disks[name] = found
        self._look_at([("virtual_disk", f"{name}/{disk}") for disk in before ^ found])

    def _mount(self, spec: RepositorySpec) -> None:
        """Have it mounted again, in a thread of its own: that may take a minute."""
        work, began = self._mounting.get(spec.name, (None, 0.0))
        if (work is not None and work.is_alive()) or (began and time.monotonic() - began < MOUNT_AGAIN_SECONDS):
            return
        self._mounting[spec.name] = (Work(lambda: self._mount_again(spec)), time.monotonic())

    def _mount_again(self, spec: RepositorySpec) -> None:
        try:
            if self._registry.read("repository", spec.name) is not None:  # it may have been taken away meanwhile
                self._storage.plugin(spec).attach_later(spec)
        except DomusError as error:
            _log.warning("repository %s: %s", spec.name, error)
