"""Server pools of one server, for the libvirt driver: what is known of them here, how they are, and what is done to them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Optional

from ..libvirt_driver.registry import Registry
from ..model.document import Site
from ..model.fields import given, make, plain, restore
from ..model.kind import is_absent
from ..model.repository import RepositorySpec, directory_of
from ..model.server_pool import ServerPoolSpec, ServerPoolState, is_clustered
from ..model.snapshot import Found
from ..planning.steps import DELETE, Step
from ..storage_connect.mounts import Host
from .member_sight import amiss, is_first, lacking, pool_there, settings_for
from .outside import pool_action
from .pool_document import as_data
from .pool_of import member_document
from .pool_state import read_pool_state, told_of

KIND = "server_pool"
# Others leave (150 s), this one starts (90 s), all have joined (120 s), Pacemaker is told.
SECONDS = 480.0


class ServerPools:
    """The pools that this server belongs to, of which one at most is clustered."""

    def __init__(self, registry: Registry, host: Optional[Host] = None) -> None:
        self._registry = registry
        self._host = host or Host()

    def read_all(self, site: Optional[Site]) -> dict[str, Found]:
        """All pools that are known here, and a cluster that a role has made; looked at closely where the document is about them."""
        names = self._registry.names(KIND)
        there = pool_there()
        if there is not None and there not in names:
            names = [*names, there]
        found = {name: self.read(name, closely=site is None or not site.objects or name in site.wanted(KIND)) for name in names}
        return {name: one for name, one in found.items() if one is not None}

    def read(self, name: str, *, closely: bool = True) -> Optional[Found]:
        """One pool as it is here, or None."""
        data = self._registry.read(KIND, name)
        there = pool_there()
        if data is None and there != name:
            return None
        spec = restore(ServerPoolSpec, data or {"name": name, "clustered": True})
        state = ServerPoolState(registered=data is not None)
        if is_clustered(spec) and closely:
            state = self._looked_at(spec, state)
        return Found(spec, state, fingerprint=repr(data))

    def _looked_at(self, spec: Any, state: ServerPoolState) -> ServerPoolState:
        """The state of a clustered pool: what Pacemaker says, and what is not as it was written."""
        path, own = self._path(spec.file_system), os.uname().nodename
        lease = self._host.lease(path) if path is not None else None
        wrong = amiss(spec, path, lease, own) if spec.cluster is not None else ()
        seen = read_pool_state() if pool_there() == spec.name else None
        told = {} if seen is None or seen.status is None else told_of(seen)
        members: Mapping[str, str] = told.get("members") or {}
        return dataclasses.replace(
            state,
            joined=members.get(own) in ("online", "standby", "maintenance"),
            quorate=bool(told.get("quorate")),
            members=tuple(sorted(name for name, word in members.items() if word != "offline")),
            vms=tuple(sorted(vm for vm, servers in (told.get("vms") or {}).items() if own in servers)),
            amiss=wrong,
            lease=lease,
        )

    def lacking(self, site: Site) -> dict[str, tuple[str, ...]]:
        """What this server lacks for each clustered pool of the document."""
        found: dict[str, tuple[str, ...]] = {}
        for name, wanted in site.wanted(KIND).items():
            if not is_absent(wanted) and is_clustered(wanted) and wanted.cluster is not None:
                file_system = wanted.file_system or (self._registry.read(KIND, name) or {}).get("file_system")
                found[name] = lacking(wanted, self._path(file_system, site))
        return {name: missing for name, missing in found.items() if missing}

    def carry_out(self, step: Step) -> None:
        """Make, change or end what this server is in a pool. Raises DomusError."""
        spec, name = step.spec, step.key
        if step.action == DELETE:
            if is_clustered(spec) and pool_there() == name:
                pool_action("leave", timeout=SECONDS)
            self._registry.remove(KIND, name)
            return
        # Known from now on, whatever becomes of it: what is not as it was written shows, and is mended by the next apply.
        self._registry.write(KIND, name, _kept(spec), mode=0o600)
        if is_clustered(spec) and spec.cluster is not None:
            path = self._path(spec.file_system)
            lease = self._host.lease(path) if path is not None else None
            document = member_document(spec, settings_for(path, lease))
            pool_action("realize", data={**as_data(document), "applies": is_first(spec, os.uname().nodename)}, timeout=SECONDS)

    def _path(self, repository: Optional[str], site: Optional[Site] = None) -> Optional[str]:
        """The directory of the repository that is the pool file system."""
        if repository is None:
            return None
        data = self._registry.read("repository", repository)
        wanted = site.wanted("repository").get(repository) if site is not None else None
        known = restore(RepositorySpec, data) if data is not None else wanted
        return directory_of(known) if known is not None else None


def _kept(spec: Any) -> dict[str, Any]:
    """What is written down of a pool: secrets as digests."""
    data: dict[str, Any] = plain(make(ServerPoolSpec, {name: value for name, value in given(spec).items() if name != "state"}), mask=False)
    return data
