"""What is wanted, put into the CIB that runs: ours is made as wanted, everybody else's stays, and what changes is told.

The result is a whole configuration. The edge lets `crm_diff` find the way to it and `cibadmin --patch` take it, in one atomic write
that is refused when the CIB has changed since it was read: then it is read and merged again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from ..libvirt_driver.xml_fields import canonical, etree
from .cib import VM, is_ours
from .manager_group import GROUP as MANAGER
from .manager_group import PLACE as MANAGER_PLACE

# Sets of pairs: in ours, a pair that we do not write is somebody else's word about our resource (is-managed while a VM migrates).
SETS = ("cluster_property_set", "meta_attributes", "instance_attributes", "utilization")
# What wins over our properties, whatever we write.
BOOTSTRAP = "cib-bootstrap-options"
# What Pacemaker itself keeps there.
OF_PACEMAKER = ("have-watchdog", "dc-version", "cluster-infrastructure", "cluster-name", "last-lrm-refresh")


@dataclasses.dataclass(frozen=True)
class CibChange:
    """The configuration as it is to be; `changes` says what is different from the one that was read, `foreign` what is not ours.

    `gone` are nodes that are no members any more (`crm_node --remove`), `dropped` resources whose history is to be cleared
    (`crm_resource --refresh`): a VM that is no HA VM any more goes on running. `restarted` are those that Pacemaker will restart.
    """

    configuration: Any
    changes: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


def merge_configuration(found: Any, wanted: Any) -> CibChange:
    """What the running configuration becomes when ours is as wanted."""
    merged = copy.deepcopy(found)
    gone = _merge_nodes(_section(merged, "nodes"), wanted.find("nodes"))
    for section in wanted:
        if section.tag != "nodes":
            _merge_children(_section(merged, section.tag), section)
    before, after = _described(found), _described(merged)
    return CibChange(
        configuration=merged,
        changes=tuple(_changes(before, after)),
        foreign=tuple(_foreign(merged, wanted)),
        gone=gone,
        dropped=tuple(sorted(_resources(found) - _resources(merged))),
        restarted=tuple(sorted(_restarted(found, merged))),
    )


def keep_vms(found: Any, wanted: Any) -> None:
    """Add to what is wanted whatever is there for VMs, and what is there of servers: for somebody who speaks of the pool, and not of its VMs."""
    for section in found:
        if section.tag in ("resources", "constraints"):
            known = {child.get("id") for child in wanted.find(section.tag)}
            for child in section:
                if is_ours(child.get("id", "")) and child.get("id") not in known and _is_of_a_vm(child):
                    wanted.find(section.tag).append(copy.deepcopy(child))
    there = {node.get("uname"): node for node in found.iterfind("nodes/node")}
    for node in wanted.find("nodes"):
        old = {child.get("id"): child for child in there.get(node.get("uname"), ())}
        for child in list(node):
            if child.get("id") in old:
                node.replace(child, copy.deepcopy(old[child.get("id")]))


def _is_of_a_vm(element: Any) -> bool:
    return any(str(value).startswith(VM) for part in element.iter() for value in part.attrib.values())


def _section(root: Any, tag: str) -> Any:
    section = root.find(tag)
    return etree.SubElement(root, tag) if section is None else section


def _merge_nodes(found: Any, wanted: Any) -> tuple[str, ...]:
    """Nodes are Pacemaker's: ours is what we say of them. One that is no member any more is told, since only crm_node takes it away."""
    by_name = {node.get("uname"): node for node in found}
    for node in wanted:
        there = by_name.pop(node.get("uname"), None)
        if there is None:
            found.append(copy.deepcopy(node))
        else:
            _merge_children(there, node)
    for node in by_name.values():
        for child in [child for child in node if is_ours(child.get("id", ""))]:
            node.remove(child)
    return tuple(sorted(name for name in by_name if name))


def _merge_children(found: Any, wanted: Any) -> None:
    """Make the children that are ours as wanted, each where it is; those of others stay as they are."""
    left = {child.get("id"): child for child in wanted}
    for child in list(found):
        own = left.pop(child.get("id"), None)
        if own is not None:
            found.replace(child, _merged(child, own))
        elif is_ours(child.get("id", "")):
            found.remove(child)
    for own in left.values():
        found.append(copy.deepcopy(own))


def _merged(found: Any, wanted: Any) -> Any:
    """One element of ours; pairs in it that we do not write stay."""
    element = copy.deepcopy(wanted)
    if element.tag in SETS:
        _keep_pairs(found, element)
        return element
    for child in list(element):
        there = next((one for one in found if one.get("id") == child.get("id")), None) if child.tag in SETS else None
        if there is not None:
            _keep_pairs(there, child)
    for extra in found:
        if extra.tag in SETS and not is_ours(extra.get("id", "")):
            element.append(copy.deepcopy(extra))
    return element


def _keep_pairs(found: Any, element: Any) -> None:
    """Pairs are known by their names, since crm_resource gives them ids of its own, and stay in the order in which they are."""
    ours = {pair.get("name"): pair for pair in element}
    for pair in found:
        own = ours.pop(pair.get("name"), None)
        if own is not None:
            own.set("id", pair.get("id"))
            element.append(own)
        elif not _was_ours(pair, element):
            element.append(copy.deepcopy(pair))
    for new in ours.values():
        element.append(new)


def _was_ours(pair: Any, element: Any) -> bool:
    """Did we write this pair, which is not wanted any more? Not the target role: verbs and the agent change it after us."""
    word = element.get("id", "").split("-")[1]
    return bool(pair.get("id", "").startswith(f"domus-{word}.-") and pair.get("name") != "target-role")


def _described(root: Any) -> dict[str, bytes]:
    """Every element of the sections, by section and id. Their order means nothing to Pacemaker but between equals."""
    return {f"{section.tag} {element.get('id')}": canonical(element) for section in root for element in section}


def _changes(before: dict[str, bytes], after: dict[str, bytes]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{'+' if name not in before else '-' if name not in after else '~'} {name}"


def _resources(root: Any) -> set[str]:
    return {str(element.get("id")) for element in root.iterfind("resources/primitive") if is_ours(element.get("id", ""))}


def _restarted(before: Any, after: Any) -> Iterator[str]:
    """Resources of ours that run with other parameters afterwards: Pacemaker restarts those."""
    parameters = {element.get("id"): _parameters(element) for element in before.iterfind("resources/primitive")}
    for element in after.iterfind("resources/primitive"):
        known = parameters.get(element.get("id"))
        if known is not None and known != _parameters(element):
            yield str(element.get("id"))


def _parameters(element: Any) -> tuple[Any, ...]:
    pairs = sorted((pair.get("name"), pair.get("value")) for pair in element.iterfind("instance_attributes/nvpair"))
    return element.get("class"), element.get("provider"), element.get("type"), *pairs


def _foreign(merged: Any, wanted: Any) -> Iterator[str]:
    """What is not ours, and which of ours has no effect for it."""
    ours = {pair.get("name") for pair in wanted.iterfind("crm_config/cluster_property_set/nvpair")}
    for section in merged:
        for element in section:
            if section.tag == "nodes" or is_ours(element.get("id", "")):
                yield from (f"in {element.get('uname') or element.get('id')}: {name}" for name in _added(element))
            elif element.get("id") not in (BOOTSTRAP, MANAGER, MANAGER_PLACE):
                yield f"{section.tag} {element.get('id')}"
    for pair in merged.iterfind(f"crm_config/cluster_property_set[@id='{BOOTSTRAP}']/nvpair"):
        if pair.get("name") not in OF_PACEMAKER:
            wins = " (wins over Domus's)" if pair.get("name") in ours else ""
            yield f"crm_config {pair.get('name')}={pair.get('value')}{wins}"


def _added(element: Any) -> Iterator[str]:
    """Pairs that somebody else put into an element of ours, as name=value."""
    for pair in element.iter("nvpair"):
        if not pair.get("id", "").startswith("domus-") or "." not in pair.get("id", "").split("-")[1]:
            yield f"{pair.get('name')}={pair.get('value')}"
