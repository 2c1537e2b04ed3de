"""Objects of every kind: lists, items, and changes as documents of one, on the same way through the engine as any document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domus_core.errors import Conflict, InvalidSpec
from domus_core.model.fields import fields_of
from domus_core.model.kinds import BY_NAME
from flask import Response

from ..store import objects
from .call import Call, Item, check_precondition, item_answer, job_answer, page_answer, texts_answer

Handler = Callable[[Call], Response]
FILTERS = ("name", "server", "state", "site", "tag")


def list_objects(kind: str) -> Handler:
    """A handler that answers a page of a kind, or what has changed since."""

    def handler(call: Call) -> Response:
        query = call.query
        page = objects.page_text(call.parts.store, kind, query["limit"], query["cursor"], call.filters(*FILTERS), query["since"])
        return texts_answer(call, page)

    return handler


def show_object(kind: str) -> Handler:
    """A handler that answers one object."""
    return lambda call: item_answer(call, objects.find_text(call.parts.store, kind, call.path["id"], call.query["server"]))


def create_object(kind: str) -> Handler:
    """A handler that makes an object which is not there yet."""

    def handler(call: Call) -> Response:
        entry = call.mapping()
        _refuse_existing(call, kind, entry)
        return apply_one(call, kind, entry, call.query["site"])

    return handler


def replace_object(kind: str) -> Handler:
    """A handler that changes an object to what the body says; of a VM, devices that are not mentioned are taken away."""

    def handler(call: Call) -> Response:
        item, entry = find(call, kind), call.mapping()
        check_precondition(call, item)
        for name, value in _identity(kind, item).items():
            if entry.setdefault(name, value) != value:
                raise InvalidSpec(f"is not that of {kind} {item['name']}", object="body", field=name, value=entry[name], remedy="An object keeps its name")
        if kind == "vm":
            entry.setdefault("exact", True)
            if call.request.headers.get("If-Match") and item["generation"]:
                # Whoever is faster between this check and the engine's work is noticed there.
                entry.setdefault("generation", item["generation"])
        return apply_one(call, kind, entry, item["site"], server=item["server"])

    return handler


def delete_object(kind: str) -> Handler:
    """A handler that has an object deleted."""

    def handler(call: Call) -> Response:
        item = find(call, kind)
        check_precondition(call, item)
        entry = {**_identity(kind, item), "state": "absent"}
        if kind == "vm" and call.query["delete_disks"]:
            entry["delete_disks"] = True
        return apply_one(call, kind, entry, item["site"], server=item["server"])

    return handler


def show_drift(call: Call) -> Response:
    """A page of the objects that are not what was asked, recorded or defined."""
    query = call.query
    return page_answer(call, objects.drift(call.parts.store, call.filters("kind", "server", "site", "name"), query["limit"], query["cursor"]))


def find(call: Call, kind: str) -> Item:
    """The object that the path names by id, name or key; `server` says on which server. Raises NotFound, and Conflict when the name is ambiguous."""
    return objects.find(call.parts.store, kind, call.path["id"], call.query["server"])


def apply_one(call: Call, kind: str, entry: dict[str, Any], site: str | None, *, server: str | None = None) -> Response:
    """Apply a document of one object; `server` is where it is, unless the entry says otherwise."""
    names = {field.name for field in fields_of(BY_NAME[kind].spec)}
    if server is not None and "servers" in names:
        entry.setdefault("servers", [server])
    elif server is not None and "server" in names:
        entry.setdefault("server", server)
    document = {"site": site or call.parts.config.site, BY_NAME[kind].section: [entry]}
    job = call.parts.jobs.apply(document, by=call.principal.name, reason=call.query["reason"] or "")
    return job_answer(call, job)


def _identity(kind: str, item: Item) -> dict[str, Any]:
    """The fields that say which object it is."""
    spec = item["spec"] or {}
    return {field.name: spec.get(field.name, item["name"]) for field in fields_of(BY_NAME[kind].spec) if field.required}


def _refuse_existing(call: Call, kind: str, entry: dict[str, Any]) -> None:
    name, servers = entry.get("name"), entry.get("servers") or [entry.get("server")]
    if not isinstance(name, str) or not isinstance(servers, list):
        return  # the core says what is wrong with it
    for item in objects.page(call.parts.store, kind, 1000, None, {"name": name}, None)["items"]:
        same_repository = kind != "virtual_disk" or (item["spec"] or {}).get("repository") == entry.get("repository")
        if same_repository and (None in servers or item["server"] in servers):
            raise Conflict("exists already", object=f"{kind} {name}", field="name", value=name, remedy="Change it with PUT, or apply a document")
