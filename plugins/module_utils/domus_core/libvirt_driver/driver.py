"""The libvirt driver: one server, reached through one libvirt connection and its own file systems."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Callable, Optional

from ..cluster.member import ServerPools
from ..cluster.membership import read_membership
from ..driver import Driver, Target
from ..model.document import Site
from ..model.fields import plain, restore
from ..model.ha import is_kept_up
from ..model.kind import is_absent
from ..model.server import ServerSpec, ServerState
from ..model.snapshot import Found, Snapshot
from ..model.vm_devices import CpuBaselineSpec
from ..planning.steps import DELETE, Step
from ..storage_connect.storage import Storage
from . import network, repository, virtual_disk
from .connection import connect, told
from .cpu_baseline import baseline_cpu
from .locks import held, lock_file
from .places import Places
from .pooled import Pooled
from .registry import Registry
from .server import read_server
from .vm import Vms
from .vm_lookup import find_vm, is_managed
from .vm_power import ACTIONS

SYSTEM = "qemu:///system"
STATE_DIRECTORY = "/var/lib/domus"


def open_driver(uri: str = SYSTEM, state_directory: str = STATE_DIRECTORY) -> LibvirtDriver:
    """Open the server. Raises Unsupported when a package is missing, Unreachable when libvirt does not answer."""
    return LibvirtDriver(connect(uri), uri, state_directory)


class LibvirtDriver:
    """What `domus_core.driver.Driver` promises, on libvirt."""

    def __init__(self, connection: Any, uri: str, state_directory: str) -> None:
        self.connection = connection
        self.uri = uri
        self.state_directory = state_directory
        self.registry = Registry(os.path.join(state_directory, "objects"))
        self.storage = Storage()
        self.remote_member: Optional[str] = None
        self.server_pools = ServerPools(self.registry, self.storage.host)
        self._site: Optional[Site] = None
        self._places: Optional[Places] = None
        self._isos: dict[str, str] = {}

    @property
    def pool(self) -> Optional[Pooled]:
        """This server's part in its clustered pool, if it is in one; looked at each time, since it may come to be in one.

        `remote_member` names the member whose libvirt this is, where it is another one's.
        """
        membership = read_membership()
        return None if membership is None else Pooled(membership.of(self.remote_member))

    def locked(self, changing: Iterable[Target], using: Iterable[Target], *, patience: float) -> AbstractContextManager[None]:
        """Hold the objects in a lock file of this server."""
        return held(lock_file(self.state_directory), changing, using, patience=patience)

    def read(self, site: Site) -> Snapshot:
        """The server as it is, with the files that the document names."""
        self._site = site
        repositories = repository.read_repositories(self.registry, site, self.storage)
        places = repository.registered_places(self.registry, self.storage, site)
        self._remember(places)
        vms = self._vms()
        server = self._with_ha(self._server(site), site, vms)
        objects = {
            "server": self._servers(server),
            "network": network.read_networks(self.connection, self.registry),
            "repository": repositories,
            "server_pool": self.server_pools.read_all(site),
            "template": repository.read_images("template", self.registry, places),
            "iso": repository.read_images("iso", self.registry, places),
            "virtual_disk": virtual_disk.read_virtual_disks(places),
            "vm": vms.read_all(),
        }
        return Snapshot(server, objects, repository.read_files(places, site), self.server_pools.lacking(site))

    def read_one(self, kind: str, key: str, *, addresses: bool = True) -> Optional[Found]:
        """One object as it is now, or None; a running VM with its IP addresses unless they are not asked for."""
        if kind == "vm":
            found = self._vms().read(key)
            if not addresses or found is None or found.state.state != "running" or not found.spec.nics:
                return found
            return dataclasses.replace(found, state=dataclasses.replace(found.state, addresses=self.addresses(key)))
        if kind == "network":
            return network.read_network(self.connection, self.registry, key)
        if kind == "virtual_disk":
            return virtual_disk.read_virtual_disk(self.known_places(), key)
        if kind == "server":
            return self._servers(self._server(self._site)).get(key)
        if kind == "server_pool":
            return self.server_pools.read(key)
        if kind == "repository":
            return repository.read_repositories(self.registry, self._site, self.storage).get(key)
        return repository.read_images(kind, self.registry, self.known_places()).get(key)

    def find_vm(self, name_or_uuid: str) -> Optional[Found]:
        """A VM by its name or UUID, read without its devices; or None."""
        return find_vm(self.connection, name_or_uuid)

    def domain(self, vm: str) -> Any:
        """libvirt's domain of this name, or None."""
        return self._vms().lookup(vm)

    def managed_vms(self) -> list[str]:
        """The names of the VMs here that Domus manages."""
        with told("listing the domains"):
            return [domain.name() for domain in self.connection.listAllDomains(0) if is_managed(domain)]

    def take_vm(self, name_or_uuid: str) -> Optional[Found]:
        """A VM of this server's pool whose server is proven to be off is this server's from now on; None: there is none. Raises Moved, Conflict."""
        pool = self.pool
        taken = pool.take(self.connection, name_or_uuid) if pool is not None else None
        return None if taken is None else self.find_vm(taken)

    def fingerprint(self, kind: str, key: str) -> str:
        """The fingerprint of an object as it is now; empty when there is none."""
        if kind == "vm":
            return self._vms().fingerprint(key)
        found = self.read_one(kind, key)
        return found.fingerprint if found else ""

    def carry_out(self, step: Step, site: str) -> None:
        """Take one step. Raises DomusError."""
        _STEPS[step.kind](self, step, site)
        if step.kind in ("repository", "iso", "template"):
            self._places = None

    def addresses(self, vm: str) -> tuple[str, ...]:
        """The IP addresses that a running VM is known to have, best first."""
        return self._vms().addresses(vm)

    def baseline_cpu(self, cpus: Sequence[CpuBaselineSpec]) -> CpuBaselineSpec:
        """What libvirt computes, for VMs of the virtualization that is used here."""
        facts = self._server(self._site).facts
        return baseline_cpu(self.connection, cpus, facts["architecture"], facts["virtualization"])

    def close(self) -> None:
        """Close the connection; a broken one is closed already."""
        with told("closing the connection"):
            self.connection.close()

    def known_isos(self) -> dict[str, str]:
        """The paths of the known ISO images by name."""
        self.known_places()
        return self._isos

    def known_places(self) -> Places:
        """Where things are, as far as the last reading and the registry tell."""
        if self._places is not None:
            return self._places
        places = repository.registered_places(self.registry, self.storage, self._site)
        self._remember(places)
        return places

    def _remember(self, places: Places) -> None:
        self._isos = repository.paths_of_isos(self.registry, places)
        self._places = places

    def _vms(self) -> Vms:
        return Vms(self.connection, self.known_places(), self._isos, self._seeds(), self.pool)

    def _carry_out_vm(self, step: Step, site: str) -> None:
        if step.action in ACTIONS:  # a run state needs no image: do not look for them
            Vms(self.connection, repository.registered_places(self.registry, self.storage), {}, self._seeds(), self.pool).carry_out(step, site)
        else:
            self._vms().carry_out(step, site)

    def _seeds(self) -> str:
        return os.path.join(self.state_directory, "cloud-init")

    def _server(self, site: Optional[Site]) -> ServerState:
        facts = read_server(self.connection, virtualization_setting=self._virtualization(site), state_directory=self.state_directory)
        return ServerState(facts["virtualization"], tuple(facts["domain_types"]), tuple(facts["machines"]), facts)

    def _with_ha(self, server: ServerState, site: Site, vms: Vms) -> ServerState:
        """What speaks against HA here, for a document that asks for it: Pacemaker is not asked for others."""
        wanted = [name for name, spec in site.wanted("vm").items() if is_kept_up(spec)]
        if not wanted or vms.pool is None:
            return server
        member = vms.pool.membership
        refusal = member.refusal(self.state_directory)
        told = {"servers": () if refusal else member.servers(), "unprotected": vms.pool.unprotected((name, vms.lookup(name)) for name in wanted)}
        return dataclasses.replace(server, facts={**server.facts, "ha": {"refusal": refusal, **told}})

    def _virtualization(self, site: Optional[Site]) -> str:
        """What the document says of this server, else what was said before."""
        for spec in (site.wanted("server") if site else {}).values():
            if spec.virtualization and not is_absent(spec):
                return str(spec.virtualization)
        for name in self.registry.names("server"):
            return str((self.registry.read("server", name) or {}).get("virtualization") or "auto")
        return "auto"

    def _servers(self, state: ServerState) -> dict[str, Found]:
        found = {}
        for name in self.registry.names("server"):
            data = self.registry.read("server", name)
            if data is not None:
                found[name] = Found(restore(ServerSpec, data), state, fingerprint=repr(data))
        return found

    def _carry_out_server(self, step: Step, site: str) -> None:
        if step.action == DELETE:
            self.registry.remove("server", step.key)
        else:
            self.registry.write("server", step.key, plain(step.spec))


_STEPS: dict[str, Callable[[LibvirtDriver, Step, str], None]] = {
    "server": LibvirtDriver._carry_out_server,
    "network": lambda driver, step, site: network.carry_out(driver.connection, driver.registry, step, site),
    "repository": lambda driver, step, site: repository.carry_out_repository(driver.registry, driver.storage, step, site),
    "server_pool": lambda driver, step, site: driver.server_pools.carry_out(step),
    "template": lambda driver, step, site: repository.carry_out_image(driver.registry, driver.known_places(), step),
    "iso": lambda driver, step, site: repository.carry_out_image(driver.registry, driver.known_places(), step),
    "virtual_disk": lambda driver, step, site: virtual_disk.carry_out(driver.connection, driver.registry, driver.known_places(), step),
    "vm": LibvirtDriver._carry_out_vm,
}

_: type[Driver] = LibvirtDriver
