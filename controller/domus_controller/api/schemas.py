"""JSON Schemas of specifications, made from the kinds' field tables; validation itself is the core's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domus_core.model import field_types as types
from domus_core.model.fields import Field, Object, Objects, public_fields
from domus_core.model.kinds import KINDS
from domus_core.model.quantities import LARGEST, UNITS
from domus_core.model.secrets import MASK

Schema = dict[str, Any]
SIZE_TEXT = f"^[0-9]{{1,17}}( ?({'|'.join(UNITS)}))?$"
HOST_TEXT = "^[0-9A-Za-z]([0-9A-Za-z.:-]*[0-9A-Za-z:])?$|^::[0-9A-Fa-f:.]*$"
MAC_TEXT = "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$"
SUBNET_TEXT = "^([0-9]{1,3}[.]){3}[0-9]{1,3}/([4-9]|[12][0-9]|30)$"
TEXT: Schema = {"type": "string"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "integer"}
TIME: Schema = {"type": "string", "format": "date-time"}
MAYBE_TIME: Schema = {"anyOf": [TIME, {"type": "null"}]}


def shape(doc: str, required: str = "", **properties: Schema) -> Schema:
    """An object with these properties, and possibly more in a later version."""
    made: Schema = {"type": "object", "description": doc, "properties": properties}
    return {**made, "required": required.split()} if required else made


def nothing_or(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(schema: Schema) -> Schema:
    """A list of it."""
    return {"type": "array", "items": schema}


def reference(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def schema_of(kind: types.FieldType) -> Schema:
    """The JSON Schema of what a field type accepts; those of the API carry their own."""
    own: Schema | None = getattr(kind, "schema", None)
    if own is not None:
        return own
    for known, make in _MAKERS:
        if isinstance(kind, known):
            return make(kind)
    raise TypeError(f"no JSON Schema is known for {type(kind).__name__}")


def spec_schemas(spec: type) -> dict[str, Schema]:
    """The schemas of a specification and of all objects nested in it, by name: what may be asked."""
    found: dict[str, Schema] = {}
    _collect(spec, found, _asked)
    return found


def shown_schemas(spec: type) -> dict[str, Schema]:
    """The same as it is shown: sizes in bytes, secrets masked, and whatever an adopted object holds."""
    found: dict[str, Schema] = {}
    _collect(spec, found, _shown)
    return found


def shown_name(spec: type) -> str:
    """The name of the schema that shows a specification."""
    return spec.__name__.removesuffix("Spec") + "Shown"


def document_schemas() -> dict[str, Schema]:
    """The schema of a site document and of all kinds."""
    found: dict[str, Schema] = {}
    sections: Schema = {"site": {**schema_of(types.Name()), "description": "The site it belongs to; `default` unless given."}}
    for kind in KINDS:
        found |= spec_schemas(kind.spec) | shown_schemas(kind.spec)
        sections[kind.section] = {"type": ["array", "null"], "items": reference(kind.spec.__name__), "description": kind.doc}
    found["Document"] = {"type": "object", "properties": sections, "additionalProperties": False, "description": "A site document: what is wanted."}
    return found


def _collect(spec: type, found: dict[str, Schema], show: Callable[[type], tuple[str, Schema]]) -> None:
    name, schema = show(spec)
    if name in found:
        return
    found[name] = schema
    for field in public_fields(spec):
        if isinstance(field.type, (Object, Objects)):
            _collect(field.type.spec, found, show)


def _asked(spec: type) -> tuple[str, Schema]:
    table = public_fields(spec)
    schema: Schema = {
        "type": "object",
        "description": (spec.__doc__ or "").strip(),
        "properties": {field.name: _property(field) for field in table},
        "additionalProperties": False,
    }
    required = [field.name for field in table if field.required]
    return spec.__name__, {**schema, "required": required} if required else schema


def _property(field: Field) -> Schema:
    schema = schema_of(field.type) if field.required else nullable(schema_of(field.type))
    schema["description"] = field.doc
    if field.default is not None:
        schema["description"] += f" Default: {field.default}."
    if field.example is not None and not field.secret:
        schema["examples"] = [field.example]
    if field.secret:
        schema["writeOnly"] = True
    return schema


def nullable(schema: Schema) -> Schema:
    """The schema, or null: which means the same as leaving it out."""
    if "enum" in schema:
        return {**schema, "type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}


def _shown(spec: type) -> tuple[str, Schema]:
    properties = {field.name: _shown_property(field) for field in public_fields(spec)}
    return shown_name(spec), {"type": "object", "description": (spec.__doc__ or "").strip(), "properties": properties}


def _shown_property(field: Field) -> Schema:
    kind = field.type
    if field.secret:
        return {"const": MASK, "description": field.doc}
    if isinstance(kind, Object):
        return reference(shown_name(kind.spec))
    if isinstance(kind, Objects):
        return {"type": "array", "items": reference(shown_name(kind.spec))}
    if isinstance(kind, types.Size):
        return {"type": "integer", "description": f"{field.doc} In bytes."}
    words = {"int": "integer", "float": "number", "bool": "boolean", "list": "array"}
    return {"type": words.get(kind.ansible, "string"), "description": field.doc}


def _text(kind: Any) -> Schema:
    schema: Schema = {"type": "string", "maxLength": kind.longest}
    if kind.pattern:
        return {**schema, "pattern": f"^({kind.pattern.pattern})$"}
    return schema if kind.multiline else {**schema, "pattern": "^[^\\x00-\\x1f\\x7f]*$"}


def _file_reference(kind: Any) -> Schema:
    part = types.FILE_PART.pattern
    deep = f"{types.NAME.pattern}(/{part}){{1,{7 if kind.deep else 1}}}"
    return {"type": "string", "pattern": f"^({deep}){'?' if kind.empty else ''}$", "maxLength": 1200}


def _size(kind: Any) -> Schema:
    number = {"type": "integer", "minimum": kind.least, "maximum": LARGEST, **({"multipleOf": kind.multiple} if kind.multiple > 1 else {})}
    return {"anyOf": [number, {"type": "string", "pattern": SIZE_TEXT}]}


def _list_of(kind: Any) -> Schema:
    return {"type": "array", "items": schema_of(kind.item), "maxItems": kind.most, "uniqueItems": True}


_MAKERS: tuple[tuple[type, Callable[[Any], Schema]], ...] = (
    (types.Text, _text),
    (types.HostAddress, lambda kind: {"type": "string", "maxLength": 253, "pattern": HOST_TEXT}),
    (types.Name, lambda kind: {"type": "string", "pattern": f"^{types.NAME.pattern}$"}),
    (types.FileReference, _file_reference),
    (types.AbsolutePath, lambda kind: {"type": "string", "pattern": "^/[^\\x00-\\x1f\\x7f]*$", "maxLength": 1000}),
    (types.Integer, lambda kind: {"type": "integer", "minimum": kind.least, "maximum": kind.most}),
    (types.Size, _size),
    (types.Ratio, lambda kind: {"type": "number", "minimum": kind.least, "maximum": kind.most}),
    (types.ServerOrTag, lambda kind: {"type": "string", "pattern": f"^({types.TAG})?{types.NAME.pattern}$"}),
    (types.Flag, lambda kind: {"type": "boolean"}),
    (types.Choice, lambda kind: {"type": "string", "enum": list(kind.words)}),
    (types.MacAddress, lambda kind: {"type": "string", "pattern": MAC_TEXT}),
    (types.IpAddress, lambda kind: {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}),
    (types.HostAddress, lambda kind: {"type": "string", "pattern": "^[A-Za-z0-9.:-]+$", "maxLength": 253}),
    (types.Subnet, lambda kind: {"type": "string", "pattern": SUBNET_TEXT}),
    (types.ListOf, _list_of),
    (Objects, lambda kind: {"type": "array", "items": reference(kind.spec.__name__), "maxItems": kind.most}),
    (Object, lambda kind: reference(kind.spec.__name__)),
)
