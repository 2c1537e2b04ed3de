"""What being a member of a clustered pool adds to the work on a VM here: its record is written, and an HA VM is started and stopped by Pacemaker."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Optional

from ..cluster.disk_locks import unlocked
from ..cluster.libvirt_host import Settings, own_migration
from ..cluster.membership import Membership, record_of
from ..cluster.wishes import Migration
from ..errors import DomusError, Moved, NotFound
from ..model.ha import is_kept_up
from ..model.snapshot import Found
from ..model.vm import VmSpec
from ..planning.steps import KILL, START, STOP, SUSPEND, Change
from .bounded import bounded
from .connection import libvirt, told
from .migration_flags import libvirt_flags
from .vm_power import ACTIONS, patience_of
from .vm_reader import source_of
from .vm_record import read_record
from .xml_fields import parse

if TYPE_CHECKING:
    from .driver import LibvirtDriver

# Saving its memory may take so long.
SAVE_SECONDS, SECONDS = 3600.0, 10.0
KILL_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The pool's part of the work on VMs of this server."""

    membership: Membership

    def require_new(self, uuid: Optional[str], name: str) -> None:
        """Raise Moved when the pool has this VM already: it is never made a second time."""
        record = self.membership.find(uuid or "")
        if record is not None:
            raise Moved("is a VM of this pool already", object=f"vm {name}", value=record.server, remedy=f"It belongs to {record.server}: apply there")

    def require_ours(self, domain: Any) -> None:
        """What is defined here may be a leftover: another member has the VM, or had it, and is proven to be off. Raises Moved, Conflict."""
        record = None if domain.isActive() else self.membership.find(domain.UUIDString())
        if record is not None and (record.server not in (None, self.membership.server) or self.membership.places_of(record.name)):
            self.membership.take(record)

    def keeps_up(self, domain: Any) -> bool:
        """Is the VM to be kept up, by its own record?"""
        own = read_record(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
        return own is not None and is_kept_up(own.spec)

    def note(self, domain: Any, found: Found, stop_timeout: Optional[int] = None) -> bool:
        """Write the pool's record of a VM that is defined here, where it says something new; whether it did. One that Domus does not manage has none."""
        if found.recorded is None:
            return False
        text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
        state, spec = found.state, found.spec
        saved, active = state.state == "suspended", state.state in ("running", "paused")
        told = {"wanted": found.recorded.state, "saved": saved, "active": active, "stop_timeout": stop_timeout}
        return self.membership.save(record_of(self.membership, state.uuid, spec.name, text, spec, state.generation, **told))

    def settle(self, domain: Any, found: Found, changes: Iterable[Change], stop_timeout: Optional[int]) -> None:
        """After a VM was defined: its record, and its place in Pacemaker's configuration."""
        self.note(domain, found, stop_timeout)
        if is_kept_up(found.recorded):
            self.membership.keep_up({found.spec.name: found.state.state == "running"})
        elif any(change.field.split(".")[0] == "ha" for change in changes):
            self.membership.keep_up({}, dropped=[found.spec.name])

    def act(self, action: str, domain: Any, spec: VmSpec) -> bool:
        """Change the run state of an HA VM; whether it is still here afterwards."""
        name, member = domain.name(), self.membership
        if action == START and not domain.isActive():
            member.start(name)
            return self._is_here(domain)
        if action in (STOP, KILL, SUSPEND):
            seconds = {STOP: float(patience_of(spec)), KILL: KILL_SECONDS, SUSPEND: SAVE_SECONDS}[action]
            with member.ending(name, domain.UUIDString(), seconds):
                ACTIONS[action](domain, spec)
        else:
            ACTIONS[action](domain, spec)
        return True

    def move(self, domain: Any, migration: Migration) -> None:
        """Have Pacemaker migrate an HA VM: it alone knows where it is to run. Raises DomusError when it runs on where it is."""
        self.membership.move(domain.name(), domain.UUIDString(), migration, SAVE_SECONDS)

    def _is_here(self, domain: Any) -> bool:
        """Pacemaker may have started it on another server: then it is no longer ours to define."""
        places = self.membership.places_of(domain.name())
        if self.membership.server in places or not places:
            return True
        forget_definition(domain)
        return False

    def take(self, connection: Any, name: str) -> Optional[str]:
        """Define a VM of the pool here whose server is proven to be off; returns its UUID, None: the pool has none of this name. Raises Moved, Conflict."""
        record = self.membership.find_named(name)
        if record is None:
            return None
        self.membership.require_free(record)
        disks = _written(parse(record.definition))
        missing = bounded(lambda: [path for path in disks if not os.path.exists(path)], SECONDS, "looking for its disks")
        if missing:
            raise NotFound(f"its disk {missing[0]} is not on this server", object=f"vm {record.name}", remedy=f"Bring {record.server} back, which has it")
        self.membership.take(record)
        with told(f"defining {record.name}"):
            connection.defineXML(record.definition).setAutostart(0)
        return record.uuid

    def arrived(self, domain: Any) -> None:
        """A VM that has been moved here is this server's by its record, too; one that does not run would count as a leftover.

        Raises what writing the record raises, but for one that runs: whose that is shows.
        """
        try:
            record = self.membership.find(domain.UUIDString())
            if record is not None:
                self.membership.save(dataclasses.replace(record, server=self.membership.server))
        except DomusError:
            if not domain.isActive():
                raise

    def unprotected(self, domains: Iterable[tuple[str, Any]]) -> list[str]:
        """The names of the VMs that run, and some disk of which nobody holds the lock of."""
        return [name for name, domain in domains if domain is not None and domain.isActive() and unlocked(_written(parse(domain.XMLDesc(0))))]


def migrate_plainly(driver: LibvirtDriver, uuid: str, target: str, settings: Settings, seconds: float) -> None:
    """Have libvirt move a VM without HA live to another member, without the agents' preparations; its record names that one afterwards.

    Raises DriverError when it runs on where it is, Unreachable after `seconds`: libvirt may go on then.
    """
    pool, wanted = driver.pool, own_migration(settings, target)
    domain = driver.connection.lookupByUUIDString(uuid)
    with told(f"moving {domain.name()} to {target}"):
        bounded(lambda: domain.migrateToURI3(wanted.uri, {}, libvirt_flags(wanted.flags)), seconds, f"moving it to {target}")
    record = pool.membership.find(uuid) if pool is not None else None
    if pool is not None and record is not None:
        pool.membership.save(dataclasses.replace(record, server=target))


def forget_definition(domain: Any) -> None:
    """Take the definition of a VM away that another server of the pool has; its record keeps it."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)


def _written(root: Any) -> list[str]:
    """The disks that a VM may write to, by its XML: those are locked for it alone."""
    disks = [disk for disk in root.iterfind("devices/disk[@device='disk']") if disk.find("readonly") is None and disk.find("shareable") is None]
    return [path for disk in disks if (path := source_of(disk)) is not None]
