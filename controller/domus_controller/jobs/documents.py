"""From a document to what a job does: checked, routed to servers, and what is asked of each object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from domus_core.errors import InvalidSpec
from domus_core.model.document import parse_document
from domus_core.model.fields import plain, public
from domus_core.model.kinds import KINDS
from domus_core.planning.routing import route

from ..store import fleet, objects, pool_secrets
from ..store.jobs import BALANCE
from .cpu_baselines import give_baselines
from .outcome import Target
from .own_vm import spare_from_document
from .server_pools import give_clusters
from .tools import Tools, Work

Asked = tuple[str, str, str, dict[str, Any]]


def prepare(tools: Tools, document: Any) -> Work:
    """Check a document and find its servers. Raises InvalidSpec, NotFound, Conflict, or Refused with all of them, before anything is stored."""
    if document is None:
        raise InvalidSpec("is empty", object="document", remedy="Write down what there is to be")
    if not isinstance(document, Mapping):
        raise InvalidSpec("is not a mapping of sections", object="document", value=type(document).__name__)
    whole = {"site": tools.config.site, **document}
    located = located_of(tools, str(whole["site"]))
    pools = pool_secrets.located(tools.store)
    routed = route(whole, fleet.read_fleet(tools.store, with_vms=_has_new_vms(whole, located)), located, pools)
    if not routed.documents:
        raise InvalidSpec("holds no object", object="document", remedy="Write down what there is to be")
    spare_from_document(tools.config.own_vm, whole)
    documents = give_clusters(tools, whole, give_baselines(tools, whole, routed.documents))
    placements = {name: {"server": placed.server, "reason": placed.reason} for name, placed in routed.placements.items()}
    return Work(whole, documents, placements)


def located_of(tools: Tools, site: str) -> Mapping[str, Sequence[str]]:
    """Where the VMs of a site are, or will be by the jobs that have not ended: ids of servers by name."""
    found: dict[str, list[str]] = {**fleet.promised(tools.store, site)}
    found.update(objects.locate(tools.store, site))
    return found


def _has_new_vms(document: Mapping[str, Any], located: Mapping[str, Any]) -> bool:
    """Is something to be placed? What is malformed is told by who routes it."""
    vms = document.get("vms")
    return isinstance(vms, (list, tuple)) and any(isinstance(vm, Mapping) and str(vm.get("name")) not in located for vm in vms)


def asked_of(work: Work) -> list[Asked]:
    """What the documents ask: kind, key, server id and the specification, secrets masked; `servers` as they were written, with tags."""
    written = {(kind, key): spec.servers for kind, key, spec in _specs(work.document) if kind != "server_pool" and getattr(spec, "servers", None) is not None}
    return [
        (kind, key, server, plain(public(spec)) | ({"servers": list(written[(kind, key)])} if (kind, key) in written else {}))
        for server, document in work.documents.items()
        for kind, key, spec in _specs(document)
    ]


def _specs(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    site = parse_document(document)
    for kind in KINDS:
        for key, spec in site.wanted(kind.name).items():
            yield kind.name, key, spec


def targets_of_whole(job: Mapping[str, Any]) -> frozenset[Target]:
    """What a job holds that works with one server, or one pool, as a whole; the parts that it begins hold what they work on."""
    whole = job["objects"][0]
    return frozenset({(whole["kind"], str(whole["name"]), str(job["servers"][0]) if whole["kind"] == "server" else "")})


def targets_of(job: Mapping[str, Any]) -> frozenset[Target]:
    """What a stored job holds: its objects on each of its servers."""
    if job["kind"] == BALANCE:
        return targets_of_whole(job)
    return frozenset((one["kind"], one["name"], str(server)) for one in job["objects"] for server in job["servers"])
