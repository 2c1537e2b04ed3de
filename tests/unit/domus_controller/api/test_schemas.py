"""The schemas say what the core accepts: no example of the tables, and no value that the core takes, is outside of them."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from domus_controller.api.openapi import components
from domus_controller.api.schemas import schema_of
from domus_core.errors import InvalidSpec
from domus_core.model import field_types as types
from domus_core.model.fields import parse_spec, public_fields
from domus_core.model.kinds import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st

CASES: tuple[tuple[types.FieldType, list[Any]], ...] = (
    (types.Name(), ["web1", "-web", "", "a" * 64, "a b", 5]),
    (types.Text(5, pattern="[a-z]+"), ["abc", "ABC", "abcdef", "", 1]),
    (types.Text(5), ["a c", "a\nc", "abcdef"]),
    (types.FileReference(), ["main/a.iso", "main/../a", "/main/a", "main", "main/a/b"]),
    (types.FileReference(deep=True, empty=True), ["", "main/a/b", "main"]),
    (types.AbsolutePath(), ["/srv/vms", "srv", 1]),
    (types.Integer(1, 5), [1, 5, 0, 6, "1", True]),
    (types.Size(1024, multiple=512), [1024, "2KiB", "2 GiB", 1000, 512, "2GB", -1, "x", None]),
    (types.Flag(), [True, False, "yes", 1]),
    (types.Choice("a", "b"), ["a", "c", 1]),
    (types.MacAddress(), ["52:54:00:00:00:01", "52:54:00:00:00", "53:54:00:00:00:01", "52-54-00-00-00-01"]),
    (types.IpAddress(), ["192.0.2.1", "2001:db8::1", "192.0.2", "x"]),
    (types.Subnet(), ["192.0.2.0/24", "192.0.2.0/31", "192.0.2.0", "x/24"]),
    (types.ListOf(types.Name(), most=2), [["a", "b"], ["a", "a"], ["a", "b", "c"], "a", [1]]),
)


def fits(value: Any, schema: Any) -> bool:
    checker = jsonschema.Draft202012Validator({**schema, "components": {"schemas": components()}}, format_checker=jsonschema.FormatChecker())
    return bool(checker.is_valid(value))


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind, values in CASES for value in values],
    ids=lambda one: type(one).__name__ if isinstance(one, types.FieldType) else repr(one),
)
def test_the_schema_of_a_type_accepts_what_the_type_accepts(kind: types.FieldType, value: Any) -> None:
    try:
        kind.parse(value)
        accepted = True
    except InvalidSpec:
        accepted = False
    assert fits(value, schema_of(kind)) is accepted


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_examples_of_a_kind_fit_its_schema(kind: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{kind.spec.__name__}"}
    names = {field.name: field.example for field in public_fields(kind.spec) if field.required}
    for field in public_fields(kind.spec):
        if field.example is not None:
            assert fits({**names, field.name: field.example}, schema), field.name
        assert fits({**names, field.name: None}, schema) is not field.required
    assert not fits({**names, "nonsense": 1}, schema)
    assert not fits({}, schema)


@given(
    value=st.dictionaries(st.sampled_from(["name", "cpus", "memory", "tags", "disks", "state"]), st.integers() | st.text() | st.none() | st.lists(st.text()))
)
@settings(deadline=None)
def test_what_the_core_accepts_fits(value: dict[str, Any]) -> None:
    from domus_core.model.vm import VmSpec

    if parse_spec(VmSpec, value, []) is not None:
        assert fits(value, {"$ref": "#/components/schemas/VmSpec"})


def test_secrets_are_only_written() -> None:
    secret = components()["VncSpec"]["properties"]["password"]
    assert secret["writeOnly"] is True
    assert "examples" not in secret
    assert components()["TakeOver"]["properties"]["secret"]["writeOnly"] is True
