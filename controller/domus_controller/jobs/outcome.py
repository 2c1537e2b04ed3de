"""How a job ended, from what became of it on each server: pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from domus_core.errors import Cancelled, DomusError, DriverError, told_on

from .older import explained

SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
ENDED = frozenset({SUCCEEDED, FAILED, CANCELLED})
EFFECTIVE, UNTOUCHED = "effective", "untouched"
MOST_ERRORS = 100
MOST_TOLD = 10

Target = tuple[str, str, str]
Status = Mapping[str, Any]


class Interrupted(DomusError):
    """The job ended because what worked on it did."""

    code = "interrupted"


class Lost(DomusError):
    """Nobody knows what became of the job."""

    code = "lost"


class TimeIsOver(DomusError):
    """The job was ended because it took too long."""

    code = "timeout"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a job; `requests` says of each (kind, key, server id) whether what was asked for has taken effect, `reasons` why not.

    "untouched" is an object that nothing happened to: it may be as asked all the same.
    """

    state: str
    changed: bool
    error: Optional[dict[str, Any]] = None
    result: Optional[dict[str, Any]] = None
    requests: Mapping[Target, str] = dataclasses.field(default_factory=dict)
    reasons: Mapping[Target, str] = dataclasses.field(default_factory=dict)
    marks: Mapping[str, int] = dataclasses.field(default_factory=dict)


def failure(error: DomusError, targets: Iterable[Target] = ()) -> Outcome:
    """The end of a job that did nothing."""
    return nothing_done(FAILED, error.as_dict(), targets)


def nothing_done(state: str, error: dict[str, Any], targets: Iterable[Target]) -> Outcome:
    """The same as `failure`, or of a job that was cancelled before it began."""
    named = list(targets)
    return Outcome(state, False, error, requests=dict.fromkeys(named, UNTOUCHED), reasons=dict.fromkeys(named, _told(error)))


def outcome_of(statuses: Mapping[str, Status], names: Mapping[str, str], targets: Iterable[Target], stopped_by: Optional[DomusError] = None) -> Outcome:
    """The end of a job that had an operation on each server of `statuses` ({state, result, error, mark} by server id).

    `stopped_by` is why it was ended before its time. Where all operations have succeeded so has the job, even then.
    """
    objects = [{**_shown(entry), **placed_on(entry, names.get(server, server))} for server, status in statuses.items() for entry in _entries(status)]
    errors = _errors(statuses, names, objects)
    state = _state(statuses, errors, stopped_by)
    error: Optional[dict[str, Any]] = None
    if state != SUCCEEDED:
        error = _summary(([{**stopped_by.as_dict(), "message": _with_done(stopped_by.message, objects)}] if stopped_by else []) + errors)
    results = {(entry["kind"], entry["name"], server): entry.get("error") for server, status in statuses.items() for entry in _entries(status)}
    settled = {target: _settled(target, results) for target in targets}
    shown = {"objects": objects, "servers": {names.get(server, server): str(status["state"]) for server, status in statuses.items()}}
    return Outcome(
        state=state,
        changed=any(entry.get("changed") for entry in objects),
        error=error,
        result=shown if state == SUCCEEDED else {**shown, "done": _done(objects)},
        requests=settled,
        reasons={target: _told(results.get(target) or error or {}) for target, settling in settled.items() if settling != EFFECTIVE},
        marks={server: int(status["mark"]) for server, status in statuses.items() if status.get("mark") is not None},
    )


def _settled(target: Target, results: Mapping[Target, Optional[Status]]) -> str:
    """What became of one request: an error of its own is its end, unless that only says that nothing was begun."""
    if target not in results:
        return UNTOUCHED
    error = results[target]
    return EFFECTIVE if not error else UNTOUCHED if error.get("code") == Cancelled.code else FAILED


def _done(objects: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was done before the job ended: the objects with their actions."""
    return [{name: entry.get(name) for name in ("server", "kind", "name", "actions")} for entry in objects if entry.get("actions")]


def _with_done(message: str, objects: Iterable[Mapping[str, Any]]) -> str:
    changed = [f"{entry['kind']} {entry['name']} ({', '.join(entry['actions'])})" for entry in _done(objects)]
    more = f" and {len(changed) - MOST_TOLD} more" if len(changed) > MOST_TOLD else ""
    return f"{message}; done before that: {', '.join(changed[:MOST_TOLD])}{more}" if changed else message


def _told(error: Status) -> str:
    """An error as one line for the request that it concerns."""
    where = " ".join(str(error[name]) for name in ("object", "field") if error.get(name))
    return f"{where}: {error.get('message')}" if where else str(error.get("message") or "")


def _state(statuses: Mapping[str, Status], errors: list[dict[str, Any]], stopped_by: Optional[DomusError]) -> str:
    if not errors and statuses and all(status["state"] == SUCCEEDED for status in statuses.values()):
        return SUCCEEDED
    if isinstance(stopped_by, Cancelled):
        return CANCELLED
    if stopped_by is None and errors and all(error.get("code") == Cancelled.code for error in errors):
        return CANCELLED
    return FAILED


def _errors(statuses: Mapping[str, Status], names: Mapping[str, str], objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The errors of all objects, and those of servers that no object's error explains."""
    errors = [entry["error"] for entry in objects if entry.get("error")]
    for server, status in statuses.items():
        told = status.get("error")
        if told:
            name = names.get(server, server)
            told = explained(told, name)
            errors.append(told_on({**told, "object": told.get("object") or f"server {name}"}, name))
        elif status["state"] != SUCCEEDED and not any(entry.get("error") for entry in _entries(status)):
            errors.append(DriverError("its operation has not succeeded", object=f"server {names.get(server, server)}").on(names.get(server, server)).as_dict())
    return errors


def _summary(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """One error as it is; several as the first one, with all of them under `errors`."""
    unique = list({tuple(error.get(name) for name in ("server", "object", "field", "message")): error for error in errors}.values())
    if not unique:
        return DriverError("the job has not succeeded").as_dict()
    return unique[0] if len(unique) == 1 else {**unique[0], "errors": unique[:MOST_ERRORS]}


def _entries(status: Status) -> list[dict[str, Any]]:
    return list((status.get("result") or {}).get("objects") or ())


def placed_on(entry: Mapping[str, Any], server: str) -> dict[str, Any]:
    """On which server an object of a report is, told with its error, too: there may be many like it."""
    return {"server": server, **({"error": told_on(entry["error"], server)} if entry.get("error") else {})}


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's result tells of an object; its description is in the lists."""
    return {name: value for name, value in entry.items() if name not in ("object", "state")}
