"""Random valid documents, derived from the field tables: a new field is exercised without a word here."""

from __future__ import annotations

from typing import Any

from domus_core.model import field_types as types
from domus_core.model.fields import Field, Object, Objects, fields_of
from domus_core.model.kinds import KINDS
from hypothesis import strategies as st

GIB = 1 << 30
FILES = ("main/one.qcow2", "main/two.qcow2")
# Few names, so that objects meet each other; "gone" is never there.
NAMES = {
    "network": ("lan", "dmz"),
    "repository": ("main",),
    "template": ("debian", "alma"),
    "iso": ("rescue", "gone"),
    "virtual_disk": ("main/data", "main/shared"),
    "image": FILES,
}
SIZES = st.sampled_from([GIB, 2 * GIB, 3 * GIB, "4GiB"])
TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Co", "Cn", "Cf")), min_size=1, max_size=12)
ADDRESSES = st.integers(2, 250).map(lambda number: f"192.0.2.{number}")


def value_of(field: Field) -> st.SearchStrategy[Any]:
    """Values that one field accepts by itself."""
    kind = field.type
    if field.name in NAMES:
        return st.sampled_from(NAMES[field.name])
    if isinstance(kind, Objects):
        return st.lists(entry_of(kind.spec), max_size=3, unique_by=lambda entry: entry["name"])
    if isinstance(kind, Object):
        return entry_of(kind.spec)
    if isinstance(kind, types.ListOf):
        return st.lists(_scalar(kind.item, field), max_size=2, unique=True)
    return _scalar(kind, field)


def _scalar(kind: types.FieldType, field: Field) -> st.SearchStrategy[Any]:
    if isinstance(kind, types.Flag):
        return st.booleans()
    if isinstance(kind, types.Choice):
        return st.sampled_from(kind.words)
    if isinstance(kind, types.Integer):
        return st.integers(kind.least, min(kind.most, kind.least + 5))
    for of_type, strategy in (
        (types.Size, SIZES),
        (types.MacAddress, st.integers(1, 5).map(lambda number: f"52:54:00:00:00:0{number}")),
        (types.IpAddress, ADDRESSES),
        (types.HostAddress, st.sampled_from(["nas1", "192.0.2.5"])),
        (types.Subnet, st.just("192.0.2.0/24")),
        (types.AbsolutePath, st.sampled_from(["/srv/main", "/srv/other"])),
        (types.FileReference, st.sampled_from(FILES)),
        (types.Name, st.sampled_from(["a", "b", "c"])),
        (types.ServerOrTag, st.sampled_from(["a", "b", "tag:c"])),
        (types.Ratio, st.sampled_from([1, 1.5, 2])),
    ):
        if isinstance(kind, of_type):
            return strategy
    assert isinstance(kind, types.Text)
    return st.just(field.example) if kind.pattern else TEXTS


@st.composite
def entry_of(draw: st.DrawFn, spec: type) -> dict[str, Any]:
    """An object with its required fields and a few others; fields may still contradict each other."""
    entry: dict[str, Any] = {}
    for field in fields_of(spec):
        if field.required or draw(st.integers(0, 3)) == 0:
            entry[field.name] = draw(value_of(field))
    return entry


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A whole document; most are valid in each field, many are refused for how the fields go together."""
    sections: dict[str, Any] = {"site": "paris"}
    for kind in KINDS:
        names = st.sampled_from([name.split("/")[-1] for name in NAMES.get(kind.name, ("a", "b", "c"))])
        entries = draw(st.lists(entry_of(kind.spec), max_size=3))
        named = {name: {**entry, "name": name} for entry in entries for name in [draw(names)]}
        if named:
            sections[kind.section] = list(named.values())
    return sections


def json_values() -> st.SearchStrategy[Any]:
    """Anything that JSON or YAML can say, and what Python objects can hold besides."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=5) | st.just(1 << 80) | st.dates()
    keys = st.text(max_size=10) | st.integers() | st.none()
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)


@st.composite
def damaged_documents(draw: st.DrawFn) -> dict[Any, Any]:
    """A document with wrong values in right places."""
    document: dict[Any, Any] = draw(documents())
    for kind in KINDS:
        for entry in document.get(kind.section, ()):
            for field in fields_of(kind.spec):
                if draw(st.integers(0, 15)) == 0:
                    entry[field.name] = draw(json_values())
    if draw(st.booleans()):
        document[draw(st.sampled_from([kind.section for kind in KINDS]) | st.text(max_size=5))] = draw(json_values())
    return document
