"""The field table: one line says everything about a field, and everything else derives from it.

A kind is a frozen dataclass whose attributes are declared by `attribute(...)`. None means "not managed": an instance holds
only what was given, so `given(spec)` is the managed part.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any, Callable, Optional, TypeVar

from ..errors import DomusError, InvalidSpec, printable
from .field_types import FieldType
from .secrets import MASK, Digest, Secret, new_salt

LIVE, RESTART, CREATION = "live", "restart", "creation"
EXACT, SUBSET, IGNORE = "exact", "subset", "ignore"
MOST_PROBLEMS = 100

SpecType = TypeVar("SpecType")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Field:
    """One line of a kind's table. One that is `internal` is between manager and servers: no person writes it, and no reference shows it."""

    name: str
    type: FieldType
    doc: str
    effect: str = LIVE
    compare: str = EXACT
    xpath: Optional[str] = None
    words: Optional[tuple[str, str]] = None
    default: Any = None
    required: bool = False
    secret: bool = False
    internal: bool = False
    matches: Optional[Callable[[Any, Any], bool]] = None
    example: Any = None


def attribute(type: FieldType, doc: str, **rest: Any) -> Any:
    """Declare an attribute of a kind; see Field for what `rest` may say. Its value is None until given."""
    metadata = {"field": Field(name="", type=type, doc=doc, **rest)}
    return dataclasses.field(default=None, metadata=metadata)  # pylint: disable=invalid-field-call


def once(function: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """Work out something about a kind once: tables never change."""
    return functools.lru_cache(maxsize=None)(function)


@once
def fields_of(spec: Any) -> tuple[Field, ...]:
    """The table of a kind, in the order of its declaration."""
    table = []
    for declared in dataclasses.fields(spec):
        field: Field = declared.metadata["field"]
        table.append(dataclasses.replace(field, name=declared.name))
    return tuple(table)


def public_fields(spec: Any) -> tuple[Field, ...]:
    """The lines of a table that people write and see."""
    return tuple(field for field in fields_of(spec) if not field.internal)


def field_named(spec: Any, name: str) -> Field:
    """One line of a kind's table. Raises KeyError."""
    return _by_name(spec)[name]


@once
def _by_name(spec: Any) -> dict[str, Field]:
    return {field.name: field for field in fields_of(spec)}


def make(spec: type[SpecType], values: Mapping[str, Any]) -> SpecType:
    """Return an instance that holds just the values given (no None), without checking them."""
    made = object.__new__(spec)
    object.__setattr__(made, "__dict__", dict(values))
    return made


def given(spec: Any) -> dict[str, Any]:
    """The managed part of a specification: field names and values, None left out."""
    return {name: value for name, value in vars(spec).items() if value is not None}


def merge(found: SpecType, wanted: SpecType) -> SpecType:
    """Return `found` overlaid by what is given in `wanted`; objects known by name are merged one by one.

    What is found stays where it is as good as what is wanted: a versioned machine type for its alias.
    """
    values = given(found)
    table = _by_name(type(wanted))
    for name, value in given(wanted).items():
        kind, matches = table[name].type, table[name].matches
        if matches and name in values and matches(value, values[name]):
            continue
        if isinstance(kind, Objects) and name in values:
            values[name] = kind.merge(values[name], value)
        elif isinstance(kind, Object) and name in values:
            values[name] = merge(values[name], value)
        else:
            values[name] = value
    return make(type(wanted), values)


def parse_spec(spec: type[SpecType], value: Any, problems: list[DomusError], label: str = "") -> Optional[SpecType]:
    """Check a mapping against the table; problems are collected, each with its field, and None is returned if there is one."""
    if not isinstance(value, (dict, Mapping)):
        problems.append(InvalidSpec("is not a mapping of fields", value=type(value).__name__).located(label))
        return None
    before = len(problems)
    parsers = _parsers(spec)
    values: dict[str, Any] = {}
    for name, entry in value.items():
        known = parsers.get(name)
        if known is None:
            problems.append(_unknown_key(name, parsers).located(label))
        elif entry is not None:
            try:
                values[known[0]] = known[1](entry)
                continue
            except InvalidSpec as error:
                problems.extend(one.located(label, known[0]) for one in (error.problems if isinstance(error, _Several) else [error]))
        if problems and len(problems) >= MOST_PROBLEMS:
            return None
    for field in _required(spec):
        if field.name not in values and value.get(field.name) is None:
            problems.append(InvalidSpec("is missing", field=field.name, remedy=field.doc).located(label))
    if len(problems) > before:
        return None
    made = make(spec, values)
    check = getattr(made, "check", None)
    problems.extend(error.located(label) for error in (check() if check else ()))
    return made if len(problems) == before else None


@once
def _parsers(spec: Any) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    return {field.name: (field.name, field.type.parse) for field in fields_of(spec)}


@once
def _required(spec: Any) -> tuple[Field, ...]:
    return tuple(field for field in fields_of(spec) if field.required)


def _unknown_key(name: Any, table: Mapping[str, Any]) -> InvalidSpec:
    text = printable(name)
    near = difflib.get_close_matches(text[:60], table, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(sorted(table))}"
    return InvalidSpec("is not a known key", field=text, remedy=remedy)


class _Several(InvalidSpec):
    """Carries the problems inside a nested object up to the table that knows its name."""

    def __init__(self, problems: list[DomusError]) -> None:
        super().__init__("several problems")
        self.problems = problems


class Object(FieldType):
    """A nested object with a table of its own."""

    ansible = "dict"

    def __init__(self, spec: type) -> None:
        self.spec = spec
        self.noun = "an object"

    def parse(self, value: Any) -> Any:
        """Return an instance of the nested dataclass."""
        problems: list[DomusError] = []
        parsed = parse_spec(self.spec, value, problems)
        if problems:
            raise _Several(problems)
        return parsed


class Objects(FieldType):
    """A list of nested objects, each known by its `name`; those not mentioned stay."""

    ansible = "list"

    def __init__(self, spec: type, most: int = 64) -> None:
        self.spec = spec
        self.most = most
        self.noun = "a list of objects"

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Return the objects as a tuple, in the order given."""
        if not isinstance(value, (list, tuple)):
            raise InvalidSpec("is not a list of objects", value=type(value).__name__)
        if len(value) > self.most:
            raise InvalidSpec(f"has more than {self.most} entries")
        problems: list[DomusError] = []
        parsed: dict[str, Any] = {}
        for position, entry in enumerate(value):
            inner: list[DomusError] = []
            one: Any = parse_spec(self.spec, entry, inner)
            if one is None:
                problems.extend(error.located("", f"[{_entry_name(entry, position)}]") for error in inner)
            elif one.name in parsed:
                problems.append(InvalidSpec("is named twice", field=f"[{one.name}]", value=one.name))
            else:
                parsed[one.name] = one
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise _Several(problems)
        return tuple(parsed.values())

    def merge(self, found: tuple[Any, ...], wanted: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the found objects overlaid by the wanted ones of the same name, then the new ones."""
        by_name = {one.name: one for one in wanted}
        kept = [merge(one, by_name[one.name]) if one.name in by_name else one for one in found]
        known = {one.name for one in found}
        return (*kept, *(one for one in wanted if one.name not in known))


def _entry_name(entry: Any, position: int) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) and len(name) < 64 and name.isprintable() else str(position)


def plain(value: Any, *, mask: bool = True) -> Any:
    """Return a specification (or a value of one) as JSON-able data; secrets masked, or as salted digests when `mask` is false."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Digest):
        return MASK if mask else value.as_dict()
    if isinstance(value, Secret):
        return MASK if mask else value.digest(new_salt()).as_dict()
    if isinstance(value, (tuple, list)):
        return [plain(entry, mask=mask) for entry in value]
    if isinstance(value, Mapping):
        return {key: plain(entry, mask=mask) for key, entry in value.items()}
    return {name: plain(entry, mask=mask) for name, entry in vars(value).items() if entry is not None}


def public(spec: SpecType) -> SpecType:
    """The specification without what is between manager and servers."""
    hidden = _internal(type(spec))
    return make(type(spec), {name: value for name, value in given(spec).items() if name not in hidden}) if hidden else spec


@once
def _internal(spec: Any) -> frozenset[str]:
    return frozenset(field.name for field in fields_of(spec) if field.internal)


def restore(spec: type[SpecType], data: Mapping[str, Any]) -> SpecType:
    """Return the instance that `plain(..., mask=False)` was made of; unknown keys of a newer version are dropped."""
    names = _names(spec)
    values = {names[name]: entry for name, entry in data.items() if name in names and entry is not None}
    for name, restore_value in _restorers(spec):
        if name in values:
            values[name] = restore_value(values[name])
    return make(spec, values)


@once
def _names(spec: Any) -> dict[str, str]:
    return {field.name: field.name for field in fields_of(spec)}


@once
def _restorers(spec: type) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """The fields whose values are not themselves in JSON, and what turns them back."""
    found = ((field.name, _restorer(field)) for field in fields_of(spec))
    return tuple((name, restorer) for name, restorer in found if restorer is not None)


def _restorer(field: Field) -> Optional[Callable[[Any], Any]]:
    kind = field.type
    if isinstance(kind, Objects):
        return functools.partial(_restore_all, kind.spec)
    if isinstance(kind, Object):
        return functools.partial(restore, kind.spec)
    if field.secret:
        return lambda entry: Digest(str(entry["salt"]), str(entry["digest"]))
    return tuple if kind.ansible == "list" else None


def _restore_all(spec: type, entries: Any) -> tuple[Any, ...]:
    return tuple(restore(spec, entry) for entry in entries)
