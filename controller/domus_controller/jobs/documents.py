"""From a document to what a job does: checked, routed to servers, and what is asked of each object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from domus_core.errors import InvalidSpec
from domus_core.model.document import parse_document
from domus_core.model.fields import plain
from domus_core.model.kinds import KINDS
from domus_core.planning.placement import route

from ..store import objects, servers
from .outcome import Target
from .tools import Tools, Work

Asked = tuple[str, str, str, dict[str, Any]]


def prepare(tools: Tools, document: Any) -> Work:
    """Check a document and find its servers. Raises InvalidSpec, NotFound, Conflict, or Refused with all of them, before anything is stored."""
    if document is None:
        raise InvalidSpec("is empty", object="document", remedy="Write down what there is to be")
    if not isinstance(document, Mapping):
        raise InvalidSpec("is not a mapping of sections", object="document", value=type(document).__name__)
    whole = {"site": tools.config.site, **document}
    names = {str(one["id"]): str(one["name"]) for one in servers.all(tools.store)}
    documents = route(whole, names, objects.locate(tools.store, str(whole["site"])))
    if not documents:
        raise InvalidSpec("holds no object", object="document", remedy="Write down what there is to be")
    return Work(whole, documents)


def asked_of(work: Work) -> list[Asked]:
    """What the documents ask: kind, key, server id and the specification, secrets masked."""
    return [(kind, key, server, plain(spec)) for server, document in work.documents.items() for kind, key, spec in _specs(document)]


def _specs(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    site = parse_document(document)
    for kind in KINDS:
        for key, spec in site.wanted(kind.name).items():
            yield kind.name, key, spec


def targets_of(job: Mapping[str, Any]) -> frozenset[Target]:
    """What a stored job holds: its objects on each of its servers."""
    return frozenset((one["kind"], one["name"], str(server)) for one in job["objects"] for server in job["servers"])
