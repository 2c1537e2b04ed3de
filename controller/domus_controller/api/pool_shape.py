"""The shape of a clustered pool, as the API shows it."""

from __future__ import annotations

from ..store.server_pools import STATES
from .schemas import Schema

TEXT: Schema = {"type": "string"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}


def _object(doc: str, **properties: Schema) -> Schema:
    return {"type": "object", "description": doc, "properties": properties}


def _objects(doc: str, **properties: Schema) -> Schema:
    return {"type": "array", "items": _object(doc, **properties)}


TEST: Schema = _object(
    "What a fence device said of a server's power.",
    device=TEXT,
    server=TEXT,
    at=TEXT,
    by={**TEXT, "description": "The server that asked."},
    state={**MAYBE_TEXT, "description": "on or off."},
    problem={**MAYBE_TEXT, "description": "Why the test has failed."},
    cut={**FLAG, "description": "The power was really cut and given back."},
)
TESTS: Schema = {
    **_object(
        "A test of a pool's fence devices.",
        passed={**FLAG, "description": "All devices answered all members, and none lied."},
        tests={"type": "array", "items": TEST},
        failed=_objects("A member that could not test.", by=TEXT, problem=TEXT),
    ),
    "required": ["passed", "tests", "failed"],
}
POOL: Schema = {
    **_object(
        "A clustered pool, put together from what its members told.",
        name=TEXT,
        state={
            "enum": list(STATES),
            "description": "healthy; problems: needs somebody; no_quorum: no VM is started; unknown: no member is heard.",
        },
        quorate={"type": ["boolean", "null"]},
        coordinator={**MAYBE_TEXT, "description": "The member that decides for all."},
        told_by={**TEXT, "description": "The server that speaks for the pool."},
        stale={**FLAG, "description": "No member is heard: this is what was told last."},
        votes={"type": ["object", "null"], "properties": {"expected": NUMBER, "total": NUMBER, "quorum": NUMBER}},
        members=_objects(
            "A member.",
            member={**TEXT, "description": "Its host name."},
            state={**MAYBE_TEXT, "description": "online, standby, maintenance, pending, offline, or unclean: to be cut, and not proven to be off."},
            server={**MAYBE_TEXT, "description": "Its name at this manager."},
            server_id=MAYBE_TEXT,
            heard=FLAG,
            last_seen=MAYBE_TEXT,
            differs={**TEXTS, "description": "What it sees otherwise than `told_by`."},
        ),
        links=_objects("A heartbeat link.", **{"from": TEXT, "link": NUMBER, "address": TEXT, "member": TEXT, "connected": FLAG, "stale": FLAG}),
        fence_devices=_objects(
            "A fence device.",
            name=TEXT,
            watched_by={**TEXTS, "description": "The members that watch it now; none: it does not work."},
            tests={"type": "array", "items": TEST, "description": "The last test of each server's power, by each member."},
        ),
        vms={"type": "object", "description": "Where each HA VM runs.", "additionalProperties": TEXTS},
        problems=_objects("What needs somebody.", kind=TEXT, server=TEXT, text=TEXT, remedy={**TEXT, "description": "What to do."}),
    ),
    "required": ["name", "state", "members", "problems"],
}
