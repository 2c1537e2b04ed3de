"""VMs as libvirt domains: read them, and carry out the steps of a plan."""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Optional

from ..errors import DomusError, NotFound
from ..model.fields import make
from ..model.repository import VIRTUAL_DISKS
from ..model.snapshot import Found
from ..model.vm import VmSpec, VmState
from ..model.vm_devices import VncSpec
from ..planning.steps import CREATE, DELETE, KILL, START, STOP, SUSPEND, Step
from ..storage_connect.reach import NotAnswering
from .bounded import bounded, require_wanted
from .connection import code_of, libvirt, separate, told
from .device_writer import Writing, put_seed
from .image_files import grow, is_used
from .places import Places
from .pooled import Pooled
from .seed import discard_work, make_seed, remove_seed
from .vm_live import change_running
from .vm_lookup import record_wanted
from .vm_power import ACTIONS, patience_of, run_state
from .vm_reader import comparable, read_vm, source_of, target_of
from .vm_record import VmRecord, names_in, read_record, write_record
from .vm_writer import change_domain, new_domain
from .xml_fields import get, parse, serialize

STEP_LIMIT = 60.0
SAVE_LIMIT = 3600.0
# A QEMU that waits for a dead file server takes its time even to die: so many steps.
HANGING = 2.5


class Vms:
    """The domains of one libvirt connection; `seeds` is where the seed images of VMs without a disk of their own lie, `pool` the pool of this server."""

    def __init__(self, connection: Any, places: Places, isos: Mapping[str, str], seeds: str, pool: Optional[Pooled] = None) -> None:
        self.connection = connection
        self.pool = pool
        self.places = places
        self.isos = isos
        self.names_of_isos = {path: name for name, path in isos.items()}
        self.seeds = seeds

    def read_all(self) -> dict[str, Found]:
        """All domains by name; one that vanishes meanwhile is left out."""
        with told("listing the domains"):
            domains = self.connection.listAllDomains(0)
        found = {}
        for domain in domains:
            try:
                found[domain.name()] = self._read(domain)
            except NotFound:
                continue
        return found

    def read(self, name: str) -> Optional[Found]:
        """One domain, with its addresses, or None."""
        domain = self.lookup(name)
        return None if domain is None else self._read(domain)

    def lookup(self, name: str) -> Any:
        """The domain of this name, or None."""
        try:
            with told(f"looking for domain {name}"):
                return self.connection.lookupByName(name)
        except NotFound:
            return None

    def fingerprint(self, name: str) -> str:
        """The fingerprint of a domain; empty when there is none."""
        domain = self.lookup(name)
        if domain is None:
            return ""
        with told(f"reading domain {name}"):
            text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            return _fingerprint(text, run_state(domain), self._starts_with_server(domain, read_record(parse(text)) if self.pool else None))

    def _read(self, domain: Any) -> Found:
        with told("reading a domain"):
            text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            state = run_state(domain)
            live = _live_xml(domain, state)
            root = parse(text)
            record = read_record(root)
            autostart, persistent = self._starts_with_server(domain, record), bool(domain.isPersistent())
        spec = self._spec(root, record, autostart)
        running, port, memory = None, None, None
        if live is not None:
            live_root = parse(live)
            in_force = self._spec(live_root, _live_record(live_root, record), autostart)
            port, memory = get(live_root, "./devices/graphics/@port"), in_force.memory
            own = read_record(live_root)
            running = comparable(_without_waiting_secrets(in_force, root, live_root, record), spec, own.spec if own else None)
        measured = VmState(
            uuid=get(root, "./uuid") or "",
            state=state,
            memory=memory,
            persistent=persistent,
            managed=record is not None,
            generation=record.generation if record else 0,
            site=record.site if record else None,
            vnc_port=int(port) if port and port != "-1" else None,
        )
        return Found(spec, measured, running, record.spec if record else None, _fingerprint(text, state, autostart))

    def _starts_with_server(self, domain: Any, record: Optional[VmRecord]) -> bool:
        """In a pool libvirt starts nothing by itself: another server may have the VM by now. The record says what is wanted, and the agent does it."""
        if self.pool is not None and record is not None and record.spec is not None:
            return bool(record.spec.autostart)
        return bool(domain.autostart())

    def _spec(self, root: Any, record: Optional[VmRecord], autostart: bool) -> VmSpec:
        spec = read_vm(root, record, self.places, self.names_of_isos)
        return make(VmSpec, {**vars(spec), "autostart": autostart})

    def carry_out(self, step: Step, site: str) -> None:
        """Take one step. Raises DomusError; a QEMU that does not answer is given up after a while."""
        if self.pool is not None and step.action not in (STOP, KILL):
            self.pool.membership.require_quorum(step.key)
        if step.action == CREATE:
            if self.pool is not None:
                self.pool.require_new(step.uuid, step.key)
            with told(f"defining domain {step.key}"):
                self._create(step, site)
            return
        limit = (
            SAVE_LIMIT
            if step.action == SUSPEND
            else STEP_LIMIT * (HANGING if step.action == KILL else 1) + (patience_of(step.spec) if step.action == "stop" else 0)
        )
        bounded(lambda: self._act_alone(step, site), limit, f"{step.action} of {step.name}")

    def _act_alone(self, step: Step, site: str) -> None:
        with told(f"{step.action} of domain {step.key}"), separate(self.connection) as connection:
            Vms(connection, self.places, self.isos, self.seeds, self.pool)._act(step, site)

    def _act(self, step: Step, site: str) -> None:
        domain = self.lookup(step.key)
        if domain is None:
            raise NotFound("there is no such domain any more", object=step.name, remedy="Apply again")
        with told(f"{step.action} of domain {step.key}"):
            if self.pool is not None:
                self.pool.require_ours(domain)
            if step.action == DELETE:
                self._delete(domain)
            elif step.action in ACTIONS:
                self._change_state(domain, step)
            else:
                self._update(domain, step, site)

    def _change_state(self, domain: Any, step: Step) -> None:
        if step.action in (START, SUSPEND):
            self._require_answering(domain)
        if step.record is not None:
            record_wanted(domain, step.record)
        self._note(domain, step)
        if self.pool is not None and self.pool.keeps_up(domain):
            if not self.pool.act(step.action, domain, step.spec):
                return
        else:
            ACTIONS[step.action](domain, step.spec)
        if step.action == START:
            self._tidy(domain)
        self._note(domain, step)

    def _note(self, domain: Any, step: Step) -> None:
        """The pool's record of it. A VM may always be ended, also where nothing can be written: the record follows once it can."""
        if self.pool is None:
            return
        try:
            self.pool.note(domain, self._read(domain), step.spec.stop_timeout)
        except DomusError:
            if step.action not in (STOP, KILL):
                raise

    def _require_answering(self, domain: Any) -> None:
        """Refuse what would hang, in QEMU and in libvirt, for as long as a file server does not answer. Raises NotAnswering."""
        if self.places.may_hang:
            root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            self.places.require_answering(path for disk in root.iterfind("devices/disk") if (path := source_of(disk)) is not None)

    def _create(self, step: Step, site: str) -> None:
        record = VmRecord(step.record, site, generation=1)
        writing = Writing(self.places, self.isos, record)
        root = new_domain(step.spec, step.uuid or "", writing)
        seed = None
        if step.spec.cloud_init is not None:
            seed = self._make_seed(step, None)
            put_seed(root, seed, record)
        write_record(root, record)
        domain = self._define(root, seed)
        if seed is not None:
            self._tidy(domain)
        if step.spec.autostart and self.pool is None:
            domain.setAutostart(1)
        if self.pool is not None:
            self.pool.settle(domain, self._read(domain), step.changes, step.spec.stop_timeout)

    def _update(self, domain: Any, step: Step, site: str) -> None:
        """Live first, the definition last: whatever interrupts this, planning again finds what is still to do."""
        root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
        record, seed = read_record(root) or VmRecord(site=site), None
        name_devices(root, record)
        record.spec = step.record
        record.generation += 1
        writing = Writing(self.places, self.isos, record)
        active = bool(domain.isActive())
        if active:
            change_running(domain, step.spec, step.changes, writing)
        else:
            self._grow_disks(step)
        change_domain(root, step.spec, step.changes, writing)
        if any(change.field.startswith("cloud_init") for change in step.changes):
            seed = self._make_seed(step, _seed_path(root, record))
            put_seed(root, seed, record)
        write_record(root, record)
        require_wanted()
        domain = self._define(root, seed)
        if any(change.field == "autostart" for change in step.changes):
            domain.setAutostart(int(bool(step.spec.autostart) and self.pool is None))
        if seed is not None or not active:
            self._tidy(domain)
        if self.pool is not None:
            self.pool.settle(domain, self._read(domain), step.changes, step.spec.stop_timeout)

    def _make_seed(self, step: Step, before: Optional[str]) -> str:
        folder = self._seed_folder(step.spec)
        return str(self.places.work(f"{folder}/", lambda: make_seed(folder, step.key, step.uuid or "", step.spec.cloud_init, before)))

    def _define(self, root: Any, seed: Optional[str]) -> Any:
        """Define a domain; when libvirt refuses, the seed image that was made for it goes."""
        try:
            return self.connection.defineXML(serialize(root))
        except libvirt.libvirtError:
            remove_seed(seed)
            raise

    def _grow_disks(self, step: Step) -> None:
        disks = {f"disks[{disk.name}].size": disk for disk in step.spec.disks or ()}
        for change in step.changes:
            if change.field in disks:
                disk = disks[change.field]
                path = self.places.path(disk.file)
                self.places.work(path, functools.partial(grow, path, disk.format or "qcow2", change.after))

    def _delete(self, domain: Any) -> None:
        seed = None
        root = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        record = read_record(root)
        if self.pool is not None:
            self.pool.membership.forget(domain.UUIDString(), domain.name())
        if record is not None:
            seed = _seed_path(root, record)
        nvram = root.findtext("os/nvram")
        variables = "KEEP_NVRAM" if nvram and self._is_used(nvram) else "NVRAM"
        flags = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", variables)
        wanted = sum(getattr(libvirt, f"VIR_DOMAIN_UNDEFINE_{name}", 0) for name in flags)
        try:
            domain.undefineFlags(wanted)
        except libvirt.libvirtError as error:
            if code_of(error) not in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT):
                raise
            domain.undefine()
        if seed:
            self._remove_seeds(root.findtext("name"), os.path.dirname(seed))

    def _is_used(self, path: str) -> bool:
        """Does the VM run from this file on another server? Then what is deleted here is a copy, which takes nothing along that is shared."""
        with suppress(NotAnswering):
            return bool(self.places.reach(path, lambda: _is_open(path)))
        return False

    def _tidy(self, domain: Any) -> None:
        """Delete seed images that this VM had before, now that neither a QEMU nor a saved state needs them."""
        if domain.hasManagedSaveImage():
            return
        root, current = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)), parse(domain.XMLDesc(0))
        record = read_record(root)
        seed = _seed_path(root, record) if record else None
        if seed:
            kept = {source_of(disk) for one in (root, current) for disk in one.iterfind("devices/disk")}
            self._remove_seeds(root.findtext("name"), os.path.dirname(seed), kept)

    def _remove_seeds(self, name: str, folder: str, kept: Collection[Optional[str]] = ()) -> None:
        with suppress(NotAnswering):  # what can not be reached stays there
            self.places.reach(f"{folder}/", lambda: _remove_seeds(name, folder, kept))

    def _seed_folder(self, spec: VmSpec) -> str:
        """Beside the VM's disks, so that it is there wherever they are; else in the server's own directory."""
        for disk in spec.disks or ():
            repository = self.places.repositories.get((disk.file or "").split("/", 1)[0])
            if repository is not None and not repository.adopted:
                return f"{repository.path}/{VIRTUAL_DISKS}"
        return self.seeds

    def addresses(self, name: str) -> tuple[str, ...]:
        """The IP addresses of a running domain: from the leases of its networks, else from the server's neighbours, else from its guest agent."""
        domain = self.lookup(name)
        # libvirt's test driver (9.0) has no guests to ask, and crashes for a network without a subnet.
        if domain is None or self.connection.getType() == "TEST":
            return ()
        for source in ("LEASE", "ARP", "AGENT"):
            try:
                answer = bounded(functools.partial(_ask_addresses, domain, source), 6.0, "asking for addresses")
            except (DomusError, libvirt.libvirtError):
                continue
            if answer:
                return tuple(answer)
        return ()


def _remove_seeds(name: str, folder: str, kept: Collection[Optional[str]]) -> None:
    for path in glob.glob(os.path.join(glob.escape(folder), f"{glob.escape(name)}-cloud-init-????????????.iso")):
        if path not in kept and not _is_open(path):
            remove_seed(path)
    discard_work(folder, name)


def _is_open(path: str) -> bool:
    """Has a QEMU the file open, on whichever server?"""
    with suppress(OSError):
        return is_used(path)
    return False


def _ask_addresses(domain: Any, source: str) -> list[str]:
    interfaces = domain.interfaceAddresses(getattr(libvirt, f"VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_{source}"), 0)
    found = [entry["addr"] for name, interface in interfaces.items() if name != "lo" for entry in interface["addrs"] or ()]
    usable = [address for address in dict.fromkeys(found) if not address.startswith(("fe80:", "127.")) and address != "::1"]
    return sorted(usable, key=lambda address: ":" in address)


def _live_xml(domain: Any, state: str) -> Optional[str]:
    """The XML of what runs; of a VM suspended to disk, of what will run when it is resumed."""
    if state in ("running", "paused"):
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
    if state == "suspended":
        try:
            return str(domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE))
        except libvirt.libvirtError:
            return None
    return None


def _fingerprint(text: str, state: str, autostart: bool) -> str:
    return hashlib.sha256(f"{text}{state}{autostart}".encode()).hexdigest()[:32]


def _live_record(live_root: Any, record: Optional[VmRecord]) -> Optional[VmRecord]:
    """The record for reading what runs: devices that the definition has lost keep the names they had."""
    return dataclasses.replace(record, devices=names_in(live_root, record)) if record is not None else None


def _without_waiting_secrets(running: VmSpec, root: Any, live_root: Any, record: Optional[VmRecord]) -> VmSpec:
    """The record tells of secrets as they are defined; those that are not in force yet are taken out of what runs."""
    values = dict(vars(running))
    if record is not None and _seed_path(root, record) != _seed_path(live_root, record):
        values["cloud_init"] = None
    if running.vnc is not None and get(root, "./devices/graphics/@passwd") != get(live_root, "./devices/graphics/@passwd"):
        values["vnc"] = make(VncSpec, {**vars(running.vnc), "password": None})
    return make(VmSpec, values)


def _seed_path(root: Any, record: VmRecord) -> Optional[str]:
    return next((source_of(disk) for disk in root.iterfind("devices/disk") if record.seed and target_of(disk) == record.seed), None)


def name_devices(root: Any, record: VmRecord) -> None:
    """Write down the names of devices that have none yet, so that they keep the name they were shown under."""
    for disk in root.iterfind("devices/disk"):
        target = target_of(disk)
        group = "cdroms" if disk.get("device") == "cdrom" else "disks"
        if target != record.seed and target not in record.names(group):
            record.rename(group, target, target)
    for position, nic in enumerate(root.iterfind("devices/interface")):
        mac = get(nic, "./mac/@address") or ""
        if mac not in record.names("nics"):
            record.rename("nics", f"eth{position}", mac)
