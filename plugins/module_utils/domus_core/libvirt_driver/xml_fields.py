"""The only import of lxml: read and edit libvirt XML by the field tables; what Domus does not know stays as it is."""

from __future__ import annotations

import functools
from typing import Any, Optional

from ..errors import DriverError, Unsupported
from ..model.field_types import Flag, Integer, Size
from ..model.fields import Field, Object, Objects, fields_of, once

etree: Any
try:
    from lxml import etree
except ImportError:  # reported by `parse` with the package that is missing
    etree = None

KIB = 1024
# https://libvirt.org/formatdomain.html#memory-allocation
_UNITS = {
    "b": 1,
    "bytes": 1,
    "KB": 1000,
    "k": KIB,
    "KiB": KIB,
    "MB": 10**6,
    "M": KIB**2,
    "MiB": KIB**2,
    "GB": 10**9,
    "G": KIB**3,
    "GiB": KIB**3,
    "TiB": KIB**4,
    "T": KIB**4,
}


def parse(text: str) -> Any:
    """The root element of an XML text; nothing outside the text is read. Raises DriverError when it is malformed, Unsupported without lxml."""
    if etree is None:
        raise Unsupported("lxml for Python is not installed here", remedy="Install it: apt-get install python3-lxml")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, remove_blank_text=True)
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise DriverError(f"malformed XML: {error}") from error


def serialize(element: Any) -> str:
    """The element as XML text."""
    return str(etree.tostring(element, encoding="unicode", pretty_print=True))


def canonical(element: Any) -> bytes:
    """The element in canonical form (W3C C14N), for fingerprints and comparisons."""
    return bytes(etree.tostring(element, method="c14n"))


@functools.cache
def _split(xpath: str) -> tuple[tuple[str, ...], Optional[str]]:
    """`./a/b/@c` as (("a", "b"), "c")."""
    parts = [part for part in xpath.split("/") if part != "."]
    if parts and parts[-1].startswith("@"):
        return tuple(parts[:-1]), parts[-1][1:]
    return tuple(parts), None


def find(element: Any, xpath: str) -> Optional[Any]:
    """The element that the path leads to (its attribute part is not looked at), or None."""
    for tag in _split(xpath)[0]:
        element = element.find(tag)
        if element is None:
            return None
    return element


def get(element: Any, xpath: str) -> Optional[str]:
    """The text or attribute that the path leads to, or None."""
    found = find(element, xpath)
    if found is None:
        return None
    attribute = _split(xpath)[1]
    value = found.text if attribute is None else found.get(attribute)
    return None if value is None else str(value)


def put(element: Any, xpath: str, value: Optional[str]) -> None:
    """Set the text or attribute that the path leads to, making the elements on the way; None takes it away."""
    tags, attribute = _split(xpath)
    if value is None:
        _take_away(element, tags, attribute)
        return
    target = ensure(element, "/".join(tags)) if tags else element
    if attribute is None:
        target.text = value
    else:
        target.set(attribute, value)


def _take_away(element: Any, tags: tuple[str, ...], attribute: Optional[str]) -> None:
    target = find(element, "/".join(tags)) if tags else element
    if target is None:
        return
    if attribute is not None:
        target.attrib.pop(attribute, None)
    else:
        target.getparent().remove(target)


def ensure(element: Any, path: str) -> Any:
    """The element at the path, made where it is missing."""
    for tag in _split(path)[0]:
        inner = element.find(tag)
        element = etree.SubElement(element, tag) if inner is None else inner
    return element


def add(parent: Any, tag: str, text: Optional[str] = None, **attributes: Optional[str]) -> Any:
    """Append a child with attributes (None: left out; a trailing underscore avoids Python's keywords)."""
    child = etree.SubElement(parent, tag, {name.rstrip("_"): value for name, value in attributes.items() if value is not None})
    child.text = text
    return child


def read_field(element: Any, field: Field) -> Any:
    """The value of a field that the table gives an XPath, in canonical form, or None."""
    xpath = field.xpath or ""
    if isinstance(field.type, Flag) and field.words is None:
        return find(element, xpath) is not None
    text = get(element, xpath)
    if text is None:
        return None
    if isinstance(field.type, Flag):
        return text == (field.words or ("yes", "no"))[0]
    if isinstance(field.type, Size):
        target = find(element, xpath)
        return int(text) * _UNITS.get(target.get("unit", "KiB") if target is not None else "KiB", KIB)
    return int(text) if isinstance(field.type, Integer) else text


def write_field(element: Any, field: Field, value: Any) -> None:
    """Set a field that the table gives an XPath; None takes it away. Sizes are written in KiB."""
    xpath = field.xpath or ""
    if isinstance(field.type, Flag) and field.words is None:
        if value:
            ensure(element, xpath)
        else:
            put(element, xpath, None)
    elif isinstance(field.type, Flag) and value is not None:
        put(element, xpath, (field.words or ("yes", "no"))[0 if value else 1])
    elif isinstance(field.type, Size) and value is not None:
        put(element, xpath, str(value // KIB))
        ensure(element, xpath).set("unit", "KiB")
    else:
        put(element, xpath, None if value is None else str(value))


@once
def mapped(spec: Any) -> tuple[Field, ...]:
    """The fields of a kind that the table alone maps to XML: those with an XPath and a plain value."""
    return tuple(field for field in fields_of(spec) if field.xpath and not isinstance(field.type, (Object, Objects)))


def read_fields(element: Any, spec: type) -> dict[str, Any]:
    """All mapped fields of a kind, those that are not there left out."""
    values = {field.name: read_field(element, field) for field in mapped(spec)}
    return {name: value for name, value in values.items() if value is not None}


def write_fields(element: Any, spec: Any) -> None:
    """Write all mapped fields that the specification gives."""
    for field in mapped(type(spec)):
        value = getattr(spec, field.name)
        if value is not None:
            write_field(element, field, value)
