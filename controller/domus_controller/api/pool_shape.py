"""The shape of a clustered pool, as the API shows it."""

from __future__ import annotations

from ..store.server_pools import STATES
from .schemas import FLAG, MAYBE_TEXT, MAYBE_TIME, NUMBER, TEXT, Schema, list_of, nothing_or, reference, shape

TEXTS = list_of(TEXT)
AMOUNT: Schema = {"type": "number"}
TEST = shape(
    "What a fence device said of a server's power.",
    device=TEXT,
    server=TEXT,
    at=TEXT,
    by={**TEXT, "description": "The server that asked."},
    state={**MAYBE_TEXT, "description": "on or off."},
    problem={**MAYBE_TEXT, "description": "Why the test has failed."},
    cut={**FLAG, "description": "The power was really cut and given back."},
)
TESTS = shape(
    "A test of a pool's fence devices.",
    "passed tests failed",
    passed={**FLAG, "description": "All devices answered all members, and none lied."},
    tests=list_of(TEST),
    failed=list_of(shape("A member that could not test.", by=TEXT, problem=TEXT)),
)
MEMBER = shape(
    "A member.",
    member={**TEXT, "description": "Its host name."},
    state={**MAYBE_TEXT, "description": "online, standby, maintenance, pending, offline, or unclean: to be cut, and not proven to be off."},
    server={**MAYBE_TEXT, "description": "Its name at this manager."},
    server_id=MAYBE_TEXT,
    heard=FLAG,
    off={**FLAG, "description": "It is switched off on purpose."},
    last_seen=MAYBE_TEXT,
    differs={**TEXTS, "description": "What it sees otherwise than `told_by`."},
)
DEVICE = shape(
    "A fence device.",
    name=TEXT,
    watched_by={**TEXTS, "description": "The members that watch it now; none: it does not work."},
    tests={**list_of(TEST), "description": "The last test of each server's power, by each member."},
)
LINK = shape("A heartbeat link.", "", **{"from": TEXT, "link": NUMBER, "address": TEXT, "member": TEXT, "connected": FLAG, "stale": FLAG})
PROBLEM = shape("What needs somebody.", kind=TEXT, server=TEXT, text=TEXT, remedy={**TEXT, "description": "What to do."})
PLACE = shape(
    "A server that the pool is on, or is to be on.",
    server=TEXT,
    server_id=TEXT,
    state={**MAYBE_TEXT, "description": "present; null: it is not there, yet or any more."},
    stale=FLAG,
    drift=TEXTS,
    differs=TEXTS,
    problem=MAYBE_TEXT,
)
FAILOVER = shape(
    "What a server's death costs, in seconds.",
    "expected",
    noticed={**AMOUNT, "description": "Until the others are sure of its silence."},
    fenced={**AMOUNT, "description": "Until its power is cut, once that is begun."},
    lease={"type": ["integer", "null"], "description": "Until its locks on the pool file system fall, from its last word on; null: not told."},
    start={**AMOUNT, "description": "Until its VMs run elsewhere, once they may."},
    expected={**AMOUNT, "description": "All in all: the longer of cutting and lease, and the start."},
)
POLICY = shape(
    "The policy of a pool, its last look and its next.",
    "spec on",
    spec=reference("PolicyShown"),
    on={**FLAG, "description": "It does something by itself."},
    looked_at={**MAYBE_TIME, "description": "When it looked last."},
    next_at={**MAYBE_TIME, "description": "When it looks next, unless something is in its way then; null: as soon as it may."},
    waits={**MAYBE_TEXT, "description": "Why it did not look when it was due."},
    failures={**NUMBER, "description": "How many of its jobs have failed since one succeeded: it waits twice as long with each."},
    found={
        "type": ["object", "null"],
        "description": "What the last look would do, as `BalancePlan` has it for a pool, and its `job`; `resting`: VMs left alone.",
    },
)
POOL: Schema = shape(
    "A server pool, as it was asked for and as its members told it.",
    "name state members problems",
    name=TEXT,
    state={"enum": list(STATES), "description": "healthy; problems: needs somebody; no_quorum: no VM is started; unknown: no member is heard; not_clustered."},
    clustered=FLAG,
    spec={"description": "What was asked for; null: a role has made it, and no document has named it yet.", **nothing_or(reference("ServerPoolShown"))},
    servers=list_of(PLACE),
    failover=nothing_or(FAILOVER),
    policy=nothing_or(POLICY),
    quorate={"type": ["boolean", "null"]},
    coordinator={**MAYBE_TEXT, "description": "The member that decides for all."},
    told_by={**MAYBE_TEXT, "description": "The server that speaks for the pool."},
    stale={**FLAG, "description": "No member is heard: this is what was told last."},
    votes={"type": ["object", "null"], "properties": {"expected": NUMBER, "total": NUMBER, "quorum": NUMBER}},
    members=list_of(MEMBER),
    links=list_of(LINK),
    fence_devices=list_of(DEVICE),
    vms={"type": "object", "description": "Where each HA VM runs.", "additionalProperties": TEXTS},
    problems=list_of(PROBLEM),
)
