"""The events of a running job: stored a few times a second, and never more than a megabyte."""

from __future__ import annotations

import threading
from typing import Any, Optional

from domus_core.errors import DomusError

from ..store import jobs
from ..store.database import Store

LARGEST = 1 << 20
INTERVAL = 0.1
CUT = "More was told than is kept."


class JobOutput:
    """Collects a job's events from its thread and stores them from another one; use it as a context."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._room = LARGEST
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def put(self, kind: str, data: dict[str, Any]) -> None:
        """Add an event: `output` and `progress` count against the room there is, `state` does not."""
        size = 0 if kind == "state" else sum(len(str(value)) for value in data.values()) + 50
        with self._lock:
            if kind != "state" and self._room <= 0:
                return
            self._room -= size
            cut = kind != "state" and self._room <= 0
            self._waiting.append({"at": self._store.now(), "kind": "output" if cut else kind, "data": {"text": CUT} if cut else data})
            if self._thread is None:
                self._thread = threading.Thread(target=self._store_all, name=f"output of job {self._job_id}", daemon=True)
                self._thread.start()
        self._news.set()

    def __enter__(self) -> JobOutput:
        return self

    def __exit__(self, *dummy: object) -> None:
        self._closed.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()

    def _store_all(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            self._closed.wait(INTERVAL)
            with self._lock:
                batch, self._waiting = self._waiting, []
            if batch:
                self._write(batch)
            elif self._closed.is_set():
                return
            if self._closed.is_set():
                self._news.set()

    def _write(self, batch: list[dict[str, Any]]) -> None:
        try:
            jobs.add_events(self._store, self._job_id, batch)
        except DomusError:  # a full disk must not end the job: what it does is in its result
            return
