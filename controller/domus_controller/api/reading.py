"""Read what a caller sent: query parameters by their types, bodies as JSON or YAML; what a document holds is checked by the core alone."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from domus_core.documents import LARGEST, load_document
from domus_core.errors import DomusError, InvalidSpec, Refused, TooLarge, printable
from domus_core.model.field_types import FieldType, Flag, Integer, ListOf, Text
from domus_core.model.fields import parse_spec
from flask import Request
from werkzeug.datastructures import MultiDict

from ..errors import Malformed, MediaTypeRefused
from .route import Parameter

BODY_TYPES = frozenset({"", "application/json", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
FLAGS = {"true": True, "false": False}

SpecType = TypeVar("SpecType")


class Moment(FieldType):
    """A moment as RFC 3339 writes it; kept as seconds since the epoch."""

    noun = "a moment"
    schema = {"type": "string", "format": "date-time"}

    def parse(self, value: Any) -> float:
        """Return the seconds since the epoch; without a zone it is UTC."""
        try:
            moment = datetime.datetime.fromisoformat(Text(40).parse(value))
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()
        except (ValueError, OverflowError):
            raise InvalidSpec("is not a moment", value=value, remedy="Write it like 2026-11-22T18:00:00Z") from None


def read_query(parameters: tuple[Parameter, ...], given: MultiDict[str, str]) -> dict[str, Any]:
    """Return the value of each parameter, defaults included. Raises InvalidSpec for one that is unknown, given twice or wrong."""
    values = {parameter.name: parameter.default for parameter in parameters}
    if not given:
        return values
    known = {parameter.name: parameter for parameter in parameters}
    for name, texts in given.lists():
        if name not in known:
            raise _unknown(name, known)
        if len(texts) > 1:
            raise InvalidSpec("is given more than once", object="query", field=name)
        try:
            values[name] = known[name].type.parse(_typed(known[name].type, texts[0]))
        except InvalidSpec as error:
            raise error.located("query", name) from None
    return values


def _typed(kind: FieldType, text: str) -> Any:
    if isinstance(kind, Integer):
        return int(text) if WHOLE_NUMBER.fullmatch(text) else text
    if isinstance(kind, Flag):
        return FLAGS.get(text, text)
    return text.split(",") if isinstance(kind, ListOf) else text


def _unknown(name: str, known: Mapping[str, Parameter]) -> InvalidSpec:
    near = difflib.get_close_matches(name[:60], known, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known parameters: {', '.join(sorted(known)) or 'none'}"
    return InvalidSpec("is not a known parameter", object="query", field=printable(name), remedy=remedy)


def read_body(request: Request) -> Any:
    """Return the data of a JSON or YAML body. Raises MediaTypeRefused, Malformed, InvalidSpec, and Flask's 413."""
    return load_document(read_text(request), name="body")


def read_text(request: Request) -> str:
    """Return the text of a JSON or YAML body. Raises MediaTypeRefused, TooLarge, Malformed, and Flask's 413."""
    if request.mimetype not in BODY_TYPES:
        remedy = "Send application/json or application/yaml"
        raise MediaTypeRefused("is not a type that is read here", object="body", field="Content-Type", value=request.mimetype, remedy=remedy)
    data = request.get_data(cache=False)
    if request.content_length is None and len(data) >= (request.max_content_length or LARGEST):
        # Flask cuts a body of unknown length off at the limit instead of refusing it.
        raise TooLarge(f"is larger than {len(data) >> 20} MiB", object="body", remedy="Split it")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"is not UTF-8 at byte {error.start}", object="body") from None


def parse_body(spec: type[SpecType], data: Any) -> SpecType:
    """Return the body as an instance of its table. Raises InvalidSpec, or Refused with all problems."""
    problems: list[DomusError] = []
    parsed = parse_spec(spec, data, problems, "body")
    if parsed is None:
        raise Refused(problems) if len(problems) > 1 else problems[0]
    return parsed
