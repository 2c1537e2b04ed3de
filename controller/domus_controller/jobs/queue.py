"""The queue: which jobs may run now. A job waits for every earlier one that holds an object of its own."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Optional

from domus_core.verbs import VERBS

from ..store.jobs import BALANCE, EVACUATE, MIGRATE, POWER_OFF, POWER_ON
from .outcome import Target

MOST_VERBS = 64
# What is carried out by agents alone, without a playbook.
DIRECT = frozenset({*VERBS, MIGRATE, EVACUATE, BALANCE, POWER_OFF, POWER_ON})
IDLE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Entry:
    """A job in the queue: its kind, and the (kind, key, server id) that it holds."""

    id: str
    kind: str
    targets: frozenset[Target]


def startable(running: Iterable[Entry], queued: Iterable[Entry], most_playbooks: int) -> tuple[list[Entry], dict[str, Optional[str]]]:
    """The queued jobs (the oldest first) that may start now, and for each of the others the job that it waits for, if it is for one."""
    holders: dict[Target, str] = {}
    working = {True: 0, False: 0}
    for entry in running:
        holders.update(dict.fromkeys(entry.targets, entry.id))
        working[entry.kind in DIRECT] += 1
    starts: list[Entry] = []
    waiting: dict[str, Optional[str]] = {}
    for entry in queued:
        holder = next((holders[target] for target in entry.targets if target in holders), None)
        is_verb = entry.kind in DIRECT
        if holder is None and working[is_verb] < (MOST_VERBS if is_verb else most_playbooks):
            starts.append(entry)
            working[is_verb] += 1
        else:
            waiting[entry.id] = holder
        for target in entry.targets:
            holders.setdefault(target, entry.id)
    return starts, waiting


class Workers:
    """Threads that carry work out at once and stay a while for the next: what a thread keeps, such as its connections, serves again."""

    def __init__(self) -> None:
        self._work: queue.Queue[Callable[[], None]] = queue.Queue()
        self._lock = threading.Lock()
        self._idle = 0

    def begin(self, work: Callable[[], None]) -> None:
        """Have it carried out by an idle thread, or a new one."""
        with self._lock:
            self._work.put(work)
            if self._idle:
                self._idle -= 1
                return
        threading.Thread(target=self._serve, name="job", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._idle -= 1
                        return
                continue
            work()
            with self._lock:
                self._idle += 1


class Queue:
    """The jobs of this process."""

    def __init__(self, most_playbooks: int, work: Callable[[str], None], tell: Callable[[str, Optional[str]], None]) -> None:
        """`work` does a job; `tell` hears what a queued one waits for, whenever that changes."""
        self._most_playbooks = most_playbooks
        self._work = work
        self._tell = tell
        self._workers = Workers()
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._queued: dict[str, Entry] = {}
        self._running: dict[str, Entry] = {}
        self._told: dict[str, Optional[str]] = {}
        self._stopped = False

    def add(self, entry: Entry) -> None:
        """Put a job at the end; it starts as soon as it may."""
        with self._lock:
            self._queued[entry.id] = entry
        self._advance()

    def run_at_once(self, entry: Entry) -> None:
        """Begin a job that ran already before this process did: it holds its objects, whatever waits."""
        with self._lock:
            self._running[entry.id] = entry
        self._begin(entry)

    def withdraw(self, job_id: str) -> bool:
        """Take a queued job out; false when it has started."""
        with self._lock:
            found = self._queued.pop(job_id, None)
        self._advance()
        return found is not None

    def stop(self) -> None:
        """Start nothing any more."""
        with self._lock:
            self._stopped = True

    def _advance(self) -> None:
        with self._lock:
            if self._stopped:
                return
            starts, waiting = startable(self._running.values(), self._queued.values(), self._most_playbooks)
            for entry in starts:
                self._running[entry.id] = self._queued.pop(entry.id)
        for entry in starts:
            self._begin(entry)
        self._tell_changes(waiting)

    def _begin(self, entry: Entry) -> None:
        self._workers.begin(lambda: self._run(entry))

    def _run(self, entry: Entry) -> None:
        try:
            self._work(entry.id)
        finally:
            with self._lock:
                self._running.pop(entry.id, None)
            self._advance()

    def _tell_changes(self, waiting: Mapping[str, Optional[str]]) -> None:
        with self._telling:
            changed = {job: holder for job, holder in waiting.items() if self._told.get(job) != holder}
            self._told = dict(waiting)
            for job, holder in changed.items():
                self._tell(job, holder)
