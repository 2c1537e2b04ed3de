"""CPU compatibility groups: who is in one, what is to be asked of libvirt for its baseline, and which VMs of a document get it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional

from ..model.fields import plain
from ..model.vm_devices import CpuBaselineSpec

Document = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Member:
    """A server of a group (id and name); `cpu` is what its guests can have, None until it has told. `asked` can be asked for a baseline."""

    id: str
    name: str
    group: str
    cpu: Optional[CpuBaselineSpec] = None
    virtualization: Optional[str] = None
    asked: bool = True


@dataclasses.dataclass(frozen=True)
class Group:
    """A group and its members by name."""

    name: str
    members: tuple[Member, ...]

    @property
    def told(self) -> tuple[Member, ...]:
        """Those whose CPU is known; the others hold no VM of it before they have told."""
        return tuple(one for one in self.members if one.cpu is not None)

    @property
    def cpus(self) -> tuple[CpuBaselineSpec, ...]:
        """The CPUs that a baseline is made of, each once, in an order that does not depend on who has them."""
        distinct = {_text(one.cpu): one.cpu for one in self.told if one.cpu is not None}
        return tuple(distinct[text] for text in sorted(distinct))

    @property
    def fingerprint(self) -> str:
        """Changes when the baseline is to be made anew: with the members' CPUs, not with how many have them."""
        kinds = sorted({one.virtualization or "" for one in self.told})
        return hashlib.sha256(json.dumps([kinds, [_text(cpu) for cpu in self.cpus]]).encode()).hexdigest()[:32]

    @property
    def problem(self) -> Optional[str]:
        """Why there can be no baseline, where that needs no libvirt to know."""
        if not self.told:
            return "none of its servers has told its CPU yet"
        kinds: dict[str, list[str]] = {}
        for one in self.told:
            kinds.setdefault(one.virtualization or "", []).append(one.name)
        if len(kinds) > 1:
            shown = " and ".join(f"{_names(names)} by {kind}" for kind, names in sorted(kinds.items()))
            return f"its servers run VMs differently: {shown}; no VM moves between them"
        return None

    def explained(self, told: str) -> str:
        """What libvirt told of CPUs that do not go together, with the servers that have them."""
        by_cpu: dict[str, list[str]] = {}
        for one in self.told:
            if one.cpu is not None:
                by_cpu.setdefault(" ".join(filter(None, (one.cpu.vendor, one.cpu.model))), []).append(one.name)
        shown = " and ".join(f"{_names(names)} ({cpu})" for cpu, names in sorted(by_cpu.items()))
        return f"{shown} {told}"


def groups_of(members: Iterable[Member]) -> dict[str, Group]:
    """The groups by name."""
    found: dict[str, list[Member]] = {}
    for one in sorted(members, key=lambda one: (one.name, one.id)):
        found.setdefault(one.group, []).append(one)
    return {name: Group(name, tuple(found[name])) for name in sorted(found)}


def regrouped(members: Iterable[Member], document: Document) -> list[Member]:
    """The members as the servers of a document will be grouped."""
    wanted = {str(entry.get("name")): str(entry["cpu_group"]) for entry in document.get("servers") or () if entry.get("cpu_group")}
    return [dataclasses.replace(one, group=wanted.get(one.name, one.group)) for one in members]


def open_vms(document: Document, pinned: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """The VMs (name, group) of a server's document that get the baseline of a group: they say one, and no CPU of their own.

    `pinned` are VMs that were given a CPU earlier.
    """
    for entry in document.get("vms") or ():
        own = entry.get("cpu_model") or entry.get("cpu_baseline") or entry["name"] in pinned
        if entry.get("cpu_group") and not own and entry.get("state") != "absent":
            yield entry["name"], entry["cpu_group"]


def with_baselines(document: Document, baselines: Mapping[str, CpuBaselineSpec], pinned: Collection[str] = ()) -> Document:
    """The document of a server, with the baselines of their groups in its VMs."""
    filled = {name: baselines[group] for name, group in open_vms(document, pinned) if group in baselines}
    if not filled:
        return document
    entries = [{**entry, "cpu_baseline": plain(filled[entry["name"]])} if entry["name"] in filled else entry for entry in document["vms"]]
    return {**document, "vms": entries}


def _text(cpu: Optional[CpuBaselineSpec]) -> str:
    return json.dumps(plain(cpu), sort_keys=True)


def _names(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
