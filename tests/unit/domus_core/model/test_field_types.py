"""Every field of every table against wrong types and hostile values: refused with object, field and value, or kept as given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import DomusError
from domus_core.model import field_types as types
from domus_core.model.document import parse_document
from domus_core.model.fields import Field, Object, Objects, fields_of
from domus_core.model.kind import Kind
from domus_core.model.kinds import KINDS

HOSTILE = [
    "../../etc/passwd",
    "a/../b",
    "/etc/shadow",
    "a\x00b",
    "a\nb",
    "a\r",
    "{{ lookup('pipe', 'id') }}",
    "{% x %}",
    "<script>alert(1)</script>",
    "-rf",
    "--help",
    "x" * 300,
    "a b",
    "a;id",
    "$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a&b",
    "é",
    "\ud800",
    "\u202e",
    "\x1b[31m",
    "",
    " ",
    ".",
    "..",
    "~",
    "fe80::1%$(id)",
    "١٢٣",
    "1e3",
    "0x10",
    "١.1.1.1",
    "10 GiB ",
    "9" * 400,
]
WRONG = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    -(10**30),
    [],
    [[]],
    [{}],
    {},
    {"name": 1},
    {1: 2},
    [None],
    ["a", "a"],
    [1, "a"],
    b"x",
    (),
    "yes",
    "1",
    object(),
]


def tables() -> Iterator[tuple[Kind, tuple[Field, ...]]]:
    """Every field, with the way to it."""
    for kind in KINDS:
        for way in _ways(kind.spec):
            yield kind, way


def _ways(spec: type) -> Iterator[tuple[Field, ...]]:
    for field in fields_of(spec):
        yield (field,)
        if isinstance(field.type, (Object, Objects)):
            for inner in _ways(field.type.spec):
                yield (field, *inner)


ALL = {f"{kind.name}.{'.'.join(field.name for field in way)}": (kind, way) for kind, way in tables()}


@pytest.fixture(params=ALL.keys())
def place(request: pytest.FixtureRequest) -> tuple[Kind, tuple[Field, ...]]:
    """One field of one table."""
    return ALL[request.param]


def document_with(place: tuple[Kind, tuple[Field, ...]], value: Any) -> dict[str, Any]:
    """A document that is right but for one value."""
    kind, way = place
    return {kind.section: [_entry(kind.spec, way, value)]}


def _entry(spec: type, way: tuple[Field, ...], value: Any) -> dict[str, Any]:
    entry = {field.name: _valid(field) for field in fields_of(spec) if field.required}
    field = way[0]
    if len(way) == 1:
        return {**entry, field.name: value}
    assert isinstance(field.type, (Object, Objects))
    inner = _entry(field.type.spec, way[1:], value)
    return {**entry, field.name: [inner] if isinstance(field.type, Objects) else inner}


def _valid(field: Field) -> Any:
    if isinstance(field.type, (Object, Objects)):
        inner = {one.name: _valid(one) for one in fields_of(field.type.spec) if one.required}
        return [inner] if isinstance(field.type, Objects) else inner
    return field.example if field.example is not None else "a"


def outcome(document: Any) -> Any:
    """What the document says after parsing, or the error."""
    try:
        return parse_document(document)
    except DomusError as error:
        assert json.dumps(error.as_dict(), allow_nan=False)
        assert len(str(error)) < 5000
        return error


def parsed(site: Any, place: tuple[Kind, tuple[Field, ...]]) -> Any:
    """The value of the field after parsing."""
    value = next(iter(site.wanted(place[0].name).values()))
    for field in place[1]:
        value = getattr(value, field.name)
        value = value[0] if isinstance(value, tuple) and value and isinstance(field.type, Objects) else value
    return value


def test_a_wrong_type_is_refused_or_means_itself(place: tuple[Kind, tuple[Field, ...]]) -> None:
    field = place[1][-1]
    for value in WRONG:
        result = outcome(document_with(place, value))
        if isinstance(result, DomusError):
            assert result.code == "invalid_spec" and result.as_dict()["object"]
        elif value is not None:
            assert _fits(field, value), f"{value!r} was taken for {field.type.noun}"


def _fits(field: Field, value: Any) -> bool:
    kind = field.type
    if isinstance(kind, types.Flag):
        return isinstance(value, bool)
    if isinstance(kind, types.Integer):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, types.Ratio):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(kind, types.Size):
        return isinstance(value, (int, str)) and not isinstance(value, bool)
    if isinstance(kind, (types.ListOf, Objects)):
        return isinstance(value, (list, tuple))
    if isinstance(kind, Object):
        return isinstance(value, dict)
    return isinstance(value, str)


def test_a_hostile_text_is_refused_or_harmless(place: tuple[Kind, tuple[Field, ...]]) -> None:
    """Free text takes what XML can carry; names, references, addresses and words take nothing that could mean more than itself."""
    for value in HOSTILE:
        result = outcome(document_with(place, value))
        if isinstance(result, DomusError):
            assert result.as_dict()["object"] and (result.as_dict().get("field") or place[1][-1].required), ascii(value)
        else:
            assert _is_harmless(place, result, value), f"{value!a} was taken"


def _is_harmless(place: tuple[Kind, tuple[Field, ...]], result: Any, value: str) -> bool:
    kind = place[1][-1].type
    free = isinstance(kind, types.Text) and (not kind.pattern or isinstance(kind, types.SecretText))
    if set(value) & {"\x00", "\x1b", "\ud800"} or set(value) & {"\n", "\r", "\u202e"} and not getattr(kind, "multiline", False):
        return False
    if free or value == "":
        return True
    kept = parsed(result, place) == value and value.isascii() and not set(value) & set("<>&'\"{}$`;%\\~")
    return kept and value[:1] != "-" and ".." not in value.split("/") and (value[:1] != "/" or isinstance(kind, types.AbsolutePath))


@pytest.mark.parametrize(
    "key",
    [1, None, True, 1.5, ("a",), "x" * 300, "na me", "a\nb", "<script>", "{{ x }}", "../name", "-name", "\ud800", b"name", 10**30, float("nan")],
    ids=lambda key: ascii(key)[:20],
)
def test_a_strange_key_is_unknown_in_every_table(key: Any) -> None:
    for place in ALL.values():
        kind, way = place
        if isinstance(way[-1].type, (Object, Objects)):
            first, nested = fields_of(way[-1].type.spec)[0], [field for field in fields_of(way[-1].type.spec) if isinstance(field.type, (Object, Objects))]
            inner = {**_entry(way[-1].type.spec, (first,), [] if first in nested else _valid(first)), key: 1}
            result = outcome(document_with(place, [inner] if isinstance(way[-1].type, Objects) else inner))
            assert _unknown(result)
    for kind in KINDS:
        entry = {field.name: _valid(field) for field in fields_of(kind.spec) if field.required}
        assert _unknown(outcome({kind.section: [{**entry, key: 1}]}))
        assert isinstance(outcome({kind.section: [entry], key: []}), DomusError)


def _unknown(result: Any) -> bool:
    return (
        isinstance(result, DomusError)
        and result.as_dict()["message"] == "is not a known key"
        and result.as_dict()["field"].isprintable()
        and bool(result.as_dict()["remedy"])
    )


def test_a_near_key_is_guessed() -> None:
    for kind in KINDS:
        for field in fields_of(kind.spec):
            if len(field.name) > 4:
                entry = {one.name: _valid(one) for one in fields_of(kind.spec) if one.required and one is not field}
                result = outcome({kind.section: [{**entry, field.name[:-1] + "q": 1}]})
                assert isinstance(result, DomusError) and "Did you mean" in str(result)


def test_what_is_required_is_asked_for() -> None:
    for kind in KINDS:
        for field in fields_of(kind.spec):
            if field.required:
                entry = {one.name: _valid(one) for one in fields_of(kind.spec) if one.required and one is not field}
                told = outcome({kind.section: [entry]}).as_dict()
                assert (told["code"], told["message"], told["field"], told["remedy"]) == ("invalid_spec", "is missing", field.name, field.doc)


def test_every_example_is_valid() -> None:
    for _, way in ALL.values():
        field = way[-1]
        if field.example is not None:
            assert field.type.parse(field.example) is not None


@pytest.mark.parametrize("section", [kind.section for kind in KINDS])
@pytest.mark.parametrize("value", [1, "x", {}, {"name": {}}, True, [1], ["x"], [[]], [None]], ids=repr)
def test_a_section_is_a_list_of_objects(section: str, value: Any) -> None:
    result = outcome({section: value})
    assert isinstance(result, DomusError) and result.code == "invalid_spec"


def test_null_is_as_left_out() -> None:
    for kind in KINDS:
        assert outcome({kind.section: None}).wanted(kind.name) == {}
        entry = {field.name: _valid(field) if field.required else None for field in fields_of(kind.spec)}
        (spec,) = outcome({kind.section: [entry]}).wanted(kind.name).values()
        assert {name for name, value in vars(spec).items() if value is not None} == {field.name for field in fields_of(kind.spec) if field.required}
