"""The shapes of what the API shows that no field table describes."""

from __future__ import annotations

from domus_core.model.kind import Kind

from ..store.jobs import KINDS as JOB_KINDS
from ..store.servers import STATES
from .bodies import ROLES
from .facts import FACTS
from .pool_shape import POOL, TESTS
from .schemas import FLAG, MAYBE_TEXT, MAYBE_TIME, NUMBER, TEXT, TIME, Schema, list_of, nothing_or, reference, shape

MOVE = shape("A VM that would move.", "vm", vm=TEXT, id=MAYBE_TEXT, source=TEXT, source_id=TEXT, server=TEXT, server_id=TEXT, reason=TEXT)
SWITCH = shape("A server that would be woken or switched off.", "action server", action=TEXT, server=TEXT, server_id=TEXT, reason=TEXT)
JOB_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
SEVERITIES = ("info", "warning", "error")
ANYTHING: Schema = {}


def object_shape(kind: Kind, spec: str) -> Schema:
    """An object of a kind as it is shown: what was asked, recorded, defined and measured; with `fields` only a choice of it."""
    properties: dict[str, Schema] = dict(
        id=TEXT,
        kind={"const": kind.name},
        name=TEXT,
        server={**MAYBE_TEXT, "description": "Name of the server where it is."},
        server_id=MAYBE_TEXT,
        site=MAYBE_TEXT,
        state={**MAYBE_TEXT, "description": "What it does now."},
        generation={**NUMBER, "description": "Counts the changes of its specification."},
        spec=nothing_or(reference(spec)),
        asked=nothing_or(reference(spec)),
        recorded=nothing_or(reference(spec)),
        running={"description": "null: does not run; true: runs as defined; else what runs."},
        measured={"type": ["object", "null"]},
        restart_required={"description": "Whether a change waits for the next start."},
        drift=list_of(reference("Difference")),
        conflict={"description": "Why it is not clear which specification counts."},
        request=nothing_or(
            shape(
                "The latest request that concerns it.",
                job=MAYBE_TEXT,
                state={"enum": ["pending", "effective", "failed"]},
                error={**TEXT, "description": "Why it failed."},
            )
        ),
        stale={**FLAG, "description": "Its server is not heard: this is what it told last."},
        etag=TEXT,
        sequence=NUMBER,
        changed_at=MAYBE_TIME,
        deleted={**FLAG, "description": "With `since`: it is gone."},
    )
    if kind.name == "vm":
        properties["addresses"] = list_of(TEXT)
    return {"type": "object", "description": kind.doc, "properties": properties}


SHAPES: dict[str, Schema] = {
    "Facts": FACTS,
    "Problem": shape(
        "A problem document (RFC 9457).",
        "type title status detail code",
        type=TEXT,
        title=TEXT,
        status=NUMBER,
        detail=TEXT,
        code=TEXT,
        object=TEXT,
        field=TEXT,
        value=ANYTHING,
        remedy=TEXT,
        server={**TEXT, "description": "Name of the server where it happened."},
        errors=list_of({"type": "object"}),
    ),
    "Health": shape(
        "Whether the manager works.",
        "state version database",
        state={"enum": ["ok", "failed"]},
        version=TEXT,
        database=TEXT,
        jobs=shape("Jobs that have not ended.", queued=NUMBER, running=NUMBER),
        servers={**shape("Servers by state."), "properties": dict.fromkeys(STATES, NUMBER)},
    ),
    "Me": shape("Who asks.", "name role permissions", name=TEXT, role=TEXT, permissions=list_of(TEXT)),
    "Any": {"type": "object", "description": "An OpenAPI document."},
    "Difference": shape("A field that is not the same everywhere.", field=TEXT, asked=ANYTHING, recorded=ANYTHING, defined=ANYTHING, running=ANYTHING),
    "Drift": shape(
        "An object that has drifted, or is gone though it was asked for.",
        id=TEXT,
        kind=TEXT,
        name=TEXT,
        server=MAYBE_TEXT,
        drift=list_of(reference("Difference")),
    ),
    "Server": shape(
        "A server of this manager.",
        id=TEXT,
        name=TEXT,
        address=TEXT,
        port=NUMBER,
        serial=MAYBE_TEXT,
        state={
            "enum": list(STATES),
            "description": "running: it is heard; maintenance: it is, and gets no VMs; disconnected: silent for a while; offline: silent for long;"
            " unknown: never heard, or not to be trusted; off: silent, and switched off on purpose.",
        },
        state_since={**MAYBE_TIME, "description": "Since when it is in this state."},
        last_seen=MAYBE_TIME,
        maintenance={**FLAG, "description": "An administrator took it out of use: no VM is placed on it or moved to it."},
        maintenance_reason=MAYBE_TEXT,
        powered_off={
            **nothing_or(shape("", at=TIME, by=TEXT, reason=TEXT, policy={**FLAG, "description": "Its pool's policy did it, and wakes it again."})),
            "description": "Since when, by whom and why it is off on purpose, or on its way there; null: it is not.",
        },
        tags={**list_of(TEXT), "description": "Its labels, as the documents say."},
        version=MAYBE_TEXT,
        behind={**FLAG, "description": "Its agent is older than the manager."},
        libvirt=MAYBE_TEXT,
        facts=nothing_or(reference("Facts")),
        problem={**MAYBE_TEXT, "description": "What is wrong with the agent, as it says itself."},
        problems={**list_of(TEXT), "description": "All that is wrong, and what to do about it."},
        vms=NUMBER,
        pool={**TEXT, "description": "Servers of one pool trust each other's libvirt."},
        revoked={**FLAG, "description": "Its certificate is accepted no more."},
        certificate_ends_at=MAYBE_TIME,
        libvirt_certificate_ends_at=MAYBE_TIME,
    ),
    "Discovered": shape(
        "What answers at an address; nothing was changed there.",
        "address port fingerprint server owned ours",
        address=TEXT,
        port=NUMBER,
        fingerprint={**TEXT, "description": "SHA-256 of the certificate that was shown, hexadecimal."},
        server={**TEXT, "description": "Id of the server."},
        name={**MAYBE_TEXT, "description": "Its host name, if it is free or ours."},
        version=MAYBE_TEXT,
        protocols={"type": ["array", "null"], "items": NUMBER},
        owned=FLAG,
        manager={**MAYBE_TEXT, "description": "Id of the manager that owns it, if its certificate says so."},
        ours={**FLAG, "description": "This manager owns it."},
        known_as={**MAYBE_TEXT, "description": "Its name at this manager."},
        host_uuid=MAYBE_TEXT,
        certificate_ends_at=MAYBE_TIME,
    ),
    "Job": shape(
        "Work that changes something, and how it ended.",
        id=TEXT,
        kind={"enum": list(JOB_KINDS), "description": "apply, or the verb."},
        state={"enum": list(JOB_STATES)},
        changed={"type": ["boolean", "null"]},
        error={"type": ["object", "null"]},
        check=FLAG,
        created_at=TIME,
        started_at=MAYBE_TIME,
        finished_at=MAYBE_TIME,
        created_by=TEXT,
        reason=MAYBE_TEXT,
        objects=list_of({"type": "object"}),
        waiting_for=MAYBE_TEXT,
        cancel_requested=FLAG,
        relaunch_of=MAYBE_TEXT,
        result={"type": ["object", "null"], "description": "`objects` and `servers`; of a job that has not succeeded also `done`: what had been done."},
    ),
    "JobEvent": shape("What happened in a job.", id=NUMBER, number=NUMBER, at=TIME, kind=TEXT, data=ANYTHING),
    "JobEvents": shape("What happened in a job, in order.", "items", items=list_of(reference("JobEvent")), next={"type": "null"}),
    "Event": shape(
        "What happened on a server.",
        id=NUMBER,
        at=TIME,
        received_at=TIME,
        kind=TEXT,
        severity=TEXT,
        server=MAYBE_TEXT,
        object={"type": ["object", "null"]},
        data=ANYTHING,
        operation=MAYBE_TEXT,
    ),
    "Plan": shape(
        "What a document would do, and the state of the world it was made on.",
        id=TEXT,
        state={"enum": ["open", "applied", "stale"]},
        created_at=TIME,
        created_by=TEXT,
        changed=FLAG,
        objects=list_of({"type": "object"}),
        fingerprints={"type": "object"},
        errors=list_of(ANYTHING),
    ),
    "JobOrPlan": {"anyOf": [reference("Job"), reference("Plan")]},
    "ServerOrJob": {"anyOf": [reference("Server"), reference("Job")]},
    "CpuGroups": shape("All CPU compatibility groups.", "items", items=list_of(reference("CpuGroup"))),
    "CpuGroup": shape(
        "A CPU compatibility group: servers among which VMs move.",
        "name members baseline problem",
        name=TEXT,
        members=list_of(
            shape("A server of the group.", "server", server=TEXT, server_id=TEXT, cpu=nothing_or(reference("CpuBaselineSpec")), virtualization=MAYBE_TEXT)
        ),
        baseline={**nothing_or(reference("CpuBaselineSpec")), "description": "The CPU that all of them have, as libvirt computes it: VMs of the group get it."},
        problem={**MAYBE_TEXT, "description": "Why there is none."},
    ),
    "ServerPools": shape("All clustered pools.", "items", items=list_of(reference("ServerPool"))),
    "ServerPool": POOL,
    "FenceTests": TESTS,
    "BalancePlan": shape(
        "What a policy would do.",
        "mode pools",
        mode=TEXT,
        pools=list_of(
            shape(
                "What it would do with the servers of a pool.",
                "pool servers before after moves switches stuck waiting uncounted",
                pool=TEXT,
                servers=list_of(TEXT),
                before={"type": "number", "description": "How unevenly the servers are used: the sum of the standard deviations of their shares."},
                after={"type": "number"},
                moves=list_of(MOVE),
                switches=list_of(SWITCH),
                stuck={"type": "object", "description": "VMs that are where they may not be and can go nowhere, and why."},
                waiting={**MAYBE_TEXT, "description": "Why no server is switched off."},
                uncounted={**list_of(TEXT), "description": "Resources that not every server tells: they do not count."},
            )
        ),
    ),
    "JobOrBalance": {"anyOf": [reference("Job"), reference("BalancePlan")]},
    "JobOrEvacuation": {"anyOf": [reference("Job"), reference("Evacuation")]},
    "Evacuation": shape(
        "Where the VMs of a server would go, the first to move first.",
        "server possible moves",
        server=TEXT,
        server_id=TEXT,
        possible={**FLAG, "description": "All of them can move."},
        moves=list_of(
            shape(
                "A VM that would move.",
                "vm possible",
                vm=TEXT,
                id=TEXT,
                server=MAYBE_TEXT,
                server_id=MAYBE_TEXT,
                possible=FLAG,
                reason=TEXT,
                errors=list_of({"type": "object"}),
            )
        ),
        staying=list_of(shape("A VM that stays, and why.", "vm reason", vm=TEXT, id=TEXT, state=MAYBE_TEXT, reason=TEXT)),
    ),
    "JobOrCheck": {"anyOf": [reference("Job"), reference("MigrationCheck")]},
    "MigrationCheck": shape(
        "Whether and how a VM would get to a server.",
        "server possible errors",
        server=TEXT,
        server_id=TEXT,
        possible=FLAG,
        plan={"type": ["object", "null"], "description": "way (live or offline), copied disks, warnings, bytes."},
        errors=list_of({"type": "object"}),
    ),
    "Statistics": shape("What was measured of a VM, in steps.", "items", items=list_of({"type": "object"})),
    "ServerStatistics": shape(
        "What was measured of a server, in steps: `cpu` is the share of all processors that was in use, `net` and `disks` bytes per second of each.",
        "items",
        step={**NUMBER, "description": "Seconds between two items."},
        items=list_of({"type": "object"}),
    ),
    "SiteObject": shape(
        "An object of the whole site, realized on several servers under one name.",
        "name",
        kind=TEXT,
        name=TEXT,
        spec={"type": ["object", "null"], "description": "What was asked for last, else what most servers have; in a list that of one server."},
        count={**NUMBER, "description": "On how many servers it is."},
        states={"type": "object", "description": "On how many servers it is in which state.", "additionalProperties": NUMBER},
        drifted={**NUMBER, "description": "On how many servers it is not as it is to be."},
        servers=list_of(
            shape(
                "The object on one server.",
                server=TEXT,
                server_id=TEXT,
                id=MAYBE_TEXT,
                state={**MAYBE_TEXT, "description": "null: it is to be there, and is not."},
                stale={**FLAG, "description": "The server is not heard: this is what it told last."},
                drift={**list_of(TEXT), "description": "Fields that are not as asked, recorded or defined."},
                differs={**list_of(TEXT), "description": "Fields in which it is defined otherwise than `spec`."},
                problem=MAYBE_TEXT,
                capacity=NUMBER,
                free=NUMBER,
                available=FLAG,
            )
        ),
    ),
    "Adopted": shape(
        "VMs that were there already.",
        document={"type": "object", "description": "The site document that describes them; applied, it has Domus manage them."},
        not_managed={"type": "object", "description": "By name of the VM, what of it no document can hold; that stays as it is."},
    ),
    "Resync": {"type": "object", "description": "Up to which record everything will have been reported."},
    "Token": shape(
        "A token; `token` is shown once, when it is made.",
        id=TEXT,
        name=TEXT,
        user=TEXT,
        role={"enum": list(ROLES)},
        created_at=TIME,
        expires_at=MAYBE_TIME,
        token=TEXT,
    ),
    "Certificate": shape(
        "A person's certificate; `certificate` is its PEM text, when it is made.",
        serial=TEXT,
        user=TEXT,
        name=TEXT,
        role={"enum": list(ROLES)},
        created_at=TIME,
        expires_at=TIME,
        certificate=TEXT,
    ),
    "User": shape("A person.", name=TEXT, role={"enum": list(ROLES)}, created_at=TIME, changed_at=MAYBE_TIME),
    "Acknowledgement": shape(
        "What the manager has stored.",
        "acknowledged revoked time",
        acknowledged=NUMBER,
        revoked=list_of(shape("A certificate that is not to be accepted.", serial=TEXT, until={"type": "number"})),
        time={"type": "number"},
        crl={**TEXT, "description": "Libvirt's revocation list, when it is newer than the server's."},
        gone={**list_of(TEXT), "description": "With `crl`: servers whose sessions with libvirt are to end."},
    ),
}
