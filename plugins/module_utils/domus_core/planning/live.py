"""What a running object takes live and what waits for its restart, decided before anything is touched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Optional

from ..model.fields import LIVE, RESTART, given, make
from ..model.snapshot import Found
from ..model.vm import PLACEMENT_RULES, machine_family
from ..model.vm_devices import DiskSpec, NicSpec
from .comparison import waiting
from .steps import CREATE, DELETE, KILL, MANAGED, STOP, UPDATE, Change, Step

NOT_IN_SAVED_STATE = frozenset({"description", "tags", "autostart", "memory", *PLACEMENT_RULES})
NOT_PLUGGABLE = ("ide", "sata")
CONVENTIONAL_PCI = ("e1000", "rtl8139")
ENDS = frozenset({STOP, KILL, DELETE, CREATE})
_PLACE = re.compile(r"(\w+)(?:\[([^\]]*)\])?(?:\.(.+))?")


def effect_now(change: Change, found: Found) -> Change:
    """The change, told whether this VM can take it as it runs now."""
    if found.running is not None and change.effect == LIVE and _waits(change, found):
        return dataclasses.replace(change, effect=RESTART)
    return change


def _waits(change: Change, found: Found) -> bool:
    """A saved state keeps its devices; some devices can not be plugged, some media not changed; memory and vCPUs have limits that are in force."""
    if found.state.state == "suspended" and change.field not in NOT_IN_SAVED_STATE and not change.field.endswith(".size"):
        return True
    device = change.after if change.before is None else change.before
    if isinstance(device, (DiskSpec, NicSpec)):
        return getattr(device, "bus", None) in NOT_PLUGGABLE or (change.before is None and _is_for_the_start(device, found.running))
    limit = {"memory": "memory_max", "cpus": "cpus_max"}.get(change.field)
    if limit is None:
        return _is_usb_medium(change.field, found.running)
    # QEMU's emulation (TCG, seen in 7.2) corrupts its memory when a vCPU is unplugged, and the VM crashes at the next plug
    unsafe = change.field == "cpus" and found.spec.virtualization == "qemu" and change.after < found.running.cpus
    return bool(unsafe or change.after > (getattr(found.running, limit) or 0))


def _is_usb_medium(field: str, running: Any) -> bool:
    """libvirt (9.0) changes no medium of a USB drive while it runs."""
    return any(field == f"cdroms[{drive.name}].iso" and drive.bus == "usb" for drive in running.cdroms or ())


def _is_for_the_start(device: Any, running: Any) -> bool:
    """A place in the boot order is read at the start, and a q35 machine has no free slot of conventional PCI."""
    return device.boot_index is not None or (getattr(device, "model", None) in CONVENTIONAL_PCI and machine_family(running.machine or "") == "pc-q35")


def waiting_now(found: Found) -> tuple[str, ...]:
    """The fields of an object that wait for its restart."""
    return _named(found.spec, found.running)


def waiting_after(found: Found, steps: Sequence[Step]) -> tuple[str, ...]:
    """The fields that will wait when the steps have been taken."""
    if {step.action for step in steps} & ENDS:
        return ()
    defined, running = found.spec, found.running
    for step in steps:
        if step.action == UPDATE and running is not None:
            defined, running = step.spec, with_changes(running, [change for change in step.changes if change.effect == LIVE])
    return _named(defined, running)


def _named(defined: Any, running: Any) -> tuple[str, ...]:
    """A seed image is one thing: which part of it waits can not be seen afterwards."""
    names = {"cloud_init" if name.startswith("cloud_init.") else name for name in waiting(defined, running)}
    return tuple(sorted(names - {"state"}))


def with_changes(spec: Any, changes: list[Change]) -> Any:
    """Return the specification with the changes made, each at its place (`field`, `field.inner`, `group[name].inner`)."""
    for change in changes:
        if change.field != MANAGED:
            spec = _with_change(spec, change.field, change.after)
    return spec


def _with_change(spec: Any, place: str, after: Any) -> Any:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ValueError(place)
    field, name, inner = match.groups()
    values = given(spec)
    if name is not None:
        values[field] = _with_member(values.get(field, ()), name, inner, after)
    elif inner is not None:
        values[field] = _with_change(values[field], inner, after)
    else:
        values[field] = after
    return make(type(spec), {key: value for key, value in values.items() if value is not None})


def _with_member(members: tuple[Any, ...], name: str, inner: Optional[str], after: Any) -> tuple[Any, ...]:
    if inner is not None:
        return tuple(_with_change(one, inner, after) if one.name == name else one for one in members)
    kept = tuple(one for one in members if one.name != name)
    return kept if after is None else (*kept, after)
