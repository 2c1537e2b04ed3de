"""Save snapshots as text and read them again: JSON with one object a line, so that a large one is read object by object as needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .errors import InvalidSpec
from .model.snapshot import Found, Snapshot, found_from_dict, snapshot_as_dict, snapshot_from_dict

_DECODER = json.JSONDecoder()
_HEAD_END = ', "objects": {'


def dump_snapshot(snapshot: Snapshot) -> str:
    """Return the snapshot as JSON text, one object a line; secrets are in it as salted digests only."""
    data = snapshot_as_dict(snapshot)
    objects = data.pop("objects")
    kinds = [f"{json.dumps(kind)}: {{\n" + ",\n".join(_lines(entries)) + "\n}" for kind, entries in objects.items() if entries]
    return "\n".join([json.dumps(data)[:-1] + _HEAD_END, *([",\n".join(kinds)] if kinds else []), "}}\n"])


def _lines(entries: Mapping[str, Any]) -> Iterator[str]:
    return (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in entries.items())


def load_snapshot(text: str) -> Snapshot:
    """Return the snapshot that is saved in a JSON text of any layout. Raises InvalidSpec; for a damaged object, when it is looked at."""
    try:
        return _load_lines(text) or snapshot_from_dict(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"is not JSON: {error}", object="snapshot") from None


def _load_lines(text: str) -> Optional[Snapshot]:
    """Return the snapshot whose objects stand on lines of their own, as `dump_snapshot` writes them, or None."""
    end = text.find("\n")
    if end < 0 or not text.endswith(_HEAD_END, 0, end):
        return None
    head = snapshot_from_dict(json.loads(text[:end] + "}}"))
    objects: dict[str, _Entries] = {}
    places: dict[str, int] = {}
    while end + 1 < len(text):
        start, end = end + 1, text.find("\n", end + 1)
        if text.startswith("}", start):
            continue
        key, place = _DECODER.raw_decode(text, start)
        if text.startswith(": {", place) and place + 3 == end:
            places = {}
            objects[key] = _Entries(key, text, places)
        elif text.startswith(": {", place) and text.endswith(("}", "},"), place, end):
            places[key] = place + 2
        else:
            return None
    return Snapshot(head.server, objects, head.files, head.lacks)


class _Entries(Mapping[str, Found]):
    """The objects of one kind, by key; `places` says where in the text each stands."""

    def __init__(self, kind: str, text: str, places: dict[str, int]) -> None:
        self._kind = kind
        self._text = text
        self._places = places
        self._found: dict[str, Found] = {}

    def __getitem__(self, key: str) -> Found:
        found = self._found.get(key)
        if found is None:
            data, dummy = _DECODER.raw_decode(self._text, self._places[key])
            found = self._found[key] = found_from_dict(self._kind, data)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
