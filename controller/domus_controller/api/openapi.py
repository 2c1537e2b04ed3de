"""The OpenAPI 3.1 document, made from the route table and the kinds' field tables."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable

from domus_core.model.kinds import KINDS
from domus_core.version import VERSION

from .bodies import BODIES
from .callback import Callback
from .route import AGENT, OPEN, STREAM, Answer, Parameter, Route
from .schemas import Schema, document_schemas, reference, schema_of, shown_name, spec_schemas
from .shapes import SHAPES, object_shape

PLACE = re.compile(r"\{([a-z_]+)(:path)?\}")
SECURITY: dict[str, list[dict[str, list[str]]]] = {OPEN: [], AGENT: [{"agent": []}]}
PEOPLE: list[dict[str, list[str]]] = [{"token": []}, {"password": []}]
SCHEMES: Schema = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token: `domus_...`."},
    "password": {"type": "http", "scheme": "basic", "description": "Name and password."},
    "agent": {"type": "mutualTLS", "description": "The certificate that the manager gave to the server."},
}


def openapi_document(routes: Iterable[Route]) -> Schema:
    """The whole document, as data."""
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
        paths.setdefault(PLACE.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Domus",
            "version": VERSION,
            "description": "Virtual machines, networks and storage on libvirt and QEMU/KVM. Every error is a problem document (RFC 9457) with a stable `code`.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components(), "securitySchemes": SCHEMES, "responses": {"Problem": _problem_response()}},
    }


@functools.lru_cache(maxsize=1)
def components() -> dict[str, Schema]:
    """All named schemas."""
    found = {**document_schemas(), **SHAPES}
    for body in (*BODIES, Callback):
        found |= spec_schemas(body)
    for kind in KINDS:
        name = object_name(kind.spec)
        found[name] = object_shape(kind, shown_name(kind.spec))
        found[name + "Page"] = page_of(name)
    for name in ("Job", "Event", "Drift", "Token", "Certificate", "User", "Server", "SiteObject"):
        found[name + "Page"] = page_of(name)
    return found


def object_name(spec: type) -> str:
    """The name of the schema of an object as it is shown; a taken over server, and a pool as a whole, have one of their own."""
    name = spec.__name__.removesuffix("Spec")
    return {"Server": "ServerObject", "ServerPool": "ServerPoolMember"}.get(name, name)


def page_of(name: str) -> Schema:
    """The schema of a page of items."""
    properties = {
        "items": {"type": "array", "items": reference(name)},
        "next": {"type": ["string", "null"], "description": "The cursor of the next page; null on the last one."},
        "since": {"type": "integer", "description": "With `since`: where the next call goes on."},
    }
    return {"type": "object", "properties": properties, "required": ["items", "next"]}


def _operation(route: Route) -> Schema:
    summary, dummy, rest = route.doc.partition(". ")
    operation: Schema = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": summary.rstrip("."),
        "description": f"{rest} Permission: {route.permission}.".strip(),
        "security": SECURITY.get(route.permission, PEOPLE),
        "parameters": [*_path_parameters(route), *map(_parameter, route.parameters), *_headers(route)],
        "responses": {**{str(status): _response(shown) for status, shown in route.answers.items()}, **_problems()},
    }
    if route.body:
        operation["requestBody"] = {"required": route.body_required, "content": {kind: {"schema": reference(route.body)} for kind in route.body_types}}
    return operation


def _path_parameters(route: Route) -> list[Schema]:
    schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^/\\x00-\\x1f\\x7f]+$"}
    doc = {"id": "Id; of an object also its name.", "name": "Name."}
    return [{"name": name, "in": "path", "required": True, "schema": schema, "description": doc.get(name, name)} for name, dummy in PLACE.findall(route.path)]


def _parameter(parameter: Parameter) -> Schema:
    schema = schema_of(parameter.type)
    if parameter.default is not None:
        schema["default"] = parameter.default
    return {"name": parameter.name, "in": "query", "required": False, "description": parameter.doc, "schema": schema}


def _headers(route: Route) -> list[Schema]:
    names = {"If-None-Match": 304 in route.answers, "If-Match": route.method in ("PUT", "DELETE") and 202 in route.answers}
    names["Last-Event-ID"] = any(shown.media_type == STREAM for shown in route.answers.values())
    return [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name, wanted in names.items() if wanted]


def _response(shown: Answer) -> Schema:
    if shown.media_type == STREAM:
        return {"description": shown.doc, "content": {STREAM: {"schema": {"type": "string"}}}}
    if shown.schema is None:
        return {"description": shown.doc}
    return {"description": shown.doc, "content": {shown.media_type: {"schema": reference(shown.schema)}}}


def _problems() -> Schema:
    return {span: {"$ref": "#/components/responses/Problem"} for span in ("4XX", "5XX")}


def _problem_response() -> Schema:
    return {"description": "What went wrong, and what to do.", "content": {"application/problem+json": {"schema": reference("Problem")}}}


def as_text(routes: Iterable[Route]) -> str:
    """The whole document, as JSON."""
    return json.dumps(openapi_document(routes), separators=(",", ":"))
