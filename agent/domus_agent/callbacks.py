"""The way back: one thread that sends the outbox to the manager over mutual TLS, as soon as there is something, else a heartbeat.

At most one request is under way. What is sent twice does no harm: the manager stores each sequence number once.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from domus_core.clients.wire import PROTOCOL

from . import contact
from .config import AgentConfig
from .ownership import Ownership
from .store import AgentStore

PATH = "/agent/v1/callback"
BATCH_SECONDS = 0.02
BATCH_RECORDS = 500
# When so many come at a time they are gathered for longer: each request costs as much as a good deal of records.
MANY, MANY_SECONDS = 20, 0.05
TIMEOUT = 15.0
LAST_SECONDS = 3.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
MOST_ANSWER = 1 << 20

_log = logging.getLogger(__name__)


class Refused(Exception):
    """The manager answered, but not with an acknowledgement."""


class Callbacks:
    """Sends while this server has a manager; `facts` once on each connection, and when they have changed.

    `revoke` hears of certificates (serial, until) that the manager's answers name, `take_crl` of libvirt's revocation list when it is
    newer than what `tls` says is installed.
    """

    def __init__(
        self,
        ownership: Ownership,
        store: AgentStore,
        version: str,
        config: AgentConfig,
        libvirt_state: Callable[[], str],
        facts: Callable[[], Optional[dict[str, Any]]],
        statistics: Callable[[], Optional[dict[str, Any]]],
        revoke: Callable[[str, float], None],
    ) -> None:
        self._ownership, self._store, self._version = ownership, store, version
        self._heartbeat, self._directory = config.heartbeat, config.directory
        self._libvirt_state, self._facts, self._statistics, self._revoke = libvirt_state, facts, statistics, revoke
        self.tls: Callable[[], Optional[dict[str, Any]]] = lambda: None
        self.take_crl: Callable[[str, list[str]], None] = lambda crl, gone: None
        self._told_facts: Optional[dict[str, Any]] = None
        self._wake = threading.Event()
        self._end = threading.Event()
        self._go_on = threading.Event()
        self._connection: Optional[http.client.HTTPSConnection] = None
        self._connected_for: Optional[ssl.SSLContext] = None
        self._failures = 0
        self._many = False
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def begin_anew(self) -> None:
        """Another manager listens, or the same elsewhere: how often the last one failed to answer counts no more."""
        self._failures = 0
        self._go_on.set()
        self._wake.set()

    def stop(self) -> None:
        """Send what there is once more if the manager listens, then no more."""
        self._end.set()
        self._go_on.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        while not self._end.is_set():
            self._go_on.clear()
            pause = self._step()
            if pause and not self._end.is_set():
                self._go_on.wait(pause)
        if self._ownership.owned and not self._failures:
            self._step()
        self._disconnect()

    def _step(self) -> float:
        """Send once if something is due; return for how long nothing should be sent, whatever happens."""
        if not self._end.is_set() and not self._more():
            self._wake.wait(self._heartbeat)
            self._end.wait(BATCH_SECONDS)
        elif self._many and not self._end.is_set():
            self._end.wait(MANY_SECONDS)
        self._wake.clear()
        self._store.check()
        if not self._ownership.owned:
            return 0.0
        try:
            self._send()
        except Exception as error:  # whatever a manager answers, or does not: the thread goes on
            return self._failed(error)
        if self._failures:
            _log.info("the manager answers again")
        self._failures = 0
        contact.note(self._directory)
        return 0.0

    def _more(self) -> bool:
        return self._ownership.owned and self._store.mark() > self._store.acknowledged_seq()

    def _failed(self, error: Exception) -> float:
        self._disconnect()
        if not self._failures:
            _log.warning("the manager at %s can not be told: %s: %s", self._ownership.url, type(error).__name__, error)
        self._failures += 1
        pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        return pause * random.uniform(0.8, 1.0)

    def _send(self) -> None:
        epoch, records = self._store.batch(BATCH_RECORDS)
        facts = self._facts()
        news = None if facts == self._told_facts else facts
        answer = self._exchange(self._message(epoch, records, news))
        acknowledged = answer.get("acknowledged")
        if not isinstance(acknowledged, int) or isinstance(acknowledged, bool):
            raise Refused("the answer acknowledges nothing")
        self._many = MANY <= len(records) < BATCH_RECORDS
        self._told_facts = news or self._told_facts
        self._store.acknowledged(acknowledged, epoch)
        if records and acknowledged < records[0]["seq"]:
            raise Refused(f"only {acknowledged} is acknowledged, {records[0]['seq']} was sent")
        for one in answer.get("revoked") or ():
            self._revoke(str(one["serial"]), float(one["until"]))
        if answer.get("crl"):
            self.take_crl(str(answer["crl"]), list(answer.get("gone") or ()))

    def _message(self, epoch: str, records: list[dict[str, Any]], facts: Optional[dict[str, Any]]) -> bytes:
        data = {"protocol": PROTOCOL, "server": self._ownership.server_id, "epoch": epoch, "version": self._version, "sent_at": time.time()}
        data.update(libvirt=self._libvirt_state(), records=records, facts=facts, statistics=self._statistics(), problem=self._store.problem)
        data.update(tls=self.tls())
        return json.dumps(data, separators=(",", ":")).encode()

    def _exchange(self, body: bytes) -> Mapping[str, Any]:
        """Post one message. A kept connection that the manager has closed meanwhile is opened again once."""
        kept = self._connection is not None and self._connected_for is self._ownership.context
        try:
            return self._post(body)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError):
            self._disconnect()
            if not kept:
                raise
            return self._post(body)

    def _post(self, body: bytes) -> Mapping[str, Any]:
        parts = urlsplit(self._ownership.url)
        if self._connection is None or self._connected_for is not self._ownership.context:
            self._disconnect()
            self._connected_for = self._ownership.context
            self._connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=TIMEOUT, context=self._ownership.client_context())
        self._connection.request("POST", parts.path.rstrip("/") + PATH, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read(MOST_ANSWER)
        if response.status != 200:
            raise Refused(f"HTTP status {response.status}: {_reason(text)}")
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise Refused("the answer is not an object")
        return answer

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._told_facts = None


class LatestStatistics:
    """Collects statistics in a thread of its own, so that a stuck QEMU delays no heartbeat; `take` gives each once."""

    def __init__(self, collect: Callable[[], dict[str, Any]], seconds: float) -> None:
        self._collect, self._seconds = collect, seconds
        self._latest: Optional[dict[str, Any]] = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)

    def start(self) -> None:
        """Begin to collect."""
        self._thread.start()

    def stop(self) -> None:
        """Collect no more."""
        self._end.set()

    def take(self) -> Optional[dict[str, Any]]:
        """What was collected since the last call, or None."""
        latest, self._latest = self._latest, None
        return latest

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                self._latest = self._collect()
            except Exception as error:  # libvirt is away, which the observer tells
                _log.debug("no statistics: %s", error)


def _reason(text: bytes) -> str:
    """Why the manager refused, in one line: what its problem document (RFC 9457) says, if it is one."""
    try:
        problem = json.loads(text)
        return " ".join(str(problem[name]) for name in ("field", "detail") if problem.get(name))[:300]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "no reason given"
