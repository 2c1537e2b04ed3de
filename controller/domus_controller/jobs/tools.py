"""What every running job is given."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from typing import Any, Optional

from domus_core.errors import DriverError

from ..agents.pool import Agents
from ..config import ManagerConfig
from ..security.authority import Authority
from ..security.sealing import Sealing
from ..store import jobs
from ..store.database import Store


@dataclasses.dataclass(frozen=True)
class Tools:
    """The parts of the manager that jobs work with; `stopping` is set when the manager ends."""

    store: Store
    agents: Agents
    authority: Authority
    sealing: Sealing
    config: ManagerConfig
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)


class Stopped(Exception):
    """The manager ends before the job does; the next start of the manager settles it."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is sealed with an apply job or a plan: the document as it came, what each server gets of it, and which VMs were placed where and why."""

    document: Mapping[str, Any]
    documents: Mapping[str, Mapping[str, Any]]
    placements: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def sealed(self, tools: Tools) -> bytes:
        """It, encrypted."""
        only = next(iter(self.documents.values())) if len(self.documents) == 1 else None
        whole = None if only == self.document else self.document
        return tools.sealing.seal(json.dumps({"document": whole, "documents": self.documents}).encode())

    @classmethod
    def opened(cls, tools: Tools, sealed: Optional[bytes]) -> Optional[Work]:
        """What was sealed; None when it is not kept any more. Raises DriverError when our key does not open it."""
        if sealed is None:
            return None
        try:
            data = json.loads(tools.sealing.open(sealed))
        except ValueError:
            raise DriverError("what was sealed can not be read", remedy="Send the document again") from None
        documents = data["documents"]
        return cls(next(iter(documents.values())) if data["document"] is None else data["document"], documents)


def sealed_work(tools: Tools, job_id: str) -> Optional[Work]:
    """The document of a job; None when it is not kept any more."""
    return Work.opened(tools, jobs.sealed(tools.store, job_id))
