"""What a field may hold: each type checks a value from a document and knows its Ansible name."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Optional

from ..errors import InvalidSpec
from .quantities import parse_size
from .secrets import Secret

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
FILE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
TAG = "tag:"
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class FieldType:
    """Checks one value; `ansible` is the type in an argument spec, `noun` says it to a person."""

    ansible = "str"
    noun = "text"

    def parse(self, value: Any) -> Any:
        """Return the value in its one canonical form. Raises InvalidSpec."""
        raise NotImplementedError


class Text(FieldType):
    """Text that XML can carry; control characters are refused, line ends unless `multiline`."""

    def __init__(self, longest: int = 255, *, multiline: bool = False, pattern: Optional[str] = None, noun: str = "text") -> None:
        self.longest = longest
        self.multiline = multiline
        self.pattern = re.compile(pattern) if pattern else None
        self.noun = noun

    def parse(self, value: Any) -> str:
        """Return the text itself."""
        if not isinstance(value, str):
            raise InvalidSpec(f"is not {self.noun}", value=value)
        if len(value) > self.longest:
            raise InvalidSpec(f"is longer than {self.longest} characters", value=value)
        if NOT_IN_XML.search(value) or not (self.multiline or value.isprintable()):
            raise InvalidSpec(
                "has characters that are not allowed", value=value, remedy="Leave out control characters" + ("" if self.multiline else " and line ends")
            )
        if self.pattern and not self.pattern.fullmatch(value):
            raise InvalidSpec(f"is not {self.noun}", value=value, remedy=f"It must match {self.pattern.pattern}")
        return str(value)


class SecretText(Text):
    """Text that is masked wherever it could be seen."""

    noun = "secret text"

    def parse(self, value: Any) -> Any:
        """Return the text, wrapped; an error never repeats it."""
        if isinstance(value, Secret):
            return value
        try:
            return Secret(super().parse(value))
        except InvalidSpec as error:
            error.value = None
            raise


class Name(FieldType):
    """A name of an object: letters, digits, dot, underscore, hyphen; 63 at most; not starting with a sign."""

    noun = "a name"

    def parse(self, value: Any) -> str:
        """Return the name itself."""
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise InvalidSpec("is not a name", value=value, remedy="Use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit")
        return str(value)


class ServerOrTag(FieldType):
    """The name of a server, or `tag:NAME`: all servers that have that tag."""

    noun = "a server or tag:NAME"

    def parse(self, value: Any) -> str:
        """Return the reference itself."""
        name = value[len(TAG) :] if isinstance(value, str) and value.startswith(TAG) else value
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidSpec("is neither the name of a server nor a tag", value=value, remedy="Write the name of a server, or tag: and the name of a tag")
        return str(value)


class FileReference(FieldType):
    """`repository/file`: a file in a repository; never an absolute path, never a way out of the repository."""

    noun = "repository/file"

    def __init__(self, *, deep: bool = False, empty: bool = False) -> None:
        self.deep = deep
        self.empty = empty

    def parse(self, value: Any) -> str:
        """Return the reference itself."""
        if self.empty and value == "":
            return ""
        parts = value.split("/") if isinstance(value, str) and len(value) < 1200 else []
        allowed = len(parts) == 2 or (self.deep and 2 < len(parts) < 9)
        if not (allowed and NAME.fullmatch(parts[0]) and all(FILE_PART.fullmatch(part) for part in parts[1:])):
            raise InvalidSpec("is not a file in a repository", value=value, remedy="Write repository/file; absolute paths and '..' are not allowed")
        return str(value)


class AbsolutePath(FieldType):
    """An absolute path without `.` or `..`: a repository's own, for administrators; a `mountable` one has no characters that mount(8) or systemd read."""

    noun = "an absolute path"
    _mountable = re.compile(r"[A-Za-z0-9._/+@=-]+")

    def __init__(self, *, mountable: bool = False) -> None:
        self.mountable = mountable

    def parse(self, value: Any) -> str:
        """Return the path without a trailing slash."""
        text = Text(1000).parse(value)
        parts = text.strip("/").split("/")
        if not text.startswith("/") or not text.strip("/") or any(part in ("", ".", "..") for part in parts):
            raise InvalidSpec("is not an absolute path", value=value, remedy="Write it from the root, without '.', '..' or double slashes")
        if self.mountable and not self._mountable.fullmatch(text):
            raise InvalidSpec("has characters that can not be mounted", value=value, remedy="Use letters, digits and . _ + @ = -")
        return "/" + "/".join(parts)


class Integer(FieldType):
    """A whole number between two bounds, both included."""

    ansible = "int"
    noun = "a whole number"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def parse(self, value: Any) -> int:
        """Return the number."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidSpec("is not a whole number", value=value)
        if not self.least <= value <= self.most:
            raise InvalidSpec(f"is not between {self.least} and {self.most}", value=value)
        return int(value)


class Ratio(FieldType):
    """A positive number, whole or not, between two bounds, both included; kept with three decimals."""

    ansible = "float"
    noun = "a number"

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most

    def parse(self, value: Any) -> float:
        """Return the number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidSpec("is not a number", value=value)
        if not self.least <= value <= self.most:
            raise InvalidSpec(f"is not between {self.least:g} and {self.most:g}", value=value)
        return round(float(value), 3)


class Size(FieldType):
    """Bytes; with a least value, and rounded to nothing: what is asked is what is made."""

    noun = "a size"

    def __init__(self, least: int = 0, multiple: int = 1) -> None:
        self.least = least
        self.multiple = multiple

    def parse(self, value: Any) -> int:
        """Return the size in bytes."""
        size = parse_size(value)
        if size < self.least:
            raise InvalidSpec(f"is less than {self.least} bytes", value=value)
        if size % self.multiple:
            raise InvalidSpec(f"is not a multiple of {self.multiple} bytes", value=value)
        return size


class Flag(FieldType):
    """True or false, nothing that merely looks like it."""

    ansible = "bool"
    noun = "true or false"

    def parse(self, value: Any) -> bool:
        """Return the flag."""
        if not isinstance(value, bool):
            raise InvalidSpec("is not true or false", value=value)
        return value


class Choice(FieldType):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.noun = "one of " + ", ".join(words)

    def parse(self, value: Any) -> str:
        """Return the word."""
        if value not in self.words or not isinstance(value, str):
            raise InvalidSpec("is not a choice", value=value, remedy=f"Choose one of: {', '.join(self.words)}")
        return str(value)


class Version(Choice):
    """A version number, one of a few; YAML reads some as numbers."""

    def parse(self, value: Any) -> str:
        """Return the version as text."""
        return super().parse(str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value)


class HostAddress(FieldType):
    """The name of a host, or its address."""

    noun = "a host name or an address"
    _name = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")

    def parse(self, value: Any) -> str:
        """Return the name in lower case, or the address in its shortest form."""
        text = value.lower() if isinstance(value, str) and len(value) < 254 and "%" not in value else ""
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            if self._name.fullmatch(text) and not text.replace(".", "").isdigit():
                return text
        raise InvalidSpec("is not a host name or an address", value=value, remedy="Write it like nas1.example.org, 192.0.2.5 or fd00::5")


class MacAddress(FieldType):
    """A unicast MAC address, kept in lower case with colons."""

    noun = "a MAC address"
    _pattern = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

    def parse(self, value: Any) -> str:
        """Return the address in lower case."""
        text = value.lower() if isinstance(value, str) else ""
        if not self._pattern.fullmatch(text) or int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
            raise InvalidSpec("is not a unicast MAC address", value=value, remedy="Write it like 52:54:00:12:34:56")
        return text


class IpAddress(FieldType):
    """An IPv4 or IPv6 address."""

    noun = "an IP address"

    def parse(self, value: Any) -> str:
        """Return the address in its shortest form."""
        try:
            address = Text(45).parse(value)
            if "%" in address:  # a scope may hold any character
                raise ValueError
            return str(ipaddress.ip_address(address))
        except ValueError:
            raise InvalidSpec("is not an IP address", value=value) from None


class Subnet(FieldType):
    """An IPv4 subnet in CIDR notation, given by its network address."""

    noun = "a subnet"

    def parse(self, value: Any) -> str:
        """Return the subnet as `address/length`."""
        try:
            subnet = ipaddress.IPv4Network(Text(18).parse(value))
        except ValueError as error:
            raise InvalidSpec("is not an IPv4 subnet", value=value, remedy=f"Write it like 192.0.2.0/24 ({error})") from None
        if not 4 <= subnet.prefixlen <= 30:
            raise InvalidSpec("is not a subnet with room for hosts", value=value, remedy="Use a prefix length of 4 to 30")
        return str(subnet)


class ListOf(FieldType):
    """A list of values of one type, at most `most` of them, each once; with `sort` their order says nothing."""

    ansible = "list"

    def __init__(self, item: FieldType, most: int = 64, *, sort: bool = False) -> None:
        self.item = item
        self.most = most
        self.sort = sort
        self.noun = f"a list of {item.noun}"

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Return the values as a tuple."""
        if not isinstance(value, (list, tuple)):
            raise InvalidSpec("is not a list", value=value)
        if len(value) > self.most:
            raise InvalidSpec(f"has more than {self.most} entries")
        entries = tuple(self.item.parse(entry) for entry in value)
        if len(set(entries)) != len(entries):
            raise InvalidSpec("names the same entry twice", value=list(entries))
        return tuple(sorted(entries)) if self.sort else entries
