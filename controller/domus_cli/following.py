"""Follow a job: its progress line by line, its outcome, and the exit code that goes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from domus_core.clients.manager import ManagerClient
from domus_core.errors import DomusError, Unreachable

from .changes import lines_of_result
from .output import Output

ENDED = frozenset({"succeeded", "failed", "cancelled"})
TRIES = 5


def follow(manager: ManagerClient, job: Mapping[str, Any], output: Output, *, wait: bool) -> int:
    """Show how the job goes on until it ends (unless `wait` is false); the result is the exit code of the command."""
    if wait and job["state"] not in ENDED:
        try:
            job = _until_end(manager, job, output)
        except KeyboardInterrupt:
            output.say(f"\njob {job['id']} goes on. Follow it: domus job tail {job['id']}   Cancel it: domus job cancel {job['id']}")
            raise
    if output.for_people:
        _tell(job, output)
    else:
        output.data(job)
    return 1 if job["state"] in ("failed", "cancelled") else 0


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
    for line in lines_of_result(objects):
        output.console.print(line, soft_wrap=True)
    for one in objects:
        if one.get("restart_required"):
            output.say(f"  {one['kind']} {one['name']}: waits for a restart: {', '.join(one['restart_required'])}")
    output.say(f"job {job['id']}: {state_of(job)}")
    error = job.get("error")
    if error:
        raised = DomusError(str(error.get("message", "")), object=str(error.get("object", "")), field=str(error.get("field", "")))
        raised.value, raised.remedy = error.get("value"), str(error.get("remedy", ""))
        output.say(f"error: {raised}")
