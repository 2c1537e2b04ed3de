"""The one table of routes: URL rules, the gate and the OpenAPI document follow from it."""

from __future__ import annotations

from collections.abc import Iterator

from domus_core.model.kind import Kind
from domus_core.model.kinds import BY_NAME, KINDS
from domus_core.verbs import VERBS

from ..store.site_objects import KINDS as SITE_KINDS
from . import balancing, callback, objects, people, server_pools, servers, site_objects, streams, system, work
from . import parameters as given
from .parameters import CHOOSE, CURSOR, JOB, LIMIT, PAGE, REASON, SERVER, SITE, WAIT, gone, made, shows
from .route import ADMINISTER, AGENT, OPEN, OPERATE, READ, STREAM, Answer, Route

API = "/api/v1"
LIVE = {200: Answer("Server-sent events.", media_type=STREAM)}
HEALTH = {200: Answer("It works.", "Health"), 503: Answer("It does not.", "Health")}
NOUNS = {
    "vm": ("a VM", "VMs"),
    "network": ("a network", "networks"),
    "repository": ("a repository", "repositories"),
    "server_pool": ("a server pool", "server pools"),
    "template": ("a template", "templates"),
    "iso": ("an ISO image", "ISO images"),
    "virtual_disk": ("a virtual disk", "virtual disks"),
}
APPLIED = {202: JOB[202], 200: Answer("The job has ended; or with `check` the plan.", "JobOrPlan")}


def _of_kind(kind: Kind) -> Iterator[Route]:
    """The routes of one kind of object."""
    name, section, spec = kind.name, kind.section, kind.spec.__name__
    one_of_them, several = NOUNS[name]
    shown = spec.removesuffix("Spec")
    base = f"{API}/{section.replace('_', '-')}"
    item = f"{base}/{{id:path}}" if name == "virtual_disk" else f"{base}/{{id}}"
    many = (*PAGE, given.SINCE, given.NAME, SERVER, given.STATE, SITE, given.TAG)
    one = {**shows(shown), 304: Answer("It is as the caller has it.")}
    change = (SERVER, WAIT, REASON)
    away = (given.DELETE_DISKS, *change) if name == "vm" else change
    replacing = f"Change {one_of_them} to what the body says. With If-Match refused when it has changed since; devices of a VM not mentioned are taken away."
    yield Route("GET", base, f"list_{section}", objects.list_objects(name), READ, f"List {several}.", shows(f"{shown}Page"), many)
    yield Route("POST", base, f"create_{name}", objects.create_object(name), OPERATE, f"Create {one_of_them}.", JOB, (SITE, WAIT, REASON), spec)
    yield Route("GET", item, f"show_{name}", objects.show_object(name), READ, f"Show {one_of_them}.", one, (CHOOSE, SERVER))
    yield Route("PUT", item, f"replace_{name}", objects.replace_object(name), OPERATE, replacing, JOB, change, spec)
    yield Route("DELETE", item, f"delete_{name}", objects.delete_object(name), OPERATE, f"Delete {one_of_them}.", JOB, away)


def _of_site(kind: Kind) -> Iterator[Route]:
    """The routes of a kind whose objects are one under their name, wherever they are realized."""
    one_of_them, several = NOUNS[kind.name]
    base = f"{API}/site/{kind.section}"
    listing, single = f"List {several} of the whole site, each name once.", f"Show {one_of_them} of the whole site, with its state on each server."
    many = (*PAGE, given.NAME)
    yield Route("GET", base, f"list_site_{kind.section}", site_objects.list_site_objects(kind.name), READ, listing, shows("SiteObjectPage"), many)
    yield Route("GET", f"{base}/{{name}}", f"show_site_{kind.name}", site_objects.show_site_object(kind.name), READ, single, shows("SiteObject"))


def _verbs() -> Iterator[Route]:
    """One route for each verb."""
    for name, verb in VERBS.items():
        yield Route(
            "POST", f"{API}/vms/{{id}}/{name}", f"{name}_vm", work.carry_out(name), OPERATE, verb.doc, JOB, (SERVER, WAIT), "VerbOptions", body_required=False
        )


# fmt: off
# One line says everything about a route: a table is read by its columns.
_SYSTEM = (
    Route("GET", f"{API}/health", "health", system.show_health, OPEN, "Whether the manager works.", HEALTH),
    Route("GET", f"{API}/openapi.json", "openapi", system.show_openapi(lambda: ROUTES), OPEN, "This document.", shows("Any")),
    Route("GET", f"{API}/me", "me", people.show_me, READ, "Who asks, and what that allows.", shows("Me")),
)

_WORK = (
    Route("POST", f"{API}/apply", "apply", work.apply_document, OPERATE, "Make a document true. With `check` only say what it would do.",
          APPLIED, given.APPLY_PARAMETERS, "Document", instead=f"see what it would do with POST {API}/plans"),
    Route("POST", f"{API}/plans", "make_plan", work.make_plan, READ, "Store what a document would do. Nothing is changed.", made("Plan"), (), "Document"),
    Route("GET", f"{API}/plans/{{id}}", "show_plan", work.show_plan, READ, "Show a plan.", shows("Plan")),
    Route("POST", f"{API}/plans/{{id}}/apply", "apply_plan", work.apply_plan, OPERATE, "Carry a plan out. Refused when the world has moved on.",
          JOB, (WAIT,)),
    Route("GET", f"{API}/drift", "list_drift", objects.show_drift, READ, "List what is not as asked, recorded or defined.", shows("DriftPage"),
          (LIMIT, CURSOR, CHOOSE, given.KIND, SERVER, SITE, given.NAME)),
)

_SERVERS = (
    Route("GET", f"{API}/servers", "list_servers", servers.list_servers, READ, "List servers.", shows("ServerPage"),
          (*PAGE, given.NAME, given.SERVER_STATE)),
    Route("POST", f"{API}/servers", "take_over_server", servers.take_over, ADMINISTER, "Take a free server over.", made("Server"), (), "TakeOver"),
    Route("POST", f"{API}/servers/discover", "discover_server", servers.discover, ADMINISTER,
          "Look who answers at an address, and with which fingerprint. Nothing is changed.", shows("Discovered"), (), "Discover"),
    Route("GET", f"{API}/cpu-groups", "list_cpu_groups", servers.list_cpu_groups, READ,
          "List the CPU compatibility groups, each with its servers and the CPU that all of them have.", shows("CpuGroups")),
    Route("GET", f"{API}/server-pools", "list_server_pools", server_pools.list_server_pools, READ,
          "List the server pools, each as it was asked for and as its members tell it.", shows("ServerPools")),
    Route("POST", f"{API}/server-pools", "create_server_pool", server_pools.create_server_pool, OPERATE, "Create a server pool.", JOB, (SITE, WAIT, REASON),
          "ServerPoolSpec"),
    Route("GET", f"{API}/server-pools/{{name}}", "show_server_pool", server_pools.show_server_pool, READ,
          "Show a server pool: what was asked, quorum, members, links, fence devices, and what is wrong with what to do about it.", shows("ServerPool")),
    Route("PUT", f"{API}/server-pools/{{name}}", "replace_server_pool", server_pools.replace_server_pool, OPERATE,
          "Change a server pool to what the body says; what it leaves out stays.", JOB, (SITE, WAIT, REASON), "ServerPoolSpec"),
    Route("DELETE", f"{API}/server-pools/{{name}}", "delete_server_pool", server_pools.delete_server_pool, OPERATE,
          "End a server pool. Refused while HA VMs run in it.", JOB, (SITE, WAIT, REASON)),
    Route("GET", f"{API}/server-pool-members", "list_server_pool_members", objects.list_objects("server_pool"), READ,
          "List what each server knows of its pool.", shows("ServerPoolMemberPage"), (*PAGE, given.SINCE, given.NAME, SERVER, given.STATE, SITE, given.TAG)),
    Route("POST", f"{API}/server-pools/{{name}}/fence-test", "test_server_pool_fencing", server_pools.try_fencing, ADMINISTER,
          "Test the fence devices of a pool: each member asks for the power of the others. With `cut`, really cut one.", shows("FenceTests"), (), "FenceTest",
          body_required=False),
    Route("GET", f"{API}/balance", "show_balance", balancing.show_balance, READ, "Show what a policy would do now. Nothing is changed.",
          shows("BalancePlan"), balancing.POLICY),
    Route("POST", f"{API}/server-pools/{{name}}/balance", "balance_server_pool", balancing.balance_pool, ADMINISTER,
          "Do once what the pool's policy (or the one in the body) would do. With `check`, and where there is nothing to do, only show it.",
          {202: JOB[202], 200: Answer("The job has ended; or what there is to do.", "JobOrBalance")}, (WAIT, REASON, given.CHECK), "Balance",
          body_required=False),
    Route("GET", f"{API}/servers/{{id}}/loss", "show_server_loss", balancing.show_loss, READ,
          "Show where the VMs of a server would start again if it died. Nothing is changed.", shows("Evacuation")),
    Route("GET", f"{API}/servers/{{id}}", "show_server", servers.show_server, READ, "Show a server.", shows("Server")),
    Route("DELETE", f"{API}/servers/{{id}}", "release_server", servers.release, ADMINISTER, "Make a server free again. Its VMs stay as they are.",
          gone("It is free."), (given.FORGET,)),
    Route("PUT", f"{API}/servers/{{id}}/maintenance", "set_server_maintenance", servers.set_maintenance, ADMINISTER,
          "Take a server out of use for a while, or back into use.", {**shows("ServerOrJob"), 202: JOB[202]}, (WAIT,), "Maintenance"),
    Route("POST", f"{API}/servers/{{id}}/evacuate", "evacuate_server", servers.evacuate_server, ADMINISTER,
          "Move the running VMs of a server to others. With `check` only say where each would go, and why.",
          {202: JOB[202], 200: Answer("The job has ended; or with `check` the plan.", "JobOrEvacuation")}, (WAIT, REASON, given.CHECK), "Evacuate",
          body_required=False),
    Route("POST", f"{API}/servers/{{id}}/power-off", "power_off_server", servers.power_off, ADMINISTER,
          "Switch a server off in order. Refused while VMs run on it. Its silence alarms nobody then.", JOB, (WAIT, REASON)),
    Route("POST", f"{API}/servers/{{id}}/power-on", "power_on_server", servers.power_on, ADMINISTER,
          "Wake a server: by a fence device of its pool, or else by its network card.", JOB, (WAIT, REASON)),
    Route("POST", f"{API}/servers/{{id}}/renew", "renew_server", servers.renew, ADMINISTER,
          "Give a server new certificates, or those of another pool.", shows("Server"), (), "Renewal", body_required=False),
    Route("POST", f"{API}/servers/{{id}}/revoke", "revoke_server", servers.revoke, ADMINISTER,
          "Accept no certificate of a server any more: it is lost or in wrong hands.", shows("Server")),
    Route("POST", f"{API}/servers/{{id}}/adopt", "adopt_vms", servers.adopt, OPERATE, "Manage VMs that are there already.", shows("Adopted"), (), "Adopt"),
    Route("POST", f"{API}/servers/{{id}}/resync", "resync_server", servers.resync, OPERATE, "Have a server report everything once more.",
          {202: Answer("It will.", "Resync")}),
    Route("GET", f"{API}/servers/{{id}}/statistics", "show_server_statistics", system.show_server_statistics, READ, "What was measured of a server.",
          shows("ServerStatistics"), given.SPAN),
)

_VMS = (
    Route("POST", f"{API}/vms/{{id}}/migrate", "migrate_vm", work.migrate_vm, OPERATE,
          "Move a VM to another server while it runs. With `check` only say whether and how it would get there.",
          {202: JOB[202], 200: Answer("The job has ended; or with `check` the answer.", "JobOrCheck")}, (SERVER, WAIT, REASON, given.CHECK), "Migrate"),
    Route("GET", f"{API}/vms/{{id}}/statistics", "show_vm_statistics", system.show_statistics, READ, "What was measured of a VM.", shows("Statistics"),
          (*given.SPAN, SERVER)),
    Route("GET", f"{API}/vms/{{id}}/console", "open_vm_console", system.show_console, OPERATE, "The serial console, as a WebSocket of binary frames.",
          {101: Answer("Bytes, both ways.")}, (SERVER, given.FORCE), websocket=True),
)

_JOBS = (
    Route("GET", f"{API}/jobs", "list_jobs", work.list_jobs, READ, "List jobs, the newest first.", shows("JobPage"), (*PAGE, given.JOB_STATE, given.JOB_KIND)),
    Route("GET", f"{API}/jobs/{{id}}", "show_job", work.show_job, READ, "Show a job.", shows("Job"), (WAIT,)),
    Route("GET", f"{API}/jobs/{{id}}/events", "list_job_events", work.list_job_events, READ, "What happened in a job.", shows("JobEvents"),
          (given.FROM_START, LIMIT)),
    Route("GET", f"{API}/jobs/{{id}}/stream", "stream_job", streams.stream_job, READ,
          "What happens in a job, live, as server-sent events. The last one is `end`; Last-Event-ID resumes.", LIVE, (given.AFTER,)),
    Route("POST", f"{API}/jobs/{{id}}/cancel", "cancel_job", work.cancel_job, OPERATE, "End a job and its work.", JOB, (WAIT,)),
    Route("POST", f"{API}/jobs/{{id}}/relaunch", "relaunch_job", work.relaunch_job, OPERATE, "Do the same once more, as a new job.", JOB, (WAIT,)),
    Route("GET", f"{API}/events", "list_events", system.list_events, READ, "What happened on the servers.", shows("EventPage"),
          (*PAGE, given.AFTER, *given.EVENT_FILTERS)),
    Route("GET", f"{API}/events/stream", "stream_events", streams.stream_events, READ,
          "What happens on the servers, live, as server-sent events. Last-Event-ID resumes.", LIVE, (given.AFTER, *given.EVENT_FILTERS)),
)

_PEOPLE = (
    Route("GET", f"{API}/tokens", "list_tokens", people.list_tokens, READ, "List your tokens. Administrators see those of all.", shows("TokenPage")),
    Route("POST", f"{API}/tokens", "create_token", people.create_token, READ, "Make a token. It is shown once.", made("Token"), (), "NewToken"),
    Route("DELETE", f"{API}/tokens/{{id}}", "revoke_token", people.revoke_token, READ, "Revoke a token.", gone("It is not accepted any more.")),
    Route("GET", f"{API}/certificates", "list_certificates", people.list_certificates, READ, "List your certificates. Administrators see those of all.",
          shows("CertificatePage")),
    Route("POST", f"{API}/users/{{name}}/certificates", "create_certificate", people.create_certificate, READ,
          "Get a certificate to log in with: your own, or as an administrator anybody's.", made("Certificate"), (), "NewCertificate"),
    Route("DELETE", f"{API}/certificates/{{serial}}", "revoke_certificate", people.revoke_certificate, READ, "Revoke a person's certificate.",
          gone("It is not accepted any more.")),
    Route("GET", f"{API}/users", "list_users", people.list_users, ADMINISTER, "List people.", shows("UserPage")),
    Route("POST", f"{API}/users", "create_user", people.create_user, ADMINISTER, "Let a person in.", made("User"), (), "NewUser"),
    Route("DELETE", f"{API}/users/{{name}}", "delete_user", people.delete_user, ADMINISTER, "Let a person in no more, nor their tokens.", gone("Gone.")),
    Route("PUT", f"{API}/users/{{name}}/password", "set_password", people.set_password, ADMINISTER, "Give a person another password.",
          gone("It is set."), (), "NewPassword"),
)

_AGENTS = (
    Route("POST", "/agent/v1/callback", "callback", callback.receive, AGENT, "What agents report.", shows("Acknowledgement"), (), "Callback",
          ("application/json",)),
)
# fmt: on

ROUTES: tuple[Route, ...] = (
    *_SYSTEM,
    *_WORK,
    *_SERVERS,
    *(route for kind in KINDS if kind.name not in ("server", "server_pool") for route in _of_kind(kind)),
    *(route for kind in SITE_KINDS for route in _of_site(BY_NAME[kind])),
    *_verbs(),
    *_VMS,
    *_JOBS,
    *_PEOPLE,
    *_AGENTS,
)
