"""Errors say what, where and what to do, whatever value they are about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from domus_core import errors
from domus_core.errors import Conflict, DomusError, InvalidSpec, NotFound, Refused, error_from_dict, printable, shorten, told_on


def exploding(depth: int) -> Any:
    """A list that would be printed with ten to the power of `depth` values."""
    value: Any = []
    for _ in range(depth):
        value = [value] * 10
    return value


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        10**10_000,
        -(10**10_000),
        float("nan"),
        float("inf"),
        nested(100_000),
        exploding(30),
        [[1] * 10**5] * 10**5,
        {"a": nested(5000)},
        {1: {2: {3: 4}}},
        b"\x00",
        object(),
        {1, 2},
        [10**10_000],
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_told_shortly_and_as_json(value: Any) -> None:
    told = shorten(value)
    assert len(json.dumps(told, allow_nan=False)) < 200
    error = InvalidSpec("is odd", object="vm a", field="cpus", value=value)
    assert len(str(error)) < 300 and json.dumps(error.as_dict(), allow_nan=False)


@pytest.mark.parametrize("value", [None, True, 7, -7, 1 << 60, 1.5, "text", ""])
def test_a_plain_value_is_told_as_it_is(value: Any) -> None:
    assert shorten(value) == value and type(shorten(value)) is type(value)


@pytest.mark.parametrize("key", ["a\nb", "\x1b[31m", "\ud800", "a\u202eb", "x" * 1000, 5, None, 10**10_000, (1, 2), "\x00"], ids=lambda key: type(key).__name__)
def test_a_key_is_told_on_one_line(key: Any) -> None:
    assert printable(key).isprintable() and len(printable(key)) <= 80


def test_an_error_tells_all_it_knows() -> None:
    error = Conflict("is in use", object="vm a", field="disks[d].file", value="main/x", remedy="Use another")
    assert error.as_dict() == {
        "code": "conflict",
        "message": "is in use",
        "object": "vm a",
        "field": "disks[d].file",
        "value": "main/x",
        "remedy": "Use another",
    }
    assert str(error) == "vm a disks[d].file: is in use (value: 'main/x'). Use another"
    assert DomusError("x").as_dict() == {"code": "error", "message": "x"} and str(DomusError("x")) == "x"


def test_the_place_grows_from_inside_out() -> None:
    error = InvalidSpec("is wrong", field="size").located("", "[root]").located("", "disks").located("vm a")
    assert (error.object, error.field) == ("vm a", "disks[root].size")
    assert error.located("vm b").object == "vm a"


def test_several_errors_are_told_as_the_first_and_all() -> None:
    errors: list[DomusError] = [Conflict(f"number {number}", object=f"vm {number}") for number in range(150)]
    refused = Refused(errors)
    assert refused.code == "conflict" and refused.as_dict()["message"] == "number 0"
    assert len(refused.as_dict()["errors"]) == 100
    assert "nothing was touched" in str(refused) and "and 130 more" in str(refused)


@pytest.mark.parametrize("kind", [kind for kind in DomusError.__subclasses__() if kind.__module__ == errors.__name__])
def test_every_error_has_a_code_of_its_own_and_stands_in_the_tree(kind: type[DomusError]) -> None:
    tree = str(errors.__doc__)
    if kind is Refused:
        return
    assert errors.BY_CODE[kind.code] is kind and kind.__name__ in tree.split()


def test_an_error_is_made_again_of_its_data() -> None:
    error = Conflict("is in use", object="vm a", field="name", value="a", remedy="Use another")
    again = errors.error_from_dict(error.as_dict())
    assert type(again) is Conflict and str(again) == str(error) and again.as_dict() == error.as_dict()
    assert errors.error_from_dict({}).code == "driver_error" and errors.error_from_dict({"code": "error", "message": "x"}).message == "x"
    several = Refused([error, InvalidSpec("is wrong")])
    assert errors.error_from_dict(several.as_dict()).as_dict() == several.as_dict()
    assert errors.error_from_dict({"code": "conflict", "errors": ["x"]}).code == "conflict"


def test_an_error_of_one_of_many_servers_names_it() -> None:
    error = Conflict("is in use", object="vm web1", field="memory").on("srv2")
    assert str(error) == "vm web1 memory on server srv2: is in use" and str(error.on("srv3")) == str(error), "who is nearest knows best"
    assert str(error_from_dict(error.as_dict())) == str(error) and error.as_dict()["server"] == "srv2"
    assert str(Conflict("is down", object="server srv2").on("srv2")) == "server srv2: is down"
    both = Refused([Conflict("a", object="vm web1"), NotFound("b", object="vm web2")]).on("srv2")
    assert "vm web1 on server srv2: a" in str(both) and "vm web2 on server srv2: b" in str(both)
    assert [one["server"] for one in told_on(Refused([Conflict("a"), Conflict("b")]).as_dict(), "srv1")["errors"]] == ["srv1", "srv1"]
    assert "server" not in Conflict("x").as_dict()
