"""What a step does to a snapshot: the whole of virtualization as a pure function."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from ..model.fields import CREATION, RESTART, given, make
from ..model.identity import derived_uuid
from ..model.iso import IsoState
from ..model.network import NetworkState
from ..model.repository import ISOS, TEMPLATES, VIRTUAL_DISKS, RepositoryState, is_shared
from ..model.server import ServerState
from ..model.server_pool import ServerPoolState
from ..model.snapshot import Found, Snapshot
from ..model.template import TemplateState
from ..model.virtual_disk import VirtualDiskState, file_name
from ..model.vm import VmSpec, VmState
from ..planning.live import with_changes
from ..planning.steps import CREATE, DELETE, KILL, PAUSE, RESUME, START, STOP, SUSPEND, Step

RUN_STATES = {START: "running", STOP: "stopped", KILL: "stopped", PAUSE: "paused", RESUME: "running", SUSPEND: "suspended"}


def simulate(snapshot: Snapshot, step: Step, site: str) -> Snapshot:
    """Return the snapshot as it is after the step."""
    objects = {kind: dict(entries) for kind, entries in snapshot.objects.items()}
    entries = objects.setdefault(step.kind, {})
    if step.action == DELETE:
        entries.pop(step.key, None)
    else:
        entries[step.key] = _AFTER[step.kind](snapshot, entries.get(step.key), step, site)
    if step.kind == "virtual_disk" and step.action != DELETE:
        _tell_vms(objects, snapshot, step)
    if step.kind == "vm" and step.action == "update":
        _tell_virtual_disks(objects, step)
    return Snapshot(snapshot.server, objects, snapshot.files, snapshot.lacks)


def _fingerprint(found: Optional[Found]) -> str:
    return str(int(found.fingerprint or 0) + 1 if found else 1)


def _vm(snapshot: Snapshot, found: Optional[Found], step: Step, site: str) -> Found:
    spec = found.spec if found and step.action in RUN_STATES else _without_state(step.spec)
    before = found.state if found else VmState(uuid=step.uuid or "", persistent=True)
    recorded = step.record if step.record is not None else found.recorded if found else None
    generation = before.generation + (1 if step.action in (CREATE, "update") or step.record is not None else 0)
    run_state = RUN_STATES.get(step.action, before.state)
    state = dataclasses.replace(before, state=run_state, managed=recorded is not None, generation=generation, site=before.site or site)
    return Found(spec, state, _running(found, spec, step, run_state), recorded, _fingerprint(found))


def _running(found: Optional[Found], spec: VmSpec, step: Step, run_state: str) -> Optional[VmSpec]:
    if run_state == "stopped":
        return None
    if found is None or found.running is None:
        return spec
    running: VmSpec = found.running
    if step.action in RUN_STATES:
        return running
    live = [change for change in step.changes if change.effect not in (RESTART, CREATION) and change.field != "state"]
    running = with_changes(running, live)
    return spec if running == spec else running


def _without_state(spec: Any) -> Any:
    dropped = ("state", "adopted", "exact", "delete_disks", "generation", "force_stop", "stop_timeout", "server", "pool", "servers", "force_unmount")
    values = {name: value for name, value in given(spec).items() if name not in dropped}
    if isinstance(spec, VmSpec):
        for group in ("disks", "cdroms", "nics"):
            values.setdefault(group, ())
    return make(type(spec), values)


def _network(snapshot: Snapshot, found: Optional[Found], step: Step, site: str) -> Found:
    before = found.state if found else NetworkState(uuid=step.uuid or "", made_by_domus=True)
    if step.action in (START, STOP):
        spec = found.spec if found else _without_state(step.spec)
        active = step.action == START
        return Found(spec, dataclasses.replace(before, active=active), spec if active else None, None, _fingerprint(found))
    spec = _without_state(step.spec)
    live = [change for change in step.changes if change.effect != RESTART]
    running = with_changes(found.running, live) if found and found.running else None
    return Found(spec, before, spec if running == spec else running, None, _fingerprint(found))


def _virtual_disk(snapshot: Snapshot, found: Optional[Found], step: Step, site: str) -> Found:
    if found is not None:
        return Found(step.spec, found.state, fingerprint=_fingerprint(found))
    repository = snapshot.find("repository", step.spec.repository)
    folder = f"{repository.spec.path if repository else ''}/{VIRTUAL_DISKS}"
    template = snapshot.find("template", step.spec.template) if step.spec.template else None
    backing = template.state.path if template and step.spec.clone == "thin" else None
    path = f"{folder}/{file_name(step.spec.name, step.spec.format)}"
    return Found(step.spec, VirtualDiskState(path, 0, backing, step.uuid, True), fingerprint="1")


def _tell_vms(objects: dict[str, dict[str, Found]], snapshot: Snapshot, step: Step) -> None:
    place = f"{step.spec.repository}/{VIRTUAL_DISKS}/{file_name(step.spec.name, step.spec.format)}"
    for name, vm in objects.get("vm", {}).items():
        if any(disk.file == place for disk in vm.spec.disks or ()):
            objects["vm"][name] = dataclasses.replace(vm, spec=_sized(vm.spec, place, step.spec.size), running=_sized(vm.running, place, step.spec.size))


def _sized(spec: Any, place: str, size: int) -> Any:
    if spec is None:
        return None
    disks = tuple(make(type(disk), {**given(disk), "size": size}) if disk.file == place else disk for disk in spec.disks or ())
    return make(VmSpec, {**given(spec), "disks": disks})


def _tell_virtual_disks(objects: dict[str, dict[str, Found]], step: Step) -> None:
    sizes = {disk.file: disk.size for disk in step.spec.disks or ()}
    for key, found in objects.get("virtual_disk", {}).items():
        place = f"{found.spec.repository}/{VIRTUAL_DISKS}/{file_name(found.spec.name, found.spec.format or 'qcow2')}"
        if sizes.get(place):
            objects["virtual_disk"][key] = dataclasses.replace(found, spec=make(type(found.spec), {**given(found.spec), "size": sizes[place]}))


def _registered(make_state: Any) -> Any:
    def after(snapshot: Snapshot, found: Optional[Found], step: Step, site: str) -> Found:
        return Found(_without_state(step.spec), found.state if found else make_state(snapshot, step.spec), fingerprint=_fingerprint(found))

    return after


def _repository(found: Optional[Found], step: Step) -> Found:
    spec = _without_state(step.spec)
    before = (
        found.state
        if found
        else RepositoryState(registered=True, shared=is_shared(spec), uuid=derived_uuid("", "repository", spec.name) if is_shared(spec) else "")
    )
    mounted = None if spec.nfs is None else True
    state = dataclasses.replace(before, registered=True, mounted=mounted, available=True, problem=None, file_system="nfs4" if mounted else before.file_system)
    return Found(spec, state, fingerprint=_fingerprint(found))


def _server_pool(found: Optional[Found], step: Step) -> Found:
    """A member, whose cluster is as it was told."""
    spec = make(type(step.spec), {name: value for name, value in given(step.spec).items() if name != "state"})
    clustered = spec.clustered is not False
    state = dataclasses.replace(found.state if found else ServerPoolState(), registered=True, joined=clustered, quorate=clustered, amiss=())
    return Found(spec, state, fingerprint=_fingerprint(found))


def _image_state(state: Any, folder: str) -> Any:
    def make_state(snapshot: Snapshot, spec: Any) -> Any:
        name, rest = spec.image.split("/", 1)
        repository = snapshot.find("repository", name)
        return state(path=f"{repository.spec.path if repository else ''}/{folder}/{rest}")

    return make_state


_AFTER = {
    "vm": _vm,
    "network": _network,
    "virtual_disk": _virtual_disk,
    "server": _registered(lambda snapshot, spec: ServerState()),
    "repository": lambda snapshot, found, step, site: _repository(found, step),
    "server_pool": lambda snapshot, found, step, site: _server_pool(found, step),
    "template": _registered(_image_state(TemplateState, TEMPLATES)),
    "iso": _registered(_image_state(IsoState, ISOS)),
}
