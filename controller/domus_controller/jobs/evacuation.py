"""Evacuation: all VMs of a server moved to others, as one job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from domus_core.errors import Unsupported

if TYPE_CHECKING:
    from .jobs import Jobs


def evacuate(jobs: Jobs, server: Mapping[str, Any], *, by: str, reason: str = "") -> dict[str, Any]:
    """Queue the job that moves the VMs of a server (its item) away. Raises Unsupported: VMs can not be moved yet."""
    remedy = "Stop its VMs or leave them running, and set maintenance without evacuation"
    raise Unsupported("its VMs can not be moved to other servers yet", object=f"server {server['name']}", field="evacuate", remedy=remedy)
