"""Read documents from text: JSON always, YAML where PyYAML is installed."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, Optional

from .errors import InvalidSpec, Unsupported, printable

try:
    import yaml
except ImportError:  # the hosts need no PyYAML: Ansible sends them JSON
    yaml = None  # type: ignore[assignment]

LARGEST = 64 << 20
LARGEST_YAML = 16 << 20
DEEPEST = 50
MOST_VALUES = 2_000_000


def load_document(text: str, *, name: str = "document") -> Any:
    """Return the data of a JSON text of 64 MiB at most, or a YAML text of 16 MiB, 50 levels and 2 million values at most.

    Raises InvalidSpec, also for a key that is given twice: the second would silently win. The message never repeats a value.
    """
    if len(text) > LARGEST:
        raise InvalidSpec(f"is larger than {LARGEST >> 20} MiB", object=name, remedy="Split it")
    return _load_json(text, name) if text.lstrip()[:1] in ("{", "[") else _load_yaml(text, name)


def read_document(path: str) -> Any:
    """Return the data of a YAML or JSON file; raises as load_document, and OSError."""
    with open(path, encoding="utf-8") as file:
        return load_document(file.read(LARGEST + 1), name=path)


def _load_json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise InvalidSpec(f"is nested more than {DEEPEST} levels deep", object=name) from None
    except InvalidSpec as error:
        raise error.located(name) from None
    except ValueError as error:
        if yaml is not None and len(text) <= LARGEST_YAML:
            return _load_yaml(text, name)
        raise InvalidSpec(f"is not JSON: {error}", object=name) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _given_twice(next(key for key, value in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return made


def _given_twice(key: str, line: Optional[int] = None) -> InvalidSpec:
    place = f" (line {line})" if line is not None else ""
    return InvalidSpec(f"the same key is given twice{place}", field=printable(key), remedy="Keep one of them")


def _load_yaml(text: str, name: str) -> Any:
    if yaml is None:
        raise Unsupported("PyYAML is not installed here", object=name, remedy="Install python3-yaml, or give the document as JSON")
    if len(text) > LARGEST_YAML:
        raise InvalidSpec(f"is YAML of more than {LARGEST_YAML >> 20} MiB", object=name, remedy="Split it, or write it as JSON")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)
    except InvalidSpec as error:
        raise error.located(name) from None
    except yaml.YAMLError as error:
        raise InvalidSpec(f"is not YAML: {_yaml_problem(error)}", object=name) from None
    except (RecursionError, ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:  # what odd tags make PyYAML raise
        raise InvalidSpec(f"can not be read: {type(error).__name__}", object=name) from None


def _yaml_problem(error: Any) -> str:
    """What is wrong and where, without the quoted pieces of the text: they may be a secret."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = re.sub(r"'.*'|\".*\"", "...", str(getattr(error, "problem", None) or "a character is not allowed"), flags=re.DOTALL)
    return f"{problem[:100]}{place}"


@dataclasses.dataclass
class _Open:
    """A YAML mapping or list that is being looked through; `keys` is None for a list."""

    anchor: Optional[str]
    keys: Optional[set[str]]
    values: int = 1
    entries: int = 0


def _check_events(events: Any) -> None:
    """Look at the events first: composing a deep document would exhaust the stack, following aliases time and memory."""
    sizes: dict[str, int] = {}
    stack = [_Open(None, None)]
    for event in events:
        if isinstance(event, yaml.ScalarEvent):
            _check_key(stack[-1], event)
            _count(stack[-1], event.anchor, sizes, 1)
        elif isinstance(event, yaml.AliasEvent):
            _count(stack[-1], None, sizes, sizes.get(str(event.anchor), 1))
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(stack) > DEEPEST:
                raise InvalidSpec(f"is nested more than {DEEPEST} levels deep")
            if event.anchor:
                sizes[event.anchor] = MOST_VALUES  # an alias to it, before it ends, would be endless
            stack.append(_Open(event.anchor, set() if isinstance(event, yaml.MappingStartEvent) else None))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            closed = stack.pop()
            _count(stack[-1], closed.anchor, sizes, closed.values)


def _check_key(inside: _Open, event: Any) -> None:
    if inside.keys is not None and inside.entries % 2 == 0:
        if event.value in inside.keys:
            raise _given_twice(event.value, event.start_mark.line + 1)
        inside.keys.add(event.value)


def _count(inside: _Open, anchor: Optional[str], sizes: dict[str, int], values: int) -> None:
    if anchor:
        sizes[anchor] = values
    inside.entries += 1
    inside.values += values
    if inside.values > MOST_VALUES:
        raise InvalidSpec(f"holds more than {MOST_VALUES} values, or aliases that never end", remedy="Split it, use fewer aliases, or write it as JSON")


def dump_document(data: Any) -> str:
    """Return the data as YAML, or as JSON (which is YAML, too) where PyYAML is not installed."""
    if yaml is None:
        return json.dumps(data, indent=2)
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=140))
