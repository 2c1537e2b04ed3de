"""Server pools on one of their servers: what has to change in what it knows, and in the cluster that it is a member of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

from ..errors import Conflict, DomusError, Unsupported
from ..model.fields import LIVE
from ..model.kind import is_absent
from ..model.repository import is_shared
from ..model.server_pool import ServerPoolSpec, completed_pool, is_clustered
from ..model.snapshot import Found
from .comparison import compare, creation, deletion
from .site_view import SiteView
from .steps import CREATE, DELETE, UPDATE, Change, Step, step

PLAYBOOK = "ansible-playbook domus.virt.server_pools -e domus_site_file=site.yml"


def plan_server_pool(view: SiteView, wanted: ServerPoolSpec, found: Optional[Found]) -> list[Step]:
    """The steps for a pool of the document on this server. Raises Conflict, Unsupported, NotFound."""
    if is_absent(wanted):
        return _delete(found)
    spec = completed_pool(wanted, found.spec if found else None)
    changes = _changes(spec, found)
    if found is not None and not changes:
        return []
    _refuse_second(view, wanted.name)
    if is_clustered(spec):
        _check_clustered(view, spec, found)
    if found is None:
        return [step(CREATE, "server_pool", spec, changes=creation(spec), reason="it does not exist")]
    return [step(UPDATE, "server_pool", spec, changes=tuple(changes), reason="it differs")]


def _delete(found: Optional[Found]) -> list[Step]:
    if found is None:
        return []
    if found.state.vms:
        running = ", ".join(found.state.vms[:5])
        raise Conflict(
            f"HA VMs run here: {running}", field="state", value="absent", remedy="domus server maintenance --evacuate moves them; or take HA off them"
        )
    return [step(DELETE, "server_pool", found.spec, reason="it is to be absent here", changes=deletion())]


def _changes(spec: Any, found: Optional[Found]) -> list[Change]:
    """What differs from what is known here, and what is not as it was written."""
    if found is None:
        return []
    before = found.spec
    changes = compare(spec, before, exact=True, skip=frozenset({"fencing"}))
    changes += _of_devices(spec.fencing or (), before.fencing or ())
    changes += [dataclasses.replace(change, field=f"cluster.{change.field}") for change in _of_cluster(spec.cluster, before.cluster)]
    for name in ("quorum_device", "watchdog"):
        if getattr(before, name) is not None and getattr(spec, name) is None:
            changes.append(Change(name, getattr(before, name), None, LIVE))
    if not found.state.registered:
        changes.append(Change("registered", False, True, LIVE))
    return changes + [Change("cluster", problem, "mended", LIVE) for problem in found.state.amiss]


def _of_devices(wanted: tuple[Any, ...], found: tuple[Any, ...]) -> Iterator[Change]:
    """Fence devices are compared to the last option: one that is not mentioned is none any more."""
    before = {one.name: one for one in found}
    for device in wanted:
        there = before.pop(device.name, None)
        place = f"fencing[{device.name}]"
        if there is None:
            yield Change(place, None, device, LIVE)
            continue
        yield from compare(device, there, exact=True, path=f"{place}.")
        for kept, known in _both(device.options, there.options):
            if (kept.value is None) != (known.value is None):
                yield Change(f"{place}.options[{kept.name}].value", known.value, kept.value, LIVE)
    for name, device in before.items():
        yield Change(f"fencing[{name}]", device, None, LIVE)


def _both(wanted: Optional[tuple[Any, ...]], found: Optional[tuple[Any, ...]]) -> list[tuple[Any, Any]]:
    """The entries that there are in both, by name."""
    before = {one.name: one for one in found or ()}
    return [(one, before[one.name]) for one in wanted or () if one.name in before]


def _of_cluster(wanted: Any, found: Any) -> list[Change]:
    """What the members are told of each other; who is not mentioned is no member any more."""
    if wanted is None:
        return []
    if found is None:
        return [Change("members", None, wanted.members or (), LIVE)]
    return compare(wanted, found, exact=True)


def _refuse_second(view: SiteView, name: str) -> None:
    """A server is in one pool."""
    known = dict.fromkeys([*(key for key, dummy in view.snapshot.all("server_pool")), *view.site.wanted("server_pool")])
    for other in known:
        if other != name and view.future("server_pool", other) is not None:
            raise Conflict(f"this server is in server pool {other}", field="servers", remedy=f"Take it out of {other} first, in the same document if you like")


def _check_clustered(view: SiteView, spec: Any, found: Optional[Found]) -> None:
    """What a member needs beside the document. Raises Conflict, Unsupported, NotFound."""
    if spec.cluster is None:
        if found is None or not found.state.joined:
            raise Conflict("is not formed here, and only a manager tells its servers of each other", remedy=f"Send the document to the manager, or: {PLAYBOOK}")
        return
    _check_file_system(view, spec)
    lacking = view.snapshot.lacks.get(spec.name, ())
    if lacking:
        raise Unsupported(f"this server lacks {', '.join(lacking)}", field="clustered", remedy=f"It is brought there by: {PLAYBOOK}")


def _check_file_system(view: SiteView, spec: Any) -> None:
    if spec.file_system is None:
        raise Conflict("is missing", field="file_system", remedy="A clustered pool needs a repository that all its servers share, best one of its own")
    repository = view.required("repository", spec.file_system, "file_system")
    if problem := file_system_problem(repository):
        raise problem
    there = view.snapshot.find("repository", spec.file_system)
    if there is not None and there.state.problem and spec.file_system in view.lost:
        raise Conflict(f"is not available: {there.state.problem}", field="file_system", value=spec.file_system, remedy="Apply again when it answers")


def file_system_problem(repository: Any) -> Optional[DomusError]:
    """Why a repository can not hold the records and locks of a pool, or None."""
    name, nfs = repository.name, repository.nfs
    if not is_shared(repository):
        remedy = "Use one on an NFS server, or one that says shared: true"
        return Conflict("is not the same file system on all servers", field="file_system", value=name, remedy=remedy)
    if nfs is not None and nfs.version == "3":
        return Conflict("NFSv3 keeps the locks of a server that died for ever", field="file_system", value=name, remedy="Mount it with version 4")
    if nfs is not None and (nfs.lookup_cache != "none" or nfs.soft):
        remedy = f"Write lookup_cache: none, and not soft: true, into nfs of repository {name}"
        return Conflict("what another server has written there would be seen late, or lost", field="file_system", value=name, remedy=remedy)
    return None
