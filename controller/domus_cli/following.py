"""Follow a job: its progress line by line, its outcome, and the exit code that goes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from domus_core.clients.manager import ManagerClient
from domus_core.errors import Unreachable, error_from_dict

from .changes import lines_of_result
from .output import Output

ENDED = frozenset({"succeeded", "failed", "cancelled"})
TRIES = 5


def follow(manager: ManagerClient, job: Mapping[str, Any], output: Output, *, wait: bool) -> int:
    """Show how the job goes on until it ends (unless `wait` is false); the result is the exit code of the command."""
    return follow_all(manager, [job], output, wait=wait)


def follow_all(manager: ManagerClient, jobs: Sequence[Mapping[str, Any]], output: Output, *, wait: bool) -> int:
    """The same for several jobs, one after the other; for programs one is an object, several are a list."""
    ended = [_follow_one(manager, job, output) if wait else job for job in jobs]
    if not output.for_people:
        output.data(ended if len(ended) > 1 else ended[0])
    return 1 if any(job["state"] in ("failed", "cancelled") for job in ended) else 0


def _follow_one(manager: ManagerClient, job: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    try:
        ended = job if job["state"] in ENDED else _until_end(manager, job, output)
    except KeyboardInterrupt:
        output.say(f"\njob {job['id']} goes on. Follow it: domus job tail {job['id']}   Cancel it: domus job cancel {job['id']}")
        raise
    if output.for_people:
        _tell(ended, output)
    return ended


def _until_end(manager: ManagerClient, job: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Follow the stream; when it breaks, take it up again where it broke."""
    path, last = f"/api/v1/jobs/{job['id']}", None
    for remaining in reversed(range(TRIES)):
        try:
            for number, kind, text in manager.stream(f"{path}/stream", last_event_id=last):
                last = number or last
                if kind == "end":
                    break
                _show(json.loads(text), output)
            found: Mapping[str, Any] = manager.get(path, wait=20)
            if found["state"] in ENDED:
                return found
        except Unreachable:
            if not remaining:
                raise
    return dict(manager.get(path))


def _show(event: Mapping[str, Any], output: Output) -> None:
    data = event.get("data") or {}
    if event.get("kind") == "progress" and data.get("line"):
        output.say(f"  {data['line']}")
    elif event.get("kind") == "state" and data.get("waiting_for"):
        output.say(f"  waiting for job {data['waiting_for']}")


def state_of(job: Mapping[str, Any]) -> str:
    """How a job stands, for people."""
    if job["state"] == "succeeded":
        return "succeeded, " + ("changed" if job.get("changed") else "nothing to change")
    return str(job["state"])


def _tell(job: Mapping[str, Any], output: Output) -> None:
    objects = (job.get("result") or {}).get("objects") or []
    output.lines(lines_of_result(objects))
    for one in objects:
        if one.get("restart_required"):
            output.say(f"  {one['kind']} {one['name']}: waits for a restart: {', '.join(one['restart_required'])}")
        if one.get("note"):
            output.say(f"  {one['kind']} {one['name']} {one['note']}")
    output.say(f"job {job['id']}: {state_of(job)}")
    error = job.get("error") or {}
    for one in error.get("errors") or ([error] if error else []):
        output.say(f"error ({one.get('code', 'error')}): {error_from_dict(one)}")
    if job["state"] in ("failed", "cancelled") and job["kind"] == "apply":
        output.say(f"To do it again: domus job relaunch {job['id']}")
