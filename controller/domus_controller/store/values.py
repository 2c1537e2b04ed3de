"""What all tables share: times and JSON as they are stored and shown, and pages by keyset."""

from __future__ import annotations

import base64
import binascii
import datetime
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Optional

from domus_core.errors import InvalidSpec

MOST_PER_PAGE = 1000
END_OF_TIME = 253402300800.0

# Text of agents may hold what UTF-8 can not: escaped, it is stored and shown like any other.
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)

Page = dict[str, Any]


def shown_time(at: Optional[float]) -> Optional[str]:
    """A time of the store (seconds since 1970) as the API shows it: RFC 3339 in UTC, with milliseconds."""
    if at is None:
        return None
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(value: Any) -> str:
    """A value as compact ASCII JSON; the same value gives the same text, and what JSON has no number for becomes null."""
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def from_json(text: Optional[str]) -> Any:
    """The value of a JSON column; None for NULL."""
    return None if text is None else json.loads(text)


def checked_time(at: Any) -> float:
    """A time that somebody else tells, in seconds since 1970. Raises InvalidSpec unless it is before the year 10000."""
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 <= at < END_OF_TIME:
        raise InvalidSpec("is not a time", field="at", value=at, remedy="Seconds since 1970")
    return float(at)


def encode_cursor(*values: Any) -> str:
    """A cursor that holds the sort key of the last entry of a page; opaque to clients."""
    return base64.urlsafe_b64encode(as_json(values).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> tuple[Any, ...]:
    """The sort key in a cursor. Raises InvalidSpec when it is not one that `encode_cursor` made for such a list."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(values, list) and [type(value) for value in values] == list(types):
            return tuple(values)
    except (ValueError, binascii.Error, RecursionError):
        pass
    raise InvalidSpec("is not a cursor of this list", field="cursor", value=cursor, remedy="Use `next` of the page before, or start without a cursor")


def checked_limit(limit: int) -> int:
    """The number of entries of a page. Raises InvalidSpec unless it is 1 to 1000."""
    if not 1 <= limit <= MOST_PER_PAGE:
        raise InvalidSpec(f"is not a number from 1 to {MOST_PER_PAGE}", field="limit", value=limit)
    return limit


def checked_filters(filters: Optional[dict[str, Any]], known: Sequence[str]) -> dict[str, Any]:
    """The filters that were given. Raises InvalidSpec for a filter that the list does not have."""
    given = {name: value for name, value in (filters or {}).items() if value is not None}
    for name in given:
        if name not in known:
            raise InvalidSpec("is not a filter of this list", field=name, remedy=f"Filters: {', '.join(known)}")
    return given


def checked_word(name: str, value: str, known: Iterable[str]) -> str:
    """The value of a filter. Raises InvalidSpec, with what is near or else all that is known, unless it is one of those known."""
    words = list(known)
    if value not in words:
        raise InvalidSpec(f"is not a {name} of this list", field=name, value=value, remedy=near_or_known(value, words))
    return value


def near_or_known(value: str, known: Sequence[str], most: int = 20) -> str:
    """What to write instead of a word that is not known."""
    near = difflib.get_close_matches(value[:100], known, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known: {', '.join(known[:most])}{', ...' if len(known) > most else ''}" if known else "There is none yet"


def page_of(rows: Sequence[Any], limit: int, shown: Callable[[Any], Any], key: Callable[[Any], tuple[Any, ...]]) -> Page:
    """A page of the first `limit` rows; there is a next one when a row more was found."""
    following = encode_cursor(*key(rows[limit - 1])) if len(rows) > limit else None
    return {"items": [shown(row) for row in rows[:limit]], "next": following}
