"""How a VM is kept up by its server pool: fields of a VM that only its record says, and the pool's configuration is made from."""

from __future__ import annotations

import dataclasses
from typing import Optional

from .field_types import Choice, Flag, Integer, ListOf, Name
from .fields import attribute

START_POLICIES = ("best", "balanced", "current")
MOST_SERVERS = 32


@dataclasses.dataclass(frozen=True)
class HaSpec:
    """How a VM is kept up by its pool; None means not managed."""

    enabled: Optional[bool] = attribute(Flag(), "Its pool keeps it up: it is started again where it can be.", default=False, example=True)
    priority: Optional[int] = attribute(
        Integer(0, 1000), "Who is given room first when several were lost; never the room of a VM that runs.", default=0, example=10
    )
    start_after: Optional[tuple[str, ...]] = attribute(ListOf(Name(), most=16), "Where these start with it, it starts after them.", example=["db1"])
    start_delay: Optional[int] = attribute(Integer(0, 3600), "Seconds after its start until those that start after it do.", default=0, example=30)
    restart_limit: Optional[int] = attribute(Integer(1, 1000), "After so many failures on a server it is tried on another.", default=3, example=3)
    restart_window: Optional[int] = attribute(Integer(60, 86400), "Seconds after which a failure is forgotten.", default=600, example=600)
    preferred_servers: Optional[tuple[str, ...]] = attribute(
        ListOf(Name(), most=MOST_SERVERS), "It starts on the first of these that has room; it is not moved there.", example=["srv1", "srv2"]
    )
    start_policy: Optional[str] = attribute(Choice(*START_POLICIES), "Where it starts.", default="the pool's", example="current")
    on_shutdown: Optional[str] = attribute(
        Choice("stay_off", "restart"), "When its guest shuts itself down. A crash is always followed by a restart.", default="stay_off", example="restart"
    )


def is_kept_up(spec: Optional[object]) -> bool:
    """Does a VM's specification, or its record, ask its pool to keep it up?"""
    ha = getattr(spec, "ha", None)
    return ha is not None and bool(ha.enabled)
