"""The steps for a VM: its disks, its definition, its run state."""

from __future__ import annotations

from typing import Any, Optional

from ..errors import Conflict, DomusError, InvalidSpec, NoCapacity, Unsupported
from ..model.fields import LIVE, RESTART, given, make, merge
from ..model.identity import derived_uuid
from ..model.quantities import format_size
from ..model.snapshot import Found
from ..model.vm import VmSpec, machine_family
from ..model.vm_devices import CdromSpec, VncSpec
from .comparison import compare, creation, deletion
from .defaults import NEW_VNC, new_cdrom, new_nic, new_vm
from .disks import check_kept, new_disk
from .ha import check_ha
from .live import effect_now
from .run_states import ENDING, run_state_recorded, run_state_steps, to_be_recorded
from .site_view import SiteView
from .steps import CREATE, DELETE, KILL, MANAGED, UPDATE, Change, Step, step

NOT_RECORDED = frozenset({"adopted", "exact", "delete_disks", "generation", "force_stop", "stop_timeout", "server", "pool"})
GROUPS = ("disks", "cdroms", "nics")
CPU_CHOICES = (("cpu_model", "cpu_baseline"), ("cpu_baseline", "cpu_model"))


def plan_vm(view: SiteView, wanted: VmSpec, found: Optional[Found]) -> list[Step]:
    """The steps that turn the found VM into the wanted one. Raises the refusals of the lookups, Conflict, InvalidSpec, NoCapacity."""
    uuid = found.state.uuid if found else derived_uuid(view.site.name, "vm", wanted.name)
    if wanted.state == "absent":
        return _delete(view, wanted, found, uuid)
    return _create(view, wanted, uuid) if found is None else _update(view, wanted, found, uuid)


def _create(view: SiteView, wanted: VmSpec, uuid: str) -> list[Step]:
    other = view.uuids.get(uuid)
    if other is not None:
        raise Conflict(
            f"vm {other} has the UUID that belongs to this name", field="name", value=wanted.name, remedy=f"Rename {other} back, or use another name"
        )
    if wanted.state == "suspended":
        raise InvalidSpec("only a running VM can be suspended", field="state", value="suspended", remedy="Make it with state running first")
    whole = new_vm(wanted, view.site.name, view.snapshot.server)
    disks, steps = [], []
    for disk in wanted.disks or ():
        complete, needed = _located(lambda disk=disk: new_disk(view, wanted.name, uuid, disk), f"disks[{disk.name}]")
        disks.append(complete)
        steps += needed
    whole = merge(whole, make(VmSpec, {"disks": tuple(disks)}))
    values = {name: value for name, value in given(whole).items() if name != "disks"} | {"disks": tuple(disks)}
    whole = make(VmSpec, values)
    _check_references(view, whole, wanted)
    _check_amounts(whole)
    _check_server(view, whole)
    check_ha(view, whole, None)
    _check_room(view, whole)
    record = recorded(whole, None, whole)
    steps.append(step(CREATE, "vm", whole, changes=creation(whole), reason="it does not exist", uuid=uuid, record=record))
    return steps + run_state_steps(whole, "stopped", wanted.state, uuid, told=True)


def _update(view: SiteView, wanted: VmSpec, found: Found, uuid: str) -> list[Step]:
    wanted = _with_screen(_raise_limits(wanted, found), found)
    complete, steps = _complete_devices(view, wanted, found, uuid)
    changes = [effect_now(change, found) for change in compare(complete, found.spec, exact=bool(wanted.exact), skip=frozenset({"state", "name"}))]
    changes += [*_other_cpu(complete, found), *_disconnected(complete, found), *_ordered_otherwise(complete, found)]
    if wanted.adopted and not found.state.managed:
        changes.append(Change(MANAGED, False, True, LIVE))
    acting = wanted.state not in (None, found.state.state)
    to_record = to_be_recorded(found.recorded, wanted.state, acting=acting)
    if to_record and not acting:
        changes.append(run_state_recorded(found, str(wanted.state)))
    if not (changes or steps or acting):
        return []
    if (changes or to_record) and wanted.generation not in (None, found.state.generation):
        raise Conflict(
            f"the VM has generation {found.state.generation}: somebody changed it since",
            field="generation",
            value=wanted.generation,
            remedy="Look at the VM, and make the change again",
        )
    whole = _without(merge(found.spec, complete), changes)
    _check_references(view, whole, wanted)
    _check_server(view, whole)
    check_ha(view, whole, found.recorded)
    _check_machine(whole, found)
    _check_amounts(whole)
    record = recorded(complete, found.recorded, whole) if changes or to_record else None
    transitions = run_state_steps(whole, found.state.state, wanted.state, uuid, record=None if changes else record)
    if changes:
        steps.append(step(UPDATE, "vm", whole, changes=tuple(changes), reason=_why(changes), uuid=uuid, record=record))
    if (steps or transitions) and not found.state.managed and not wanted.adopted:
        raise Conflict(
            "exists and was not made by Domus",
            field="name",
            value=wanted.name,
            remedy="To let Domus manage it, write adopted: true; `domus adopt` writes such a document",
        )
    if (steps or transitions) and not found.state.persistent:
        raise Conflict(
            "is transient: libvirt keeps no definition of it",
            field="name",
            value=wanted.name,
            remedy="If it is just being moved here, apply again in a moment; else make it persistent first: virsh dumpxml, then virsh define",
        )
    first = [one for one in transitions if one.action in ENDING] if wanted.state == "stopped" else []
    return [*(transitions if first else []), *steps, *([] if first else transitions)]


def _why(changes: list[Change]) -> str:
    return "Domus takes charge of it" if all(change.field == MANAGED for change in changes) else "it differs"


def _delete(view: SiteView, wanted: VmSpec, found: Optional[Found], uuid: str) -> list[Step]:
    steps: list[Step] = []
    if found is not None:
        if not found.state.managed and not wanted.adopted:
            raise Conflict(
                "was not made by Domus, so Domus does not delete it", field="state", value="absent", remedy="To let Domus delete it, write adopted: true"
            )
        if found.state.state != "stopped":
            steps.append(step(KILL, "vm", found.spec, reason="it is to be absent", uuid=uuid))
        steps.append(step(DELETE, "vm", found.spec, reason="it is to be absent", uuid=uuid, changes=deletion(found.state.state)))
    return steps + (_delete_disks(view, wanted.name, uuid) if wanted.delete_disks else [])


def _delete_disks(view: SiteView, vm: str, uuid: str) -> list[Step]:
    """Only what was made for this VM, and only what nothing else uses or is to use."""
    return [
        step(DELETE, "virtual_disk", disk.spec, reason=f"vm {vm} is deleted with its disks", uuid=uuid, changes=deletion())
        for key, disk in view.disks_of.get(uuid, ())
        if key in view.leaving_disks
    ]


def _complete_devices(view: SiteView, wanted: VmSpec, found: Found, uuid: str) -> tuple[VmSpec, list[Step]]:
    """New devices get what they leave out; new disks get their virtual disks; kept ones are checked."""
    values, steps = given(wanted), list[Step]()
    known = {disk.name: disk for disk in found.spec.disks or ()}
    disks = []
    for disk in wanted.disks or ():
        if disk.name in known:
            _located(lambda disk=disk: check_kept(view, wanted.name, disk, known[disk.name]), f"disks[{disk.name}]")
            placed = disk.file is not None or disk.virtual_disk is not None
            disks.append(make(type(disk), {name: value for name, value in given(disk).items() if name not in ("file", "virtual_disk")}) if placed else disk)
        else:
            complete, needed = _located(lambda disk=disk: new_disk(view, wanted.name, uuid, disk), f"disks[{disk.name}]")
            disks.append(complete)
            steps += needed
    nics = {nic.name for nic in found.spec.nics or ()}
    drives = {drive.name for drive in found.spec.cdroms or ()}
    if wanted.disks is not None:
        values["disks"] = tuple(disks)
    if wanted.nics is not None:
        values["nics"] = tuple(nic if nic.name in nics else new_nic(nic, view.site.name, wanted.name) for nic in wanted.nics)
    if wanted.cdroms is not None:
        values["cdroms"] = tuple(drive if drive.name in drives else new_cdrom(drive, found.spec) for drive in wanted.cdroms)
    return make(VmSpec, values), steps


def _raise_limits(wanted: VmSpec, found: Found) -> VmSpec:
    """More memory or vCPUs than the limit raise the limit, too, unless somebody chose it."""
    raised: dict[str, int] = {}
    for now, most in (("memory", "memory_max"), ("cpus", "cpus_max")):
        amount, limit = getattr(wanted, now), getattr(found.spec, most)
        if amount is None or getattr(wanted, most) is not None or limit is None or amount <= limit:
            continue
        chosen = getattr(found.recorded, most, None)
        if chosen is not None and chosen != getattr(found.recorded, now, None):
            shown = format_size if now == "memory" else int
            raise Conflict(
                f"is more than {most} {shown(limit)}", field=now, value=shown(amount), remedy=f"Raise {most} as well; that takes effect at the next restart"
            )
        raised[most] = amount
    return make(VmSpec, {**given(wanted), **raised}) if raised else wanted


def _with_screen(wanted: VmSpec, found: Found) -> VmSpec:
    """A graphical console that is switched on gets what that of a new VM has."""
    screen, before = wanted.vnc, found.spec.vnc
    if screen is None or screen.enabled is False or (before is not None and before.enabled is not False):
        return wanted
    values = {**given(wanted), "vnc": merge(NEW_VNC, screen)}
    if found.spec.video == "none":
        values.setdefault("video", "vga")
    return make(VmSpec, values)


def _other_cpu(wanted: VmSpec, found: Found) -> list[Change]:
    """A VM has a model or a baseline: the one that is asked for leaves the other one behind."""
    return [
        Change(left, getattr(found.spec, left), None, RESTART)
        for taken, left in CPU_CHOICES
        if getattr(wanted, taken) is not None and getattr(found.spec, left) is not None
    ]


def _disconnected(wanted: VmSpec, found: Found) -> list[Change]:
    """A NIC that moves from a network to a bridge, or back, leaves the one behind."""
    known = {nic.name: nic for nic in found.spec.nics or ()}
    return [
        Change(f"nics[{nic.name}].{left}", getattr(known[nic.name], left), None, LIVE)
        for nic in wanted.nics or ()
        for taken, left in (("network", "bridge"), ("bridge", "network"))
        if nic.name in known and getattr(nic, taken) is not None and getattr(known[nic.name], left) is not None
    ]


def _ordered_otherwise(wanted: VmSpec, found: Found) -> list[Change]:
    """A VM boots by class or by device: the order that is asked for leaves the other one behind."""
    if any(one.boot_index for group in GROUPS for one in getattr(wanted, group) or ()):
        return [Change("boot", found.spec.boot, None, RESTART)] if found.spec.boot else []
    members = [(group, one) for group in GROUPS for one in getattr(found.spec, group) or () if one.boot_index] if wanted.boot else []
    return [Change(f"{group}[{one.name}].boot_index", one.boot_index, None, RESTART) for group, one in members]


def _without(whole: VmSpec, changes: list[Change]) -> VmSpec:
    """Take away the devices, the fields of devices and the boot order that the changes take away."""
    gone = {change.field for change in changes if change.after is None}
    values = {name: value for name, value in given(whole).items() if name not in gone}
    for group in GROUPS:
        there = [one for one in values.get(group, ()) if f"{group}[{one.name}]" not in gone]
        values[group] = tuple(_device_without(one, f"{group}[{one.name}]", gone) for one in there)
    if whole.vnc is not None and whole.vnc.enabled is False:
        values["vnc"] = make(VncSpec, {"enabled": False})
    return make(VmSpec, values)


def _device_without(device: Any, place: str, gone: set[str]) -> Any:
    return make(type(device), {name: value for name, value in given(device).items() if f"{place}.{name}" not in gone})


def recorded(asked: VmSpec, before: Optional[VmSpec], whole: VmSpec) -> VmSpec:
    """What is written down as asked for: what was, overlaid by what is asked now, without what is gone."""
    merged = merge(before, asked) if before is not None else asked
    left = {"boot"} if whole.boot is None else set()
    left |= {other for name, other in CPU_CHOICES if getattr(asked, name) is not None}
    values = {name: value for name, value in given(merged).items() if name not in NOT_RECORDED | left}
    for group in GROUPS:
        kept = {one.name: given(one) for one in getattr(whole, group) or ()}
        if group in values:
            there = [one for one in values[group] if one.name in kept]
            values[group] = tuple(make(type(one), {name: value for name, value in given(one).items() if name in kept[one.name]}) for one in there)
    return make(VmSpec, values)


def _check_references(view: SiteView, whole: VmSpec, wanted: VmSpec) -> None:
    for nic in wanted.nics or ():
        place = f"nics[{nic.name}]"
        if nic.network is not None:
            view.required("network", nic.network, f"{place}.network")
    for nic in whole.nics or ():
        other = view.mac_users.setdefault(nic.mac, whole.name) if nic.mac else whole.name
        if other != whole.name:
            raise Conflict(f"vm {other} has the same MAC address", field=f"nics[{nic.name}].mac", value=nic.mac, remedy="Give another MAC address")
    drives = {drive.name: drive for drive in whole.cdroms or ()}
    for drive in wanted.cdroms or ():
        _refuse_empty_usb(drives[drive.name])
        if drive.iso:
            view.image(view.required("iso", drive.iso, f"cdroms[{drive.name}].iso").image, f"cdroms[{drive.name}].iso", "ISOs")
    if wanted.kernel:
        for name in ("kernel", "initrd"):
            if getattr(wanted.kernel, name):
                view.image(getattr(wanted.kernel, name), f"kernel.{name}")


def _refuse_empty_usb(drive: CdromSpec) -> None:
    if drive.bus == "usb" and not drive.iso:
        raise InvalidSpec("a VM with an empty USB drive does not start", field=f"cdroms[{drive.name}].iso", remedy="Name an ISO, or use another bus")


def _check_amounts(whole: VmSpec) -> None:
    """After laying the document over what is there, the amounts must still agree. Raises InvalidSpec."""
    problems = [problem for problem in whole.check() if problem.field in ("cpus", "memory", "cpu_topology", "on_reboot")]
    if problems:
        raise problems[0]


def _check_server(view: SiteView, whole: VmSpec) -> None:
    """Refuse what the server can not do; what it does not tell is left to libvirt. Raises Unsupported."""
    server = view.snapshot.server
    if whole.virtualization and server.domain_types and whole.virtualization not in server.domain_types:
        offered = ", ".join(server.domain_types)
        raise Unsupported(
            f"this server offers {offered}", field="virtualization", value=whole.virtualization, remedy="Use auto, or enable it in the server's firmware"
        )
    firmware = (server.facts or {}).get("firmware") or {}
    for name, needed in (("uefi", "uefi"), ("uefi-secure", "secure_boot")):
        if whole.firmware == name and firmware.get(needed) is False:
            raise Unsupported("this server has no such firmware", field="firmware", value=name, remedy="Install it: apt-get install ovmf")


def _check_machine(whole: VmSpec, found: Found) -> None:
    if whole.machine and found.spec.machine and machine_family(whole.machine) != machine_family(found.spec.machine):
        raise Conflict(
            f"a VM made as {found.spec.machine} can not become another family of machine: its devices would move",
            field="machine",
            value=whole.machine,
            remedy="Make a new VM with its disks",
        )


def _check_room(view: SiteView, whole: VmSpec) -> None:
    memory = (view.snapshot.server.facts or {}).get("memory")
    if memory and (whole.memory or 0) > memory:
        raise NoCapacity(
            f"the server has {format_size(memory)} of memory",
            field="memory",
            value=format_size(whole.memory or 0),
            remedy="Ask for less, or use a larger server",
        )


def _located(call: Any, field: str) -> Any:
    try:
        return call()
    except DomusError as error:
        raise error.located("", field) from None
