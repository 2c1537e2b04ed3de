"""What CPU compatibility groups mean for a document: which VMs get a baseline, and which servers do not go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from domus_core.errors import Conflict, DomusError, Refused
from domus_core.model.vm_devices import CpuBaselineSpec
from domus_core.planning.cpu_groups import Group, groups_of, open_vms, regrouped, with_baselines

from ..agents.cpu_groups import baseline_of, compute
from ..store import cpu_groups, servers
from .tools import Tools

Documents = Mapping[str, Mapping[str, Any]]


def give_baselines(tools: Tools, document: Mapping[str, Any], documents: Documents) -> Documents:
    """The documents of the servers (by id) with the baselines of their groups in the VMs that leave their CPU open.

    An agent that is older than the manager does not know the field: its VMs stay as they are. Raises Conflict, or Refused, for a VM whose
    group has no baseline, and for a server that is to join a group with which it has no CPU in common.
    """
    open_now = {name: group for one in documents.values() for name, group in open_vms(one)}
    joining = [entry for entry in document.get("servers") or () if entry.get("cpu_group")]
    if not open_now and not joining:
        return documents
    members = cpu_groups.members(tools.store)
    problems = list(_not_joining(tools, groups_of(members), groups_of(regrouped(members, document)), joining))
    pinned = cpu_groups.pinned(tools.store, open_now)
    behind = {str(one["id"]) for one in servers.all(tools.store) if one["behind"]}
    wanted = {name: group for id, one in documents.items() if id not in behind for name, group in open_vms(one, pinned)}
    baselines, refused = _baselines(tools, groups_of(regrouped(members, document)), wanted)
    problems += refused
    if problems:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    return {id: one if id in behind else with_baselines(one, baselines, pinned) for id, one in documents.items()}


def _baselines(tools: Tools, groups: Mapping[str, Group], wanted: Mapping[str, str]) -> tuple[dict[str, CpuBaselineSpec], list[DomusError]]:
    made = {name: baseline_of(tools.store, tools.agents, groups[name]) for name in sorted(set(wanted.values())) if name in groups}
    problems: list[DomusError] = []
    for vm, name in wanted.items():
        if name in made and made[name].cpu is None:
            text = f"its CPU group {name} has no baseline: {made[name].problem}"
            remedy = "Look at the group with domus server cpu-groups, or give the VM a cpu_model"
            problems.append(Conflict(text, object=f"vm {vm}", field="cpu_group", value=name, remedy=remedy))
    return {name: one.cpu for name, one in made.items() if one.cpu is not None}, problems


def _not_joining(tools: Tools, before: Mapping[str, Group], after: Mapping[str, Group], entries: Iterable[Mapping[str, Any]]) -> Iterable[DomusError]:
    """The servers that spoil a group which has a baseline without them."""
    for entry in entries:
        group, was = after.get(str(entry["cpu_group"])), before.get(str(entry["cpu_group"]))
        if group is None or was is None or group.fingerprint == was.fingerprint or not was.told:
            continue
        made = compute(tools.agents, group)
        if made.cpu is None and made.lasting and compute(tools.agents, was).cpu is not None:
            remedy = "Leave it in a group of its own, or take the others out of this one"
            yield Conflict(str(made.problem), object=f"server {entry['name']}", field="cpu_group", value=group.name, remedy=remedy)
