# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transport `agent` of domus.virt.apply: inside a manager's job, the documents of all servers go to their agents at once."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import queue
import ssl
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional

from ansible_collections.domus.virt.plugins.module_utils.domus_core.clients.agent import AgentClient, tls_context
from ansible_collections.domus.virt.plugins.module_utils.domus_core.errors import DomusError, InvalidSpec, Unreachable, told_on
from ansible_collections.domus.virt.plugins.module_utils.module_glue import unexpected
from ansible_collections.domus.virt.plugins.module_utils.module_results import errors_of, told

ENDED = frozenset({"succeeded", "failed", "cancelled"})
RETRIED = 60.0
PAUSE = 1.0
# While an agent is away: how often that is told, and how long a single try may take.
TOLD_AGAIN, TRY = 15.0, 15.0
LONGEST_WAIT = 20
# Each call costs Ansible an event, and the longest event that is kept has 64 KiB.
LINES_AT_ONCE = 200

Show = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Target:
    """One server: where its agent is, and the operation that its document is."""

    server_id: str
    name: str
    address: str
    port: int
    operation: str
    document_file: str
    expected: Optional[str] = None
    existing: Optional[Mapping[str, str]] = None


@dataclasses.dataclass(frozen=True)
class Targets:
    """What a job wants of all its servers, and the certificate that it shows them."""

    authority: str
    certificate: str
    key: str
    servers: tuple[Target, ...]
    result_file: str
    check: bool = False
    wait_for_address: float = 0
    patience: float = 60


def read_targets(path: str) -> Targets:
    """What the manager wrote for this job; the files that it names are beside it. Raises InvalidSpec."""
    directory = os.path.dirname(os.path.abspath(path))
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        servers = tuple(
            Target(
                server_id=server_id,
                name=one["name"],
                address=one["address"],
                port=int(one["port"]),
                operation=one["operation"],
                document_file=os.path.join(directory, one["document_file"]),
                expected=one.get("expected"),
                existing=one.get("existing"),
            )
            for server_id, one in data["servers"].items()
        )
        places = {name: os.path.join(directory, data[name]) for name in ("authority", "certificate", "key", "result_file")}
        rest = {name: data[name] for name in ("check", "wait_for_address", "patience") if data.get(name) is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec(f"can not be read: {type(error).__name__}", field="targets_file", value=path) from None
    return Targets(servers=servers, **places, **rest)


def carry_out(targets: Targets, show: Show) -> dict[str, dict[str, Any]]:
    """Send every server its document and wait for all of them: per server id state, result, error and mark. Lines of progress are shown, several at once."""
    lines: queue.SimpleQueue[Optional[str]] = queue.SimpleQueue()
    outcomes: dict[str, dict[str, Any]] = {}
    try:
        context = tls_context(targets.authority, targets.certificate, targets.key)
    except DomusError as error:
        return {target.server_id: _ended("failed", error.as_dict()) for target in targets.servers}

    def work(target: Target) -> None:
        try:
            outcomes[target.server_id] = _carry_out_on(target, targets, context, lambda line: lines.put(f"{target.name}: {line}"))
        except Unreachable as error:
            error.object = f"server {target.name}, {error.object}"
            error.remedy = f"{error.remedy or 'Look at its agent'}; then relaunch the job: what is done already is not done again"
            outcomes[target.server_id] = _ended("unreachable", error.as_dict())
        except DomusError as error:
            outcomes[target.server_id] = _ended("failed", error.located(f"server {target.name}").as_dict())
        except Exception as error:
            outcomes[target.server_id] = _ended("failed", {**unexpected(error)["error"], "object": f"server {target.name}"})
        finally:
            lines.put(None)

    for target in targets.servers:
        threading.Thread(target=work, args=(target,), daemon=True).start()  # daemon: a cancelled job must not wait for agents
    working = len(targets.servers)
    while working:
        told = [lines.get()]
        while not lines.empty() and len(told) < LINES_AT_ONCE:
            told.append(lines.get())
        working -= told.count(None)
        text = "\n".join(line for line in told if line is not None)
        if text:
            show(text)
    return outcomes


def _carry_out_on(target: Target, targets: Targets, context: ssl.SSLContext, show: Show) -> dict[str, Any]:
    with open(target.document_file, encoding="utf-8") as file:
        document = json.load(file)
    client = AgentClient(target.address, target.port, target.server_id, targets.authority, targets.certificate, targets.key, context=context)

    def ask(method: str, **parameters: Any) -> dict[str, Any]:
        return _ask(client, method, parameters, lambda until: show(f"does not answer; tried again until {until}"))

    status = ask(
        "submit",
        operation=target.operation,
        kind="apply",
        document=document,
        server=target.name,
        check=targets.check,
        wait_for_address=targets.wait_for_address,
        patience=targets.patience,
        expected=target.expected,
        **({"existing": target.existing} if target.existing else {}),
    )
    since = 0
    while True:
        for entry in status["progress"]:
            if entry["n"] > since:
                since = entry["n"]
                show(entry["line"])
        if status["state"] in ENDED:
            return {name: status.get(name) for name in ("state", "result", "error", "mark")}
        status = ask("status", operation=target.operation, wait=LONGEST_WAIT, since=since)


def _ask(client: AgentClient, method: str, parameters: dict[str, Any], away: Callable[[str], None]) -> dict[str, Any]:
    """Call the agent, again and again for 60 s once it does not answer: the operation's id makes that safe.

    `away` hears at once, and every 15 s from then on, until when (UTC) it will be tried.
    """
    try:
        return dict(client.request(method, parameters))
    except Unreachable:
        told = time.monotonic()
        deadline, until = told + RETRIED, time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + RETRIED))
    away(until)
    shorter = {**parameters, "wait": 0} if "wait" in parameters else parameters
    while True:
        time.sleep(PAUSE)
        try:
            return dict(client.request(method, shorter, TRY))
        except Unreachable:
            now = time.monotonic()
            if now >= deadline:
                raise
        if now >= told + TOLD_AGAIN:
            told = now
            away(until)


def _ended(state: str, error: Mapping[str, Any]) -> dict[str, Any]:
    return {"state": state, "result": None, "error": dict(error), "mark": None}


def write_result(path: str, outcomes: Mapping[str, Any]) -> None:
    """Write the whole result for the manager, all of it or nothing, for our own user only."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"servers": outcomes}, file)
    Path(temporary).rename(path)


def summary(outcomes: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Any]:
    """What the task returns: little, since all of it goes through the event stream; `names` are those of the servers, by id."""
    errors = [told_on(error, names.get(server, server)) for server, outcome in outcomes.items() for error in _errors(outcome)]
    failed = any(outcome["state"] != "succeeded" for outcome in outcomes.values())
    if failed and not errors:
        errors = [{"code": "driver_error", "message": "an operation has not succeeded"}]
    changed = any((one["result"] or {}).get("changed") for one in outcomes.values())
    counts = dict(collections.Counter(one["state"] for one in outcomes.values()))
    return {**told([], errors, diff=False), "changed": changed, "servers": counts}


def _errors(outcome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [outcome["error"]] if outcome["error"] else errors_of((outcome["result"] or {}).get("objects") or ())
