"""The errors of the engine, each with a stable code.

    DomusError
      InvalidSpec         what was asked is wrong in itself
      NotFound            what was asked names something that is not there
      Conflict            what was asked contradicts what is there
      Moved               a VM that exists is not on this server: it must not be made here a second time
      OwnedByManager      the server takes changes from its manager only
      PreconditionFailed  it has changed since the one who asks has seen it
      NoCapacity          there is no room: disk, memory, addresses
      TooLarge            what was sent is more than is taken at once
      Unsupported         this server, or this libvirt, can not do it
      Unreachable         libvirt, a server or a guest does not answer
      Busy                somebody else is changing the same object
      Cancelled           somebody asked to leave off
      Unauthorized        nobody has said who asks, or not rightly
      Forbidden           who asks may not do this
      DriverError         libvirt or a tool refused for a reason of its own

An error says what is wrong, with which value of which field of which object, and what to do.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

LONGEST_SHOWN = 80


class DomusError(Exception):
    """Base of all: `message` is for people, `code` for programs, the rest says where; `server` is its name where there are several."""

    code = "error"
    server = ""

    def __init__(
        self,
        message: str,
        *,
        object: str = "",
        field: str = "",
        value: Any = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.object = object
        self.field = field
        self.value = value
        self.remedy = remedy

    def located(self, object: str, field: str = "") -> DomusError:
        """Return this error, told which object (and outer field) it happened in."""
        self.object = self.object or object
        if field:
            self.field = f"{field}{'' if self.field[:1] in ('', '[') else '.'}{self.field}"
        return self

    def on(self, server: str) -> DomusError:
        """Return this error, told on which server it happened."""
        self.server = self.server or server
        return self

    def as_dict(self) -> dict[str, Any]:
        """The error as plain data, for a result, an HTTP problem document or a log."""
        told = {"object": self.object, "field": self.field, "value": shorten(self.value), "remedy": self.remedy, "server": self.server}
        return {"code": self.code, "message": self.message, **{k: v for k, v in told.items() if v not in ("", None)}}

    def __str__(self) -> str:
        named = not self.server or f"server {self.server}" in self.object
        where = " ".join(part for part in (self.object, self.field, "" if named else f"on server {self.server}") if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.value is not None:
            text += f" (value: {shorten(self.value)!r})"
        return f"{text}. {self.remedy}" if self.remedy else text


class InvalidSpec(DomusError):
    """What was asked is wrong in itself."""

    code = "invalid_spec"


class NotFound(DomusError):
    """What was asked names something that is not there."""

    code = "not_found"


class Conflict(DomusError):
    """What was asked contradicts what is there."""

    code = "conflict"


class Moved(DomusError):
    """A VM that exists is not on this server: it must not be made here a second time."""

    code = "moved"


class OwnedByManager(DomusError):
    """The server takes changes from its manager only."""

    code = "owned_by_manager"


class PreconditionFailed(DomusError):
    """It has changed since the one who asks has seen it."""

    code = "precondition_failed"


class NoCapacity(DomusError):
    """There is no room: disk, memory, addresses."""

    code = "no_capacity"


class TooLarge(DomusError):
    """What was sent is more than is taken at once."""

    code = "too_large"


class Unsupported(DomusError):
    """This server, or this libvirt, can not do it."""

    code = "unsupported"


class Unreachable(DomusError):
    """libvirt, a server or a guest does not answer."""

    code = "unreachable"


class Busy(DomusError):
    """Somebody else is changing the same object."""

    code = "busy"


class Cancelled(DomusError):
    """Somebody asked to leave off before this was done."""

    code = "cancelled"


class Unauthorized(DomusError):
    """Nobody has said who asks, or not rightly."""

    code = "unauthorized"


class Forbidden(DomusError):
    """Who asks may not do this."""

    code = "forbidden"


class DriverError(DomusError):
    """libvirt or a tool refused for a reason of its own."""

    code = "driver_error"


class Refused(DomusError):
    """Several errors of one document, found before anything was touched; the code is that of the first."""

    def __init__(self, errors: list[DomusError]) -> None:
        self.errors = errors
        self.code = errors[0].code
        lines = "\n".join(f"- {error}" for error in errors[:20])
        more = f"\n- and {len(errors) - 20} more" if len(errors) > 20 else ""
        super().__init__(f"refused, nothing was touched:\n{lines}{more}" if len(errors) > 1 else str(errors[0]))

    def on(self, server: str) -> DomusError:
        """Return this error, told on which server all of them happened."""
        for error in self.errors:
            error.on(server)
        return Refused(self.errors)

    def as_dict(self) -> dict[str, Any]:
        """The first error, and all of them under `errors`."""
        return {**self.errors[0].as_dict(), "errors": [error.as_dict() for error in self.errors[:100]]}


BY_CODE: dict[str, type[DomusError]] = {kind.code: kind for kind in DomusError.__subclasses__() if "code" in vars(kind)}


def error_from_dict(data: Mapping[str, Any]) -> DomusError:
    """The error that `as_dict` was made of; one of an unknown code is a DriverError."""
    several = data.get("errors")
    if isinstance(several, list) and several and all(isinstance(one, Mapping) for one in several):
        return Refused([error_from_dict({**one, "errors": None}) for one in several])
    kind = BY_CODE.get(str(data.get("code")), DriverError)
    texts = {name: str(data.get(name) or "") for name in ("object", "field", "remedy")}
    return kind(str(data.get("message") or "failed without a message"), value=data.get("value"), **texts).on(str(data.get("server") or ""))


def told_on(error: Mapping[str, Any], server: str) -> dict[str, Any]:
    """An error as plain data, told on which server it happened."""
    told = {**error, "server": error.get("server") or server}
    return {**told, "errors": [told_on(one, server) for one in error["errors"]]} if error.get("errors") else told


class _ShallowRepr(reprlib.Repr):
    """A repr that neither a deep, an endless nor an exploding value can exhaust."""

    def repr_int(self, x: int, level: int) -> str:
        """The number; beyond 64 bits only its size, since Python refuses to print the largest."""
        return str(x) if x.bit_length() <= 64 else f"a number of {x.bit_length()} bits"


_SHALLOW = _ShallowRepr()
_SHALLOW.maxlevel = 2


def printable(key: Any) -> str:
    """A key as a message may name it: one line without control characters, 80 characters at most."""
    text = str(shorten(key))
    return text if text.isprintable() else str(shorten(ascii(text)[1:-1]))


def shorten(value: Any) -> Any:
    """The value as a message may repeat it: JSON-able, and text of 80 characters at most."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 3] + "..."
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() <= 64 or isinstance(value, float) and math.isfinite(value):
        return value
    return shorten(_SHALLOW.repr(value))
