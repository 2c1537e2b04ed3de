"""This server, for the OCF agent: libvirt where it answers, processes and signals where it does not."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from ..errors import Conflict, DomusError, DriverError, NotFound, Unreachable
from ..libvirt_driver import qemu_processes
from ..libvirt_driver.bounded import bounded, require_wanted
from ..libvirt_driver.connection import code_of, connect, libvirt, told
from ..libvirt_driver.dead_peers import watched
from ..libvirt_driver.migration_flags import libvirt_flags
from ..libvirt_driver.tools import run
from .pool import BEST
from .record_files import read_record, replace_file, write_record
from .records import PoolRecord, as_text, from_text
from .wishes import Migration, is_stopping, wanted_migration

# A libvirtd that hangs must leave time to end the process without it; a start may be long in QEMU and in the locks.
ASK_SECONDS, START_SECONDS = 10.0, 75.0
LIBVIRT_DAEMONS = ("libvirtd", "virtqemud")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where things are on this server: /etc/domus/pool.json, written by the role `server_pool`.

    `migration` is the URI of another server's libvirt with `{}` for its name; `state` holds what may be lost at a boot, `copies` what may not.
    `unsafe_migration`: libvirt does not see that the storage is shared (bind mounts), we know it. `untested_fencing`: VMs may be HA although no fence
    device has passed a test. `hosts`: the names of servers that the manager calls otherwise than they call themselves.
    """

    records: str
    pool: str = ""
    start_policy: str = BEST
    untested_fencing: bool = False
    hosts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    server: str = dataclasses.field(default_factory=lambda: os.uname().nodename)
    libvirt: str = "qemu:///system"
    migration: str = "qemu+tls://{}/system"
    unsafe_migration: bool = False
    lock_patience: float = 30.0
    state: str = "/run/domus/ha"
    copies: str = "/var/lib/domus/ha"


class LibvirtHost:
    """The interface `Host` of vm_agent.py for one VM; `seconds` is what its operation may take."""

    def __init__(self, settings: Settings, name: str, uuid: str, resource: str = "", seconds: float = 300.0) -> None:
        self.name = settings.server
        self._settings = settings
        self._vm, self._uuid, self._resource, self._seconds = name, uuid, resource, seconds
        self._note = os.path.join(settings.state, uuid)
        self._begun = f"{self._note}.starting"
        self._copy = os.path.join(settings.copies, f"{uuid}.json")

    def look(self) -> str:
        """RUNNING, STOPPED or UNKNOWN, as proven by /proc."""
        return qemu_processes.look(self._uuid, self._note)

    def record(self) -> PoolRecord:
        """The VM's record on the pool file system."""
        return read_record(self._settings.records, self._uuid)[0]

    def copy(self) -> Optional[PoolRecord]:
        """The copy of it on this server; one that can not be read counts as none."""
        try:
            with open(self._copy, encoding="utf-8") as file:
                return from_text(file.read(), self._uuid)
        except (OSError, ValueError, DomusError):
            return None

    def keep_copy(self, record: PoolRecord) -> None:
        """Keep a copy on this server; a full disk here is no reason not to start the VM."""
        with suppress(OSError, DomusError):
            os.makedirs(self._settings.copies, mode=0o700, exist_ok=True)
            replace_file(self._copy, as_text(record))

    def note_server(self) -> None:
        """Write into the record that the VM runs here now; what fails is left: Pacemaker knows where it runs."""
        with suppress(DomusError):
            record, token = read_record(self._settings.records, self._uuid)
            if record.server != self.name or record.saved_on is not None:
                write_record(self._settings.records, dataclasses.replace(record, server=self.name, saved_on=None), token, is_quorate)

    def define_and_start(self, record: PoolRecord) -> None:
        """Define the VM and start it, or let it go on from its saved memory, whose definition then stays."""

        def start() -> None:
            # It stays when nobody waits any more: libvirt goes on with what it was asked for.
            os.makedirs(self._settings.state, mode=0o700, exist_ok=True)
            with open(self._begun, "w", encoding="ascii"):
                pass
            try:
                create()
            finally:
                require_wanted()
                os.unlink(self._begun)

        def create() -> None:
            with self._connected() as connection:
                domain = self._find(connection)
                if domain is None or not domain.hasManagedSaveImage(0):
                    domain = connection.defineXML(record.definition)
                domain.setAutostart(0)  # Pacemaker alone decides where it runs
                if not domain.isActive():
                    domain.create()

        self._ask(f"starting {self._vm}", start, min(START_SECONDS, self._seconds))

    def is_start_settled(self) -> bool:
        """Is no start of it under way? One that was given up is ended: libvirt answers only when it has left off, or is gone itself."""
        if not qemu_processes.begun(self._note):
            return True
        try:
            self.destroy()
        except (Conflict, NotFound):
            pass  # it does not run, and nothing is at it
        except DomusError:
            if qemu_processes.is_there(LIBVIRT_DAEMONS):
                return False
        with suppress(FileNotFoundError):
            os.unlink(self._begun)
        return True

    def has_saved_memory(self) -> bool:
        """Is its memory saved on this server? Nobody who can not be asked has any."""
        try:
            return bool(self._ask("asking for saved memory", lambda: self._with_domain(lambda domain: domain.hasManagedSaveImage(0))))
        except DomusError:
            return False

    def ask_to_shut_down(self) -> None:
        """Ask the guest to shut down."""
        self._ask(f"shutting {self._vm} down", lambda: self._with_domain(lambda domain: domain.shutdown()))

    def destroy(self) -> None:
        """Let libvirt end the QEMU."""
        self._ask(f"ending {self._vm}", lambda: self._with_domain(lambda domain: domain.destroy()), 20.0)

    def end_process(self, force: bool) -> None:
        """End the QEMU without libvirt, by a descriptor of the process: its pid may be another's by now."""
        for pid in qemu_processes.find_qemu(self._uuid)[0]:
            start = qemu_processes.started(pid)
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    if qemu_processes.started(pid) == start != "":
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL if force else signal.SIGTERM)
                finally:
                    os.close(descriptor)

    def why_off(self) -> str:
        """Why libvirt thinks that it is off; "" when it does not know."""
        reasons = {libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown", libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "saved"} if libvirt else {}

        def ask(domain: Any) -> str:
            state, reason = domain.state()
            return reasons.get(reason, "") if state == libvirt.VIR_DOMAIN_SHUTOFF else ""

        return str(self._ask("asking why it is off", lambda: self._with_domain(ask)))

    def is_being_stopped(self) -> bool:
        """Is somebody stopping it, who tells Pacemaker afterwards?"""
        return is_stopping(self._settings.state, self._uuid)

    def stay_off(self) -> None:
        """Tell Pacemaker that the VM is to stay off."""
        what = ["--resource", self._resource, "--meta", "--set-parameter", "target-role", "--parameter-value", "Stopped"]
        run(["crm_resource", *what], timeout=20.0, what="telling Pacemaker that the VM is to stay off")

    def migrate(self, target: str) -> None:
        """Move the VM live to another server: as somebody has asked for it, else with what the pool says. Pacemaker has chosen the server."""
        wanted = wanted_migration(self._settings.state, self._uuid, target) or own_migration(self._settings, target)

        def move(domain: Any) -> None:
            with watched(self._uuid, urlsplit(wanted.uri).hostname or target):  # else it would stand for ever after a cut at the wrong moment
                domain.migrateToURI3(wanted.uri, dict(wanted.parameters), libvirt_flags(wanted.flags))

        self._ask(f"migrating {self._vm} to {target}", lambda: self._with_domain(move), self._seconds)

    def clock(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def _ask(self, what: str, call: Callable[[], Any], seconds: float = ASK_SECONDS) -> Any:
        def translated() -> Any:
            with told(what):
                return call()

        return bounded(translated, seconds, what)

    def _connected(self) -> Any:
        return _Closing(connect(self._settings.libvirt))

    def _with_domain(self, call: Callable[[Any], Any]) -> Any:
        with self._connected() as connection:
            domain = self._find(connection)
            if domain is None:
                raise NotFound("libvirt does not know it", object=f"vm {self._vm}")
            return call(domain)

    def _find(self, connection: Any) -> Any:
        try:
            return connection.lookupByUUIDString(self._uuid)
        except libvirt.libvirtError as error:
            if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise


class _Closing:
    """A libvirt connection that is closed at the end of the block."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> Any:
        return self._connection

    def __exit__(self, *unused: object) -> None:
        with suppress(libvirt.libvirtError):
            self._connection.close()


def own_migration(settings: Settings, target: str) -> Migration:
    """How a VM is moved to another member where nobody has said more."""
    flags = ["LIVE", "PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE", "ABORT_ON_ERROR"]
    flags += ["TLS"] if "+tls:" in settings.migration else []
    flags += ["UNSAFE"] if settings.unsafe_migration else []
    return Migration(target, settings.migration.format(target), tuple(flags))


def is_quorate() -> bool:
    """Does this server belong to the part of the pool that has quorum? Whoever can not be asked has none."""
    try:
        return run(["crm_node", "--quorum"], timeout=10.0, what="asking for quorum").strip() == "1"
    except (DriverError, Unreachable, DomusError):
        return False
