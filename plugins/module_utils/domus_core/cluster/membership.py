"""This server as a member of its pool, for whoever changes VMs here: their records, their place in Pacemaker's configuration, their target roles."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Callable, Optional

from ..errors import Conflict, DomusError, Forbidden, Moved, NotFound
from ..model.fields import plain
from ..model.ha import is_kept_up
from ..model.vm import VmSpec
from . import pool_vms
from .cib import CLOSED, is_ours
from .cib_vms import PoolRules, ha_vms, known_vms, vm_configuration
from .fence_tests import FenceTest, questions, recall
from .libvirt_host import Settings, is_quorate
from .ocf_door import SETTINGS, read_settings
from .pacemaker import Pacemaker
from .pool import STAY_OFF, HaVm
from .pool_status import PoolStatus, read_status
from .record_files import all_records, read_record, remove_record, write_record
from .records import PoolRecord
from .watchdog import is_trusted
from .wishes import Migration, migrating, stopping

# What Pacemaker gets beyond the guest's own time to be done with a start or a stop.
PATIENCE = 180.0


def read_membership(path: str = SETTINGS) -> Optional[Membership]:
    """This server's membership; None when it is in no clustered pool. Raises DomusError when its settings can not be read."""
    try:
        return Membership(read_settings(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DomusError(f"{path} can not be read: {error}", remedy="Apply the pool again: it is written anew") from None


@dataclasses.dataclass(frozen=True)
class Membership:
    """A member by its settings; every method raises DomusError (Unreachable when the pool file system or Pacemaker hangs)."""

    settings: Settings
    pacemaker: Pacemaker = dataclasses.field(default_factory=Pacemaker)
    status: Callable[[], PoolStatus] = read_status
    quorate: Callable[[], bool] = is_quorate

    @property
    def server(self) -> str:
        """This server's name in the pool."""
        return self.settings.server

    def of(self, server: Optional[str]) -> Membership:
        """The same for another member; None: for this one."""
        return self if server is None else dataclasses.replace(self, settings=dataclasses.replace(self.settings, server=server))

    # --- what may be

    def refusal(self, directory: str) -> Optional[str]:
        """Why no VM may be HA in this pool now, as far as it is seen from here; None: it may. `directory` holds the last fence tests."""
        if not self.quorate():
            return "this server has no quorum"
        if self.settings.untested_fencing:
            return None
        return fencing_refusal(self.pacemaker.read(), self.server, recall(directory))

    def require_quorum(self, vm: str) -> None:
        """Raise Forbidden where nothing may be changed."""
        if not self.quorate():
            raise Forbidden("this server has no quorum, so that nothing of its pool is changed here", object=f"vm {vm}", remedy="domus-agent pool status")

    # --- records

    def find(self, uuid: str) -> Optional[PoolRecord]:
        """The record of a VM, or None."""
        with contextlib.suppress(NotFound):
            return read_record(self.settings.records, uuid)[0]
        return None

    def find_named(self, name: str) -> Optional[PoolRecord]:
        """The record of the VM of this name or UUID, or None."""
        records, dummy = all_records(self.settings.records)
        return next((one for one in records if name in (one.name, one.uuid)), None)

    def require_free(self, record: PoolRecord) -> None:
        """Raise Moved for a VM that another member has, Conflict for one whose server may still run it, or holds its saved memory."""
        status = self.status()
        places = status.servers_of(record.name)
        holder = places[0] if places else record.server
        state = status.members.get(holder or "", "offline")
        if holder not in (None, self.server) and (places or state in ("online", "standby", "maintenance", "pending")):
            raise Moved(f"is on {holder}", object=f"vm {record.name}", value=holder, remedy=f"Ask {holder}, or the manager")
        if holder != self.server and state == "unclean":
            raise Conflict(f"{holder} may still run it: it is not proven to be off", object=f"vm {record.name}", remedy="domus-agent pool status")
        if record.saved_on not in (None, self.server):
            raise Conflict(f"its memory is saved on {record.saved_on}", object=f"vm {record.name}", remedy=f"Bring {record.saved_on} back")

    def take(self, record: PoolRecord) -> None:
        """From now on the VM is this server's, by its record. Raises what `require_free` raises."""
        self.require_free(record)
        self.require_quorum(record.name)
        self.save(dataclasses.replace(record, server=self.server))

    def save(self, record: PoolRecord) -> bool:
        """Write a record where it says something new; whether it did. What it leaves out stays: where the VM ran last, its guest's time to stop."""
        try:
            before, token = read_record(self.settings.records, record.uuid)
        except NotFound:
            before, token = None, ""
        if before == record:
            return False
        write_record(self.settings.records, record, token, self.quorate)
        return True

    def forget(self, uuid: str, name: str) -> None:
        """The VM is deleted: nobody keeps it up, and its record goes."""
        if name in known_vms(self.pacemaker.read()):
            self.keep_up({}, dropped=[name])
        with contextlib.suppress(NotFound):
            dummy, token = read_record(self.settings.records, uuid)
            remove_record(self.settings.records, uuid, token, self.quorate)

    # --- Pacemaker

    def keep_up(self, wanted: Mapping[str, bool], dropped: Collection[str] = ()) -> tuple[str, ...]:
        """Have Pacemaker keep up VMs as their records ask; returns what has changed.

        `wanted`: the VMs that may be new to it, and whether they are to run. `dropped`: those that it lets go; they run on. A VM that runs is not disturbed.
        One that is neither known nor wanted stays out though its record asks for it: somebody deletes it just now, and its record goes last.
        """
        rules = PoolRules(self.settings.pool, int(self.settings.lock_patience), self.settings.start_policy)

        def configuration(cib: Any) -> Any:
            known = known_vms(cib) - set(dropped)
            records, dummy = all_records(self.settings.records)
            told = [one for one in records if one.name not in dropped and (one.name in known or one.name in wanted)]
            vms, dummy_problems = ha_vms(told, known, _places(self.status(), known), wanted)
            return vm_configuration(cib, rules, [self._with_hosts(vm) for vm in vms], dropped)

        return self.pacemaker.change(configuration, f"server_pool {self.settings.pool}").changes

    def _with_hosts(self, vm: HaVm) -> HaVm:
        """The VM with the names that servers have for themselves, as Pacemaker knows them."""
        return dataclasses.replace(vm, preferred_servers=tuple(map(self.host_of, vm.preferred_servers)))

    def host_of(self, server: str) -> str:
        """The name that a server has for itself, by that which the manager has for it."""
        return self.settings.hosts.get(server, server)

    def servers(self) -> tuple[str, ...]:
        """The members, by the names that the manager has for them."""
        called = {host: name for name, host in self.settings.hosts.items()}
        return tuple(sorted(called.get(host, host) for host in self.status().members))

    def close(self, closed: bool) -> bool:
        """While this server is closed Pacemaker brings no further VM to it; those that are there stay. False: it is not in the configuration yet."""
        known: list[Any] = []

        def edit(configuration: Any) -> tuple[str, ...]:
            pairs = configuration.iterfind(f"nodes/node[@uname='{self.server}']/instance_attributes/nvpair[@name='{CLOSED}']")
            known[:] = [pair for pair in pairs if is_ours(pair.getparent().get("id", ""))]
            changing = [pair for pair in known if pair.get("value") != str(int(closed))]
            for pair in changing:
                pair.set("value", str(int(closed)))
            return (CLOSED,) if changing else ()

        self.pacemaker.edit(edit, f"server {self.server}")
        return bool(known)

    def keeps_up(self, name: str) -> bool:
        """Is it one of Pacemaker's?"""
        return name in known_vms(self.pacemaker.read())

    def places_of(self, name: str) -> tuple[str, ...]:
        """Where Pacemaker has the VM."""
        return self.status().servers_of(name)

    def start(self, name: str) -> None:
        """Have an HA VM run, wherever Pacemaker has room, and wait for it."""
        pool_vms.set_wanted(name, pool_vms.STARTED, PATIENCE + self.settings.lock_patience)

    def move(self, name: str, uuid: str, migration: Migration, patience: float) -> None:
        """Have Pacemaker migrate an HA VM live to another member, in that way; where it fails the VM runs on where it is."""
        told = dataclasses.replace(migration, target=self.host_of(migration.target))
        with migrating(self.settings.state, uuid, told, patience):
            pool_vms.move(name, told.target, patience)

    @contextlib.contextmanager
    def ending(self, name: str, uuid: str, seconds: float) -> Iterator[None]:
        """While somebody ends an HA VM here by libvirt, within `seconds`: it is not started again, and Pacemaker hears of it afterwards."""
        with stopping(self.settings.state, uuid, seconds + PATIENCE):
            yield
            pool_vms.set_wanted(name, pool_vms.STOPPED, PATIENCE)


def record_of(
    membership: Membership,
    uuid: str,
    name: str,
    definition: str,
    spec: VmSpec,
    generation: int,
    *,
    wanted: Optional[str],
    saved: bool,
    active: bool,
    stop_timeout: Optional[int] = None,
) -> PoolRecord:
    """The record of a VM that is defined here: it runs here, or Pacemaker decides where it runs."""
    before = membership.find(uuid)
    kept_up = is_kept_up(spec)
    elsewhere = before is not None and kept_up and not active and not saved
    own = membership.server
    ha = spec.ha
    return PoolRecord(
        uuid,
        name,
        definition,
        plain(spec, mask=False),
        generation,
        server=before.server if elsewhere and before is not None and before.server else own,
        wanted=wanted,
        saved_on=own if saved else before.saved_on if elsewhere and before is not None else None,
        on_shutdown=(ha and ha.on_shutdown) or STAY_OFF,
        start_delay=(ha and ha.start_delay) or 0,
        stop_timeout=stop_timeout if stop_timeout is not None else before.stop_timeout if before is not None else 120,
    )


def fencing_refusal(cib: Any, own: str, tests: Iterable[FenceTest]) -> Optional[str]:
    """Why HA would be hope: a member that no fence device can cut and no watchdog resets, or a device that has not passed its test from here; None: well."""
    asked = [(one.device, one.server) for one in questions(cib, "")]
    members = {str(node.get("uname")) for node in cib.iterfind("configuration/nodes/node")}
    bare = sorted(members - {server for dummy, server in asked}) if not is_trusted(cib) else []
    if bare:
        return f"no fence device can cut the power of {', '.join(bare)}"
    passed = {(one.device, one.server) for one in tests if one.problem is None}
    untested = sorted({f"{device} for {server}" for device, server in asked if server != own and (device, server) not in passed})
    return f"these fence devices have not passed a test: {', '.join(untested)}" if untested else None


def _places(status: PoolStatus, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {name: status.servers_of(name) for name in names}
