"""Operations: what the manager submits, carried out in threads, known by an id that may be sent again.

    submit -> queued -> running -> succeeded | failed | cancelled

The same id with the same content answers with what became of it, however often it is sent; with other content it is a Conflict.
An agent that is killed leaves its operations failed with the code `interrupted`; only then does the same id run again, which is
safe because the engine and the verbs look at what is there first. The database holds a digest of the content, never the content:
documents have secrets. Ended operations are known for 7 days.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional

from domus_core import engine, verbs
from domus_core.description import describe
from domus_core.driver import Target
from domus_core.errors import Busy, Conflict, DomusError, DriverError, NotFound
from domus_core.model.document import DEFAULT_SITE, Site, parse_document

from .connections import Connections
from .store import AgentStore

APPLIES, VERBS, OTHERS = 4, 16, 8
MOST_UNFINISHED = 1_000
MOST_LINES = 10_000
KEPT_SECONDS = 7 * 86400.0
KEPT_IN_MEMORY = 16
LEAVE_OFF_SECONDS = 2.0
PROGRESS_PAUSE = 0.5
AT_ONCE_SECONDS = 0.05
ENDED = ("succeeded", "failed", "cancelled")


class Interrupted(DomusError):
    """The agent ended before the operation did."""

    code = "interrupted"


Work = Callable[["Operation"], dict[str, Any]]
Description = tuple[str, str, Optional[dict[str, Any]]]


@dataclasses.dataclass
class Operation:
    """One operation while it is known in memory; `asked` is the digest of its content, who submitted it, and the certificate's serial number."""

    id: str
    asked: tuple[str, str, str]
    work: Work
    state: str = "queued"
    progress: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    result: Optional[dict[str, Any]] = None
    error: Optional[dict[str, Any]] = None
    mark: Optional[int] = None
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    targets: frozenset[Target] = frozenset()
    results: list[engine.ObjectResult] = dataclasses.field(default_factory=list)
    described: list[Description] = dataclasses.field(default_factory=list)
    future: Optional[Future[None]] = None

    def told(self) -> dict[str, Any]:
        """The operation's status, as the contract has it."""
        told = {"operation": self.id, "state": self.state, "progress": list(self.progress)}
        return {**told, "result": self.result, "error": self.error, "mark": self.mark}


class Operations:
    """All operations of this agent. `touched` hears which objects (kind, key) each has worked on, once it has ended."""

    def __init__(self, store: AgentStore, connections: Connections, server_id: Callable[[], str], clock: Callable[[], float] = time.time) -> None:
        self.touched: Callable[[list[Target]], None] = lambda targets: None
        self._store = store
        self._connections = connections
        self._server_id = server_id
        self._clock = clock
        self._news = threading.Condition()
        self._known: OrderedDict[str, Operation] = OrderedDict()
        self._stopping = False
        self._pools = {"apply": ThreadPoolExecutor(APPLIES, "apply"), "verb": ThreadPoolExecutor(VERBS, "verb")}
        self._kinds: dict[str, Callable[[Mapping[str, Any]], tuple[Work, list[Target]]]] = {"apply": self._apply, "verb": self._verb}
        self._key = store.secret("digest_key", secrets.token_hex(32)).encode()
        self._interrupt_unfinished()
        store.forget_operations(clock() - KEPT_SECONDS)

    def add_kind(self, kind: str, prepare: Callable[[Mapping[str, Any]], tuple[Work, list[Target]]]) -> None:
        """Let somebody else's kind of operation be submitted; `prepare` makes the work of its content and names the objects it works on."""
        self._kinds[kind] = prepare
        self._pools[kind] = ThreadPoolExecutor(OTHERS, kind)

    def submit(self, operation: str, kind: str, content: Mapping[str, Any], who: str, serial: str) -> dict[str, Any]:
        """Keep the operation, begin it, and return its status. Raises InvalidSpec before anything is kept, Conflict, Busy.

        What is done within 50 ms has ended in that status, which spares whoever asks another call.
        `content` are the parameters of the contract's `submit` for an apply or a verb; `who` may see and cancel it later.
        """
        work, targets = self._kinds[kind](content)
        digest = hmac.new(self._key, json.dumps([kind, content], sort_keys=True).encode(), hashlib.sha256).hexdigest()
        with self._news:
            kept = self._find(operation)
            if kept is not None:
                (before, owner, dummy), told = kept
                if before != digest or not (who == owner or who.startswith("manager:")):
                    raise Conflict("this id was given to another operation", object=f"operation {operation}", remedy="Choose a new id")
                if (told["error"] or {}).get("code") != Interrupted.code or self._stopping:
                    return _since(told, 0)
            self._check_room()
            submitted = Operation(operation, (digest, who, serial), work, targets=frozenset(targets))
            self._store.put_operation(operation, submitted.asked, submitted.told())
            self._remember(submitted)
            submitted.future = self._pools[kind].submit(self._run, submitted)
            self._news.wait_for(lambda: submitted.state in ENDED, AT_ONCE_SECONDS)
            return submitted.told()

    def status(self, operation: str, who: Optional[str] = None, wait: float = 0.0, since: int = 0) -> dict[str, Any]:
        """The status with the progress after number `since`: as soon as it ended, with progress twice a second, at the latest after `wait` seconds.

        Raises NotFound, also when it is not `who`'s.
        """
        began = time.monotonic()
        with self._news:
            while True:
                known, spent = self._known.get(operation), time.monotonic() - began
                if known is None or known.state in ENDED or spent >= wait or (len(known.progress) > since and spent >= PROGRESS_PAUSE):
                    return _since(self._told(operation, who), since)
                self._news.wait(min(wait - spent, PROGRESS_PAUSE))

    def cancel(self, operation: str, who: Optional[str] = None) -> dict[str, Any]:
        """Ask it to end before its next step; return its status. Raises NotFound."""
        with self._news:
            self._told(operation, who)
            known = self._known.get(operation)
            if known is not None:
                self._cancel(known)
        return self.status(operation, who)

    def cancel_all_of(self, serial: str) -> None:
        """Cancel what was submitted with this certificate and has not ended."""
        with self._news:
            for operation in self._unended():
                if operation.asked[2] == serial:
                    self._cancel(operation)

    def busy(self, kind: str, key: str) -> bool:
        """Does a running operation work on this object?"""
        with self._news:
            return any(operation.state == "running" and (kind, key) in operation.targets for operation in self._known.values())

    def unfinished(self) -> int:
        """How many have not ended."""
        with self._news:
            return len(self._unended())

    def stop(self, seconds: float) -> None:
        """Take nothing new and give what works so many seconds, then ask it to leave off; what does not is interrupted, as is what never began."""
        with self._news:
            self._stopping = True
            for operation in self._unended():
                if operation.future is not None and operation.future.cancel():
                    self._interrupt(operation)
            self._wait_for_all(seconds)
            for operation in self._unended():
                operation.cancelled.set()
            self._wait_for_all(LEAVE_OFF_SECONDS)
            for operation in self._unended():
                self._interrupt(operation)
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def _wait_for_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._unended() and (left := deadline - time.monotonic()) > 0:
            self._news.wait(left)

    def _unended(self) -> list[Operation]:
        return [operation for operation in self._known.values() if operation.state not in ENDED]

    # --- inside; all with the lock held, but for `_run` and what it calls

    def _told(self, operation: str, who: Optional[str]) -> dict[str, Any]:
        kept = self._find(operation)
        if kept is None or who not in (None, kept[0][1]):
            raise NotFound("there is no such operation", object=f"operation {operation}", remedy="Ended operations are known for 7 days")
        return kept[1]

    def _find(self, operation: str) -> Optional[tuple[tuple[str, str, str], dict[str, Any]]]:
        known = self._known.get(operation)
        return (known.asked, known.told()) if known is not None else self._store.operation(operation)

    def _check_room(self) -> None:
        if self._stopping:
            raise Busy("the agent is being stopped", remedy="Send it again in a moment")
        if len(self._unended()) >= MOST_UNFINISHED:
            raise Busy(f"{MOST_UNFINISHED} operations wait already", remedy="Send it again later")

    def _remember(self, operation: Operation) -> None:
        """Know it in memory while it has not ended; afterwards only when the database does not work."""
        self._known.pop(operation.id, None)
        if operation.state not in ENDED or self._store.problem is not None:
            self._known[operation.id] = operation
        ended = [one.id for one in self._known.values() if one.state in ENDED]
        for id in ended[: max(0, len(ended) - KEPT_IN_MEMORY)]:
            del self._known[id]

    def _cancel(self, operation: Operation) -> None:
        operation.cancelled.set()
        if operation.future is not None and operation.future.cancel():
            operation.state = "cancelled"
            self._keep(operation)

    def _interrupt(self, operation: Operation) -> None:
        operation.state = "failed"
        operation.error = _interrupted().as_dict()
        self._keep(operation)

    def _interrupt_unfinished(self) -> None:
        for id in self._store.unfinished():
            kept = self._store.operation(id)
            if kept is not None:
                asked, told = kept
                with self._store.transaction():
                    self._store.put_operation(id, asked, {**told, "state": "failed", "error": _interrupted().as_dict()})
                    self._store.add_event("operation.finished", severity="warning", data={"state": "failed", "code": Interrupted.code}, operation=id)

    def _run(self, operation: Operation) -> None:
        """One thread's work: whatever happens, the operation ends and that is kept and told."""
        with self._news:
            operation.state = "running"
            self._news.notify_all()
        state, error = "succeeded", None
        try:
            operation.result = operation.work(operation)
            error = next((result.error for result in operation.results if result.error is not None), None)
        except DomusError as failure:
            error = failure
        except Exception as failure:  # a surprise ends this operation, not the agent
            error = DriverError(f"unexpected {type(failure).__name__}: {failure}", remedy="Please report this")
        if error is not None:
            state = "cancelled" if operation.cancelled.is_set() and _is_cancelled(operation, error) else "failed"
        with self._news:
            if operation.state == "running":
                self._end(operation, state, error)
        if operation.targets:
            self.touched([*operation.targets.union((result.kind, result.key) for result in operation.results)])

    def _end(self, operation: Operation, state: str, error: Optional[DomusError]) -> None:
        if state == "cancelled" and self._stopping:
            state, error = "failed", _interrupted()
        operation.error = error.as_dict() if error is not None else None
        with contextlib.suppress(DomusError):
            self._store_end(operation, state)
        operation.state = state
        self._remember(operation)
        self._news.notify_all()

    def _store_end(self, operation: Operation, state: str) -> None:
        """What it changed, that it ended and its last status go into the database together; `mark` is behind them all."""
        with self._store.transaction():
            for kind, key, described in operation.described:
                self._store.put_object(kind, key, described["id"] if described else "", described)
            data = {"state": state, "changed": bool((operation.result or {}).get("changed"))}
            severity = "error" if state == "failed" else "info"
            self._store.add_event("operation.finished", severity=severity, data=data, operation=operation.id)
            operation.mark = self._store.mark()
            self._store.put_operation(operation.id, operation.asked, {**operation.told(), "state": state})

    def _keep(self, operation: Operation) -> None:
        self._store_end(operation, operation.state)
        self._remember(operation)
        self._news.notify_all()

    def cancelled(self, operation: Operation) -> Callable[[], bool]:
        """Is it no longer wanted? For work that goes on by itself when the agent is stopped: that is no reason to end it."""
        return lambda: operation.cancelled.is_set() and not self._stopping

    def progress(self, operation: Operation) -> Callable[[str], None]:
        """What the work calls with a line for people."""

        def add(line: str) -> None:
            with self._news:
                if len(operation.progress) < MOST_LINES:
                    operation.progress.append({"n": len(operation.progress) + 1, "at": self._clock(), "line": line})

        return add

    def _apply(self, content: Mapping[str, Any]) -> tuple[Work, list[Target]]:
        site = parse_document(content["document"], server=content["server"])
        targets = [(kind, key) for kind, wanted in site.objects.items() for key in wanted if not content["check"]]
        return lambda operation: self._carry_out_apply(operation, site, content), targets

    def _carry_out_apply(self, operation: Operation, site: Site, content: Mapping[str, Any]) -> dict[str, Any]:
        with self._connections.driver() as driver:
            report = engine.apply(
                site,
                driver,
                check=content["check"],
                wait_for_address=content["wait_for_address"],
                patience=content["patience"],
                progress=self.progress(operation),
                expected=content["expected"],
                existing=content["existing"],
                cancelled=operation.cancelled.is_set,
            )
        return self._reported(operation, report)

    def _verb(self, content: Mapping[str, Any]) -> tuple[Work, list[Target]]:
        verbs.verb_named(content["verb"])
        name = self._store.key_of("vm", content["vm"]) or content["vm"]
        return lambda operation: self._carry_out_verb(operation, content), [("vm", name)]

    def _carry_out_verb(self, operation: Operation, content: Mapping[str, Any]) -> dict[str, Any]:
        with self._connections.driver() as driver:
            result = verbs.carry_out_verb(
                driver,
                content["vm"],
                content["verb"],
                site=content["site"] or DEFAULT_SITE,
                force=content["force"],
                timeout=content["timeout"],
                cancelled=operation.cancelled.is_set,
                progress=self.progress(operation),
                patience=content["patience"],
            )
        return self._reported(operation, engine.Report(content["site"] or DEFAULT_SITE, False, [result]))

    def _reported(self, operation: Operation, report: engine.Report) -> dict[str, Any]:
        operation.results = report.results
        operation.described = descriptions(report, self._server_id())
        return told_report(report)


def told_report(report: engine.Report) -> dict[str, Any]:
    """The report as data; what the objects are now goes the way of all descriptions, by the outbox."""
    return {**report.as_dict(), "fingerprint": report.fingerprint}


def descriptions(report: engine.Report, server_id: str) -> list[Description]:
    """Kind, key and description of each object that was looked at, None of those that are gone."""
    described: list[Description] = []
    for result in report.results:
        if result.found is not None:
            described.append((result.kind, result.key, describe(result.kind, result.key, result.found, server_id)))
        elif result.error is None and not report.check:
            described.append((result.kind, result.key, None))
    return described


def _is_cancelled(operation: Operation, error: DomusError) -> bool:
    codes = [result.error.code for result in operation.results if result.error is not None] or [error.code]
    return all(code == "cancelled" for code in codes)


def _interrupted() -> Interrupted:
    return Interrupted("the agent ended before this operation did", remedy="Apply again")


def _since(told: dict[str, Any], since: int) -> dict[str, Any]:
    return {**told, "progress": [line for line in told["progress"] if line["n"] > since]}
