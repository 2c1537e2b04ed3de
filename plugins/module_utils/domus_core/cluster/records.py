"""The record of a VM in its pool: what any member needs to define and start it. Pure; record_files.py reads and writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Optional

from ..errors import Conflict, DriverError, PreconditionFailed
from .pool import STAY_OFF

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class PoolRecord:
    """A VM of a pool: `definition` is its XML, `server` where it runs or ran last, `saved_on` the server that holds its saved memory."""

    uuid: str
    name: str
    definition: str
    specification: dict[str, Any] = dataclasses.field(default_factory=dict)
    generation: int = 0
    server: Optional[str] = None
    wanted: Optional[str] = None
    saved_on: Optional[str] = None
    on_shutdown: str = STAY_OFF
    start_delay: int = 0
    stop_timeout: int = 120


def as_text(record: PoolRecord) -> str:
    """The record as it lies in its file: JSON, and a checksum of it, so that half a file is never taken for a whole one."""
    told = {name: value for name, value in dataclasses.asdict(record).items() if value is not None}
    body = json.dumps({"format": FORMAT, **told}, indent=1, sort_keys=True)
    return f"{body}\n{_digest(body)}\n"


def from_text(text: str, uuid: str) -> PoolRecord:
    """The record in a text. Raises DriverError for one that is not whole, or not this VM's."""
    body, dummy, digest = text.rstrip("\n").rpartition("\n")
    if _digest(body) != digest:
        raise DriverError("its record is not whole", object=f"vm {uuid}", remedy="Is the pool file system full or damaged? Its servers hold copies")
    data = json.loads(body)
    if data.get("format") != FORMAT:
        raise DriverError(f"its record has the format {data.get('format')}, this Domus knows {FORMAT}", object=f"vm {uuid}", remedy="Upgrade this server")
    known = {field.name for field in dataclasses.fields(PoolRecord)}
    record = PoolRecord(**{name: value for name, value in data.items() if name in known})
    if record.uuid != uuid:
        raise DriverError(f"its record is that of {record.name} ({record.uuid})", object=f"vm {uuid}")
    return record


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def token_of(text: Optional[str]) -> str:
    """What a writer shows to say which version it has read; "" for none."""
    return "" if text is None else text.rstrip("\n").rpartition("\n")[2]


def require_next(found: Optional[PoolRecord], found_token: str, wanted: PoolRecord, token: str) -> None:
    """Raise PreconditionFailed when somebody has written meanwhile, Conflict when an older generation would win over a newer one."""
    if found_token != token:
        raise PreconditionFailed("somebody else has changed its record meanwhile", object=f"vm {wanted.name}", remedy="Read it and try again")
    if found is not None and wanted.generation < found.generation:
        raise Conflict(f"its record has the generation {found.generation} already", object=f"vm {wanted.name}", field="generation", value=wanted.generation)
