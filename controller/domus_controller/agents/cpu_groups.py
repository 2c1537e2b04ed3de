"""The baselines of CPU compatibility groups: libvirt on a member computes them, and they are kept until a member or its CPU changes."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Optional

from domus_core.errors import Conflict, DomusError, Unsupported
from domus_core.model.fields import plain, restore
from domus_core.model.vm_devices import CpuBaselineSpec
from domus_core.planning.cpu_groups import Group, groups_of

from ..store import cpu_groups
from ..store.database import Store
from .pool import Agents

ASK_SECONDS, MOST_ASKED = 10.0, 3
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What the VMs of a group get; or the problem that there is none. `lasting`: it holds until a member or its CPU changes."""

    cpu: Optional[CpuBaselineSpec] = None
    problem: Optional[str] = None
    lasting: bool = True


def baseline_of(store: Store, agents: Agents, group: Group) -> Baseline:
    """The baseline of a group as it is now: made anew only when its CPUs are not those that it was made of."""
    known = cpu_groups.kept(store, group.name)
    if known is not None and known["fingerprint"] == group.fingerprint:
        return Baseline(known["baseline"], known["problem"])
    made = compute(agents, group)
    if made.lasting:
        cpu_groups.keep(store, group.name, group.fingerprint, made.cpu, made.problem)
    return made


def compute(agents: Agents, group: Group) -> Baseline:
    """Ask a member; another one when it does not answer."""
    if group.problem is not None:
        return Baseline(problem=group.problem, lasting=False)
    silent = "none of its servers answers"
    for member in [one for one in group.told if one.asked][:MOST_ASKED]:
        try:
            answer = agents.call(member.id, "baseline_cpu", {"cpus": [plain(cpu) for cpu in group.cpus]}, timeout=ASK_SECONDS)
            return Baseline(restore(CpuBaselineSpec, answer["cpu"]))
        except Conflict as error:
            return Baseline(problem=group.explained(error.message))
        except Unsupported as error:
            return Baseline(problem=f"server {member.name}: {error.message}")
        except DomusError as error:
            silent = f"server {member.name}: {error.message}"
    return Baseline(problem=silent, lasting=False)


def look_after(store: Store, agents: Agents) -> None:
    """Have the baselines of all groups that VMs are in made anew where they changed, and their VMs follow. Raises what the database raises."""
    used = cpu_groups.used(store)
    groups = groups_of(cpu_groups.members(store)) if used else {}
    for name in used:
        made = baseline_of(store, agents, groups[name]) if name in groups else Baseline()
        if made.cpu is not None and (number := cpu_groups.follow(store, name, made.cpu)):
            logger.info("CPU group %s has another baseline: %d of its VMs have to follow", name, number)


def shown(store: Store, agents: Agents) -> list[dict[str, Any]]:
    """All groups with their members and baselines, for people."""
    return [_shown(group, baseline_of(store, agents, group)) for group in groups_of(cpu_groups.members(store)).values()]


def _shown(group: Group, made: Baseline) -> dict[str, Any]:
    members = [{"server": one.name, "server_id": one.id, "cpu": plain(one.cpu), "virtualization": one.virtualization} for one in group.members]
    return {"name": group.name, "members": members, "baseline": plain(made.cpu), "problem": made.problem}
