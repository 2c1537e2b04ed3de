"""What a policy says: how a group of servers is kept balanced, or small. One place for its fields, whoever carries a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Optional

from ..errors import InvalidSpec
from .field_types import Choice, Integer, ListOf, Name, Ratio
from .fields import attribute

OFF, DRS, DPM = MODES = ("off", "drs", "dpm")
RESOURCES = ("memory", "vcpus", "cpu", "network")
# A server that is fuller than that has no room for a busy minute; a policy that saves power needs a limit.
DPM_THRESHOLD = 80
PERCENT = Integer(1, 100)


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """What is wanted of a policy; None means not managed."""

    mode: Optional[str] = attribute(
        Choice(*MODES), "`drs` spreads VMs over the servers, `dpm` gathers them on few and switches the others off.", default="off", example="drs"
    )
    period: Optional[int] = attribute(Integer(1, 1440), "Minutes between two looks.", default=10, example=5)
    cpu_threshold: Optional[int] = attribute(
        PERCENT, "Percent of a server's processors in use above which it is relieved; left out: servers are always evened out.", example=75
    )
    memory_threshold: Optional[int] = attribute(PERCENT, "The same for the memory that is promised to VMs.", example=85)
    network_threshold: Optional[int] = attribute(PERCENT, "The same for the speed of its network ports.", example=70)
    tolerance: Optional[int] = attribute(PERCENT, "Percent that servers may be away from the mean and still count as even.", default=5, example=10)
    most_moves: Optional[int] = attribute(Integer(1, 64), "How many VMs a look moves at most.", default=4, example=2)
    spare_servers: Optional[int] = attribute(
        Integer(0, 16),
        "Room is kept for what is on so many servers, should they die: by every move, and by every new VM whatever the mode is.",
        default=0,
        example=1,
    )
    least_on: Optional[int] = attribute(
        Integer(1, 1024), "How many servers `dpm` leaves on at least; a clustered pool keeps its quorum anyway.", default=1, example=2
    )
    servers: Optional[tuple[str, ...]] = attribute(
        ListOf(Name(), most=1024),
        "The servers that `dpm` may switch off; only those that were seen to be able to wake.",
        default="all",
        example=["srv3", "srv4"],
    )
    memory_weight: Optional[float] = attribute(Ratio(0, 100), "How much memory counts when servers are evened out.", default=1.0, example=1.0)
    cpu_weight: Optional[float] = attribute(Ratio(0, 100), "How much vCPUs and the use of processors count.", default=1.0, example=1.0)
    network_weight: Optional[float] = attribute(Ratio(0, 100), "How much the use of networks counts.", default=1.0, example=0.5)

    def check(self) -> Iterable[InvalidSpec]:
        """The ways in which the fields contradict each other."""
        if self.servers is not None and self.mode not in (None, DPM):
            yield InvalidSpec("goes only with mode dpm", field="servers")


def thresholds(policy: PolicySpec) -> dict[str, Optional[float]]:
    """The share above which a server is too full, by resource; None: there is none."""
    told: dict[str, Any] = {"memory": policy.memory_threshold, "cpu": policy.cpu_threshold, "network": policy.network_threshold}
    if policy.mode == DPM:
        told = {name: value or DPM_THRESHOLD for name, value in told.items()}
    return {name: None if told.get(name) is None else told[name] / 100 for name in RESOURCES}


def weights(policy: PolicySpec) -> dict[str, float]:
    """How much each resource counts; promised vCPUs and used processors share one weight."""
    cpu = 1.0 if policy.cpu_weight is None else policy.cpu_weight
    memory, network = (1.0 if one is None else one for one in (policy.memory_weight, policy.network_weight))
    return {"memory": memory, "vcpus": cpu / 2, "cpu": cpu / 2, "network": network}
