"""A VM arrives: what is made ready for it here, and what is completed or taken away afterwards.

What has begun is written down (registry kind `incoming`) before it begins, and forgotten once it is settled.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import Conflict, InvalidSpec
from ..model.migration import MovingDisk, MovingVm, moving_vm
from ..model.repository import directory_of, is_shared
from ..planning import migration as planning
from ..planning.migration import MigrationPlan
from . import image_files
from . import migration_sight as sight
from .connection import libvirt, told
from .migration_facts import INCOMING, LARGEST_FILE, seed_folders
from .registry import write_atomically
from .tools import make_folder
from .virtual_disk import notes_of
from .xml_fields import parse

if TYPE_CHECKING:
    from .driver import LibvirtDriver


def receive(
    driver: LibvirtDriver, vm: MovingVm, plan: MigrationPlan, contents: Mapping[str, str], *, operation: str, source_uri: str, offer: Mapping[str, Any]
) -> None:
    """Make ready what the VM needs here: empty images for the disks that are copied, with their notes, and the files that come along.

    `contents` are the files by path, base64. Raises Conflict, NoCapacity, InvalidSpec; then nothing is left behind.
    """
    record: dict[str, Any] = {"operation": operation, "vm": dataclasses.asdict(vm), "plan": plan.as_dict(), "source": source_uri, "destination": dict(offer)}
    record["made"] = []
    driver.registry.write(INCOMING, vm.uuid, record)
    try:
        for path, content in contents.items():
            _bring(driver, record, path, content)
        for disk in vm.disks:
            if disk.target in plan.copied:
                _make_disk(driver, record, vm, disk)
    except BaseException:
        discard(driver, vm.uuid)
        raise


def _bring(driver: LibvirtDriver, record: dict[str, Any], path: str, content: str) -> None:
    folder = os.path.dirname(path)
    if os.path.normpath(path) != path or folder not in seed_folders(driver):
        raise InvalidSpec("is no place for a file that comes along", field="path", value=path, remedy="Use the same directories on both servers")
    data = base64.b64decode(content)
    if len(data) > LARGEST_FILE:
        raise InvalidSpec(f"is larger than {LARGEST_FILE} bytes", field="path", value=path)
    _note(driver, record, path)
    make_folder(folder, 0o711)
    write_atomically(path, data, 0o600)


def _make_disk(driver: LibvirtDriver, record: dict[str, Any], vm: MovingVm, disk: MovingDisk) -> None:
    places = driver.known_places()
    path = places.path(disk.place)
    if path != disk.path or os.path.lexists(path):
        raise Conflict("there is a file of this name already", field=f"disks[{disk.name}]", value=path, remedy="Remove it, or rename it")
    _note(driver, record, path)
    if disk.note is not None:
        notes_of(str(directory_of(places.repositories[disk.repository]))).write("virtual_disk", os.path.splitext(os.path.basename(path))[0], disk.note)
    make_folder(os.path.dirname(path), 0o711)
    image_files.create_empty(path, disk.format, disk.size, False)


def _note(driver: LibvirtDriver, record: dict[str, Any], path: str) -> None:
    """Write down what is about to be made: only that may be discarded."""
    record["made"].append(path)
    driver.registry.write(INCOMING, record["vm"]["uuid"], record)


def finish(driver: LibvirtDriver, uuid: str) -> dict[str, Any]:
    """The VM has arrived: give it what libvirt does not move; return what is known of the move ({downtime, total} in ms)."""
    record = driver.registry.read(INCOMING, uuid)
    told_of: dict[str, Any] = {}
    with told("completing the arrival"):
        domain = driver.connection.lookupByUUIDString(uuid)
        pool = driver.pool
        if pool is not None:
            pool.arrived(domain)
        elif record is not None and record["vm"]["autostart"]:
            domain.setAutostart(1)
        if domain.isActive():
            with contextlib.suppress(libvirt.libvirtError):
                done = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
                told_of = {"downtime": done.get("downtime"), "total": done.get("time_elapsed")}
    driver.registry.remove(INCOMING, uuid)
    return told_of


def resume(driver: LibvirtDriver, uuid: str) -> None:
    """Let a VM that has arrived go on."""
    with told("letting it go on"):
        driver.connection.lookupByUUIDString(uuid).resume()


def drop(driver: LibvirtDriver, uuid: str) -> None:
    """End a VM that the other server has, and take its definition away."""
    with told("dropping it"):
        domain = driver.connection.lookupByUUIDString(uuid)
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefineFlags(_nvram_flag(driver, domain) | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def _nvram_flag(driver: LibvirtDriver, domain: Any) -> int:
    """What becomes of its UEFI variables: a file that the other server has, too, stays."""
    holding = driver.known_places().holding(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).findtext("os/nvram"))
    is_theirs = holding is not None and is_shared(holding)
    return int(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if is_theirs else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def discard(driver: LibvirtDriver, uuid: str) -> list[str]:
    """The VM does not come: delete what was made ready for it, and return the paths. Raises Conflict while a domain of this UUID is here."""
    record = driver.registry.read(INCOMING, uuid)
    if record is None:
        return []
    if sight.look(driver.connection, uuid, arriving=True) != planning.ABSENT:
        raise Conflict("is here: what was made for it stays", object=f"vm {record['vm']['name']}")
    vm, removed = moving_vm(record["vm"]), []
    disks = {disk.path: disk for disk in vm.disks}
    for path in record["made"]:
        if path in disks:
            image_files.remove(path)
            forget_note(driver, disks[path])
        elif os.path.exists(path):
            os.unlink(path)
        removed.append(path)
    driver.registry.remove(INCOMING, uuid)
    return removed


def forget_note(driver: LibvirtDriver, disk: MovingDisk) -> None:
    """A disk is no longer here: neither is what Domus noted of it."""
    repository = driver.known_places().repositories.get(disk.repository)
    if repository is not None and disk.note is not None:
        notes_of(str(directory_of(repository))).remove("virtual_disk", os.path.splitext(os.path.basename(disk.path))[0])
