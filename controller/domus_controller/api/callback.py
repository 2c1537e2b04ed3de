"""What agents report: events, objects and statistics, each stored once however often it is sent."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

from domus_core.errors import Forbidden, InvalidSpec, Unsupported
from domus_core.model.field_types import Choice, FieldType, Integer, Text
from domus_core.model.fields import attribute
from flask import Response

from ..errors import Malformed
from ..store import callbacks, server_states, servers, statistics
from .call import Call, answer
from .reading import parse_body, read_text

LOG = logging.getLogger("domus.api")
PROTOCOL = 1
MOST_RECORDS = 500
LARGEST_NUMBER = 1 << 53
MOST_TEXT = 10000
RECORD_TYPES = ("event", "object", "void")
TEXT, MAYBE_TEXT, MAYBE_OBJECT = (str,), (str, type(None)), (dict, type(None))
Types = dict[str, tuple[type, ...]]
EVENT: Types = {"at": (int, float), "kind": TEXT, "severity": MAYBE_TEXT, "object": MAYBE_OBJECT, "data": MAYBE_OBJECT, "operation": MAYBE_TEXT}
OBJECT: Types = {"kind": TEXT, "key": TEXT, "id": MAYBE_TEXT, "description": MAYBE_OBJECT}
DESCRIPTION: Types = {"kind": TEXT, "key": TEXT, "id": TEXT, "name": TEXT, "site": MAYBE_TEXT, "state": MAYBE_TEXT, "generation": (int, type(None))}
DESCRIPTION |= {"spec": MAYBE_OBJECT, "recorded": MAYBE_OBJECT, "measured": MAYBE_OBJECT}


class Records(FieldType):
    """The records of a callback: numbered mappings; what they hold is the store's to read."""

    ansible = "list"
    noun = "a list of records"
    schema = {"type": "array", "items": {"type": "object"}, "maxItems": MOST_RECORDS}

    def parse(self, value: Any) -> list[dict[str, Any]]:
        """Return the records as they are. Raises InvalidSpec."""
        if not isinstance(value, list) or len(value) > MOST_RECORDS:
            raise InvalidSpec(f"is not a list of at most {MOST_RECORDS} records")
        for position, record in enumerate(value):
            problem = _record_problem(record)
            if problem:
                raise InvalidSpec(problem, field=f"[{position}]")
        return value


class Mappings(FieldType):
    """A JSON object whose content is the store's to read."""

    ansible = "dict"
    noun = "an object"
    schema = {"type": "object"}

    def parse(self, value: Any) -> dict[str, Any]:
        """Return the object as it is. Raises InvalidSpec."""
        if not isinstance(value, dict):
            raise InvalidSpec("is not an object", value=type(value).__name__)
        return value


class Seconds(FieldType):
    """A moment in seconds since the epoch."""

    noun = "a number of seconds"
    schema = {"type": "number", "minimum": 0, "maximum": LARGEST_NUMBER}

    def parse(self, value: Any) -> float:
        """Return the seconds. Raises InvalidSpec."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST_NUMBER:
            raise InvalidSpec("is not a number of seconds", value=value)
        return float(value)


@dataclasses.dataclass(frozen=True)
class Callback:
    """What one agent reports."""

    protocol: int = attribute(Integer(0, 1 << 31), "Version of the protocol.", required=True)
    server: str = attribute(Text(36, pattern=r"[0-9a-f-]{36}", noun="a UUID"), "The server that reports.", required=True)
    epoch: str = attribute(Text(64, pattern=r"[0-9a-f]+", noun="a hexadecimal number"), "New whenever the agent's database is new.", required=True)
    version: str = attribute(Text(100), "Version of the agent.", required=True)
    sent_at: float = attribute(Seconds(), "When it was sent, by the agent's clock.", required=True)
    libvirt: str = attribute(Choice("up", "down"), "Whether libvirt answers.", required=True)
    records: list[dict[str, Any]] = attribute(Records(), "What has happened, in order.", required=True)
    facts: dict[str, Any] | None = attribute(Mappings(), "What the server is; left out when it was told before.")
    statistics: dict[str, Any] | None = attribute(Mappings(), "What was measured.")
    tls: dict[str, Any] | None = attribute(Mappings(), "Serial number and revocation list that libvirt has; left out where Domus does not set it up.")
    problem: str | None = attribute(Text(MOST_TEXT, multiline=True), "What is wrong with the agent's database.")


KNOWN = frozenset(field.name for field in dataclasses.fields(Callback))


def receive(call: Call) -> Response:
    """Store what an agent reports; answers up to which number it is stored, and which certificates are not to be accepted any more."""
    told = _read(call)
    # A newer agent may tell more than this manager knows of.
    report = parse_body(Callback, {name: value for name, value in told.items() if name in KNOWN} if isinstance(told, dict) else told)
    if report.protocol != PROTOCOL:
        message = f"this manager speaks protocol {PROTOCOL}"
        raise Unsupported(message, object="callback", field="protocol", value=report.protocol, remedy="Upgrade the older side")
    server_id = call.principal.name
    if report.server != server_id:
        raise Forbidden("the certificate is that of another server", object="callback", field="server", value=report.server)
    store = call.parts.store
    now = store.now()
    try:
        acknowledged = callbacks.ingest(store, server_id, report.epoch, report.records)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # The agent is somebody else's machine: what it sends may be anything.
        LOG.error("server %s reports what can not be read", server_id, exc_info=error)
        raise InvalidSpec("a record can not be read", object="callback", field="records", remedy="Please report this") from None
    store.write(lambda connection: server_states.heard(connection, server_id, now, report.version, report.libvirt, report.facts, report.problem))
    if report.statistics is not None:
        statistics.put(store, server_id, report.statistics)
    news = call.parts.agents.trust.heard_of(server_id, report.tls)
    return answer({"acknowledged": acknowledged, "revoked": servers.revoked(store, server_id), "time": now, **news})


def _read(call: Call) -> Any:
    try:
        return json.loads(read_text(call.request))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"is not JSON: {error}", object="body") from None


def _record_problem(record: Any) -> str | None:
    """What is wrong with a record, seen from outside; what its objects hold is read by the store."""
    if not isinstance(record, dict):
        return "is not a record"
    number, kind = record.get("seq"), record.get("type")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= LARGEST_NUMBER:
        return "has no seq that is a whole number from 1 on"
    if kind not in RECORD_TYPES:
        return f"has no type that is one of {', '.join(RECORD_TYPES)}"
    if kind == "event":
        return _misfit(record, EVENT) or _misfit(record.get("object") or {}, {name: MAYBE_TEXT for name in ("kind", "key", "id")})
    if kind == "object":
        return _misfit(record, OBJECT) or (_misfit(record["description"], DESCRIPTION) if record.get("description") is not None else None)
    return None


def _misfit(given: dict[str, Any], types: Types) -> str | None:
    wrong = next((name for name, wanted in types.items() if not isinstance(given.get(name), wanted)), None)
    return None if wrong is None else f"has no proper {wrong}"
