"""What was found on a server, read once and never changed while a decision is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..errors import InvalidSpec
from .fields import given, make, once, plain, restore
from .kinds import BY_NAME
from .server import ServerState

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Found:
    """One object as it was found.

    `spec` is its definition, `running` what is in force now (None when it does not run; the same instance when there is no
    difference), `recorded` what Domus was asked for, `fingerprint` changes with any of them.
    """

    spec: Any
    state: Any
    running: Any = None
    recorded: Any = None
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file in a repository that something may be made from; `problem` says why it must not be used. Size in bytes."""

    format: str = "raw"
    size: int = 0
    problem: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A server with all its objects: per kind, by key; `files` are the images in repositories, by `repository/folder/file`.

    `lacks` is what a server that is to be a member of a clustered pool has not got: by the pool's name, each a noun.
    """

    server: ServerState
    objects: Mapping[str, Mapping[str, Found]]
    files: Mapping[str, ImageFile] = dataclasses.field(default_factory=dict)
    lacks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def find(self, kind: str, key: str) -> Optional[Found]:
        """One object, or None."""
        return self.objects.get(kind, {}).get(key)

    def all(self, kind: str) -> Iterable[tuple[str, Found]]:
        """All objects of a kind with their keys."""
        return self.objects.get(kind, {}).items()


def snapshot_as_dict(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as JSON-able data; secrets are in it as salted digests only.

    What was asked for mostly is what is defined: `recorded` holds only what differs from `spec`, `not_recorded` names the
    fields of `spec` that were not asked for.
    """
    objects = {kind: {key: _found_as_dict(found) for key, found in entries.items()} for kind, entries in snapshot.objects.items()}
    files = {reference: dataclasses.asdict(file) for reference, file in snapshot.files.items()}
    lacks = {"lacks": {name: list(lacking) for name, lacking in snapshot.lacks.items()}} if snapshot.lacks else {}
    return {"format": FORMAT, "server": dataclasses.asdict(snapshot.server), "files": files, **lacks, "objects": objects}


def _found_as_dict(found: Found) -> dict[str, Any]:
    data: dict[str, Any] = {"spec": plain(found.spec, mask=False), "state": dataclasses.asdict(found.state), "fingerprint": found.fingerprint}
    if found.running is not None:
        data["running"] = True if found.running is found.spec or found.running == found.spec else plain(found.running, mask=False)
    if found.recorded is not None:
        asked, defined = given(found.recorded), given(found.spec)
        data["recorded"] = {name: plain(value, mask=False) for name, value in asked.items() if value != defined.get(name)}
        data["not_recorded"] = [name for name in defined if name not in asked]
    return data


def snapshot_from_dict(data: Any) -> Snapshot:
    """The snapshot that `snapshot_as_dict` was made of. Raises InvalidSpec."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise InvalidSpec("is not a snapshot of this version", object="snapshot", field="format", remedy=f"Expected format {FORMAT}")
    try:
        server = _state(ServerState, data["server"])
        objects = {kind: {key: found_from_dict(kind, found) for key, found in entries.items()} for kind, entries in data["objects"].items()}
        files = {reference: ImageFile(**file) for reference, file in data.get("files", {}).items()}
        lacks = {name: tuple(lacking) for name, lacking in data.get("lacks", {}).items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(error) from None
    return Snapshot(server, objects, files, lacks)


def found_from_dict(kind: str, data: Any) -> Found:
    """One object of a saved snapshot. Raises InvalidSpec."""
    try:
        table = BY_NAME[kind]
        spec = restore(table.spec, data["spec"])
        running = data.get("running")
        return Found(
            spec=spec,
            state=_state(table.state, data.get("state", {})),
            running=spec if running is True else restore(table.spec, running) if running else None,
            recorded=_recorded(spec, data) if "recorded" in data else None,
            fingerprint=str(data.get("fingerprint", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(error) from None


def _state(state: type, data: Mapping[str, Any]) -> Any:
    names = _state_names(state)
    return make(state, {names[name]: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in names})


@once
def _state_names(state: Any) -> dict[str, str]:
    return {field.name: field.name for field in dataclasses.fields(state)}


def _recorded(spec: Any, data: Mapping[str, Any]) -> Any:
    left_out = data.get("not_recorded", ())
    same = {name: value for name, value in vars(spec).items() if name not in left_out} if left_out else vars(spec)
    return make(type(spec), {**same, **vars(restore(type(spec), data["recorded"]))})


def _damaged(error: Exception) -> InvalidSpec:
    return InvalidSpec(f"is damaged: {type(error).__name__} {error}", object="snapshot", remedy="Read it from the server again")
