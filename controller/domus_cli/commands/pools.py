"""pool: clustered server pools, their quorum, members, fence devices, and what is wrong in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..output import Output, key, moment
from .balancing import balance_pool_command
from .common import completes, connect, with_output

POOLS = "/api/v1/server-pools"
COLUMNS = [
    key("NAME", "name"),
    key("STATE", "state"),
    key("QUORATE", "quorate"),
    ("MEMBERS", lambda pool: _members(pool)),
    ("VMS", lambda pool: len(pool["vms"])),
    ("PROBLEMS", lambda pool: len(pool["problems"])),
]
FIELDS = [
    *(key(name, name) for name in ("name", "state", "quorate", "coordinator")),
    ("votes", lambda pool: "{total} of {expected}, {quorum} are needed".format(**pool["votes"]) if pool.get("votes") else None),
    ("told by", lambda pool: f"{pool['told_by']}{' (not heard now)' if pool['stale'] else ''}" if pool["told_by"] else None),
    key("file system", "spec", "file_system"),
    ("lease", lambda pool: _seconds(pool, "lease")),
    ("expected failover", lambda pool: _failover(pool)),
    ("policy", lambda pool: _policy(pool)),
    ("last look", lambda pool: _moment(pool, "looked_at")),
    ("it found", lambda pool: _found(pool)),
    ("next look", lambda pool: _moment(pool, "next_at")),
    key("waits", "policy", "waits"),
    key("description", "spec", "description"),
]
PLACES = [
    key("SERVER", "server"),
    ("STATE", lambda one: f"{one['state'] or 'missing'}{'?' if one['stale'] else ''}"),
    ("NOTES", lambda one: "; ".join([*(f"{word}: {', '.join(one[word])}" for word in ("drift", "differs") if one[word]), *filter(None, [one["problem"]])])),
]
MEMBERS = [
    key("MEMBER", "member"),
    ("STATE", lambda member: "off on purpose" if member.get("off") else member["state"]),
    key("SERVER", "server"),
    key("HEARD", "heard"),
    moment("LAST SEEN", "last_seen"),
    key("SEES OTHERWISE", "differs"),
]
LINKS = [key("LINK", "link"), key("FROM", "from"), key("ADDRESS", "address"), key("TO", "member"), key("CONNECTED", "connected")]
DEVICES = [
    key("FENCE DEVICE", "name"),
    key("WATCHED BY", "watched_by"),
    ("LAST TESTS", lambda device: _tests(device)),
]
VMS = [key("VM", "vm"), key("ON", "on")]


TESTS = [
    key("FENCE DEVICE", "device"),
    key("SERVER", "server"),
    key("ASKED BY", "by"),
    ("OUTCOME", lambda test: test.get("problem") or (f"cut, and {test['state']} again" if test.get("cut") else test["state"])),
]


def _members(pool: Mapping[str, Any]) -> str:
    """How many of the members are there; of a pool without a cluster how many it has."""
    if not pool["members"]:
        return str(len(pool.get("servers") or ()))
    return f"{sum(one['state'] == 'online' for one in pool['members'])} of {len(pool['members'])} online"


def _seconds(pool: Mapping[str, Any], part: str) -> str | None:
    told = (pool.get("failover") or {}).get(part)
    return None if told is None else f"{told:g} s"


def _failover(pool: Mapping[str, Any]) -> str | None:
    """How long VMs of a server that died stay down, and of what that is made."""
    told = pool.get("failover")
    if told is None:
        return None
    parts = f"noticed after {told['noticed']:g} s, its power cut within {told['fenced']:g} s, VMs started within {told['start']:g} s"
    locks = f"its locks fall {told['lease']:g} s after its last word" if told["lease"] is not None else "the pool file system tells no lease"
    return f"about {told['expected']:g} s: {parts}; {locks}"


def _policy(pool: Mapping[str, Any]) -> str | None:
    """The policy in a few words: its mode, how often it looks, and what it keeps free."""
    policy = pool.get("policy")
    if policy is None:
        return None
    spec, failures = policy["spec"], policy["failures"]
    words = [f"{spec.get('mode') or 'off'}" + (f", every {spec.get('period') or 10} minutes" if policy["on"] else ": it does nothing by itself")]
    words += [f"room for the loss of {spec['spare_servers']} servers"] if spec.get("spare_servers") else []
    words += [f"backs off after {failures} failed jobs"] if failures else []
    return "; ".join(words)


def _moment(pool: Mapping[str, Any], name: str) -> str:
    return str(moment("", name)[1](pool.get("policy") or {}))


def _found(pool: Mapping[str, Any]) -> str | None:
    """What the last look found to be done, or why nothing."""
    found = (pool.get("policy") or {}).get("found")
    if not found:
        return None
    steps = [f"{one['vm']} to {one['server']}: {one['reason']}" for one in found["moves"]]
    steps += [f"{one['action']} {one['server']}: {one['reason']}" for one in found["switches"]]
    steps += [f"job {found['job']}"] if found.get("job") else []
    return "\n".join(steps) or f"nothing to do{': ' + found['waiting'] if found.get('waiting') else ''}"


def _tests(device: Mapping[str, Any]) -> str:
    """The last tests in a few words: how many have passed, when the oldest of them was made, and what has failed."""
    tests = device["tests"]
    if not tests:
        return "never tested: domus pool fence-test"
    failed = [f"{test['server']} by {test['by']}: {test['problem']}" for test in tests if test.get("problem")]
    oldest = min(str(test["at"]) for test in tests).replace("T", " ")[:16]
    return "; ".join([f"{len(tests) - len(failed)} of {len(tests)} passed, since {oldest}", *failed])


@click.group("pool")
def pool_group() -> None:
    """Server pools: servers that run each other's virtual machines when one of them dies."""


pool_group.add_command(balance_pool_command)


@pool_group.command("list")
@with_output
def list_command(output: Output) -> None:
    """List server pools."""
    output.rows(connect().get(POOLS)["items"], COLUMNS, empty="There is none: write server_pools into a document")


@pool_group.command("show")
@click.argument("pool", shell_complete=completes(POOLS))
@with_output
def show_command(output: Output, pool: str) -> None:
    """Show a server pool: what was asked, quorum, members, links, fence devices, and what is wrong with what to do about it."""
    told = connect().get(f"{POOLS}/{pool}")
    output.item(told, FIELDS)
    if not output.for_people:
        return
    vms = [{"vm": name, "on": servers} for name, servers in told["vms"].items()]
    for items, columns in (
        (told.get("servers") or [], PLACES),
        (told["members"], MEMBERS),
        (told["links"], LINKS),
        (told["fence_devices"], DEVICES),
        (vms, VMS),
    ):
        if items:
            output.say("")
            output.rows(items, columns, empty="")
    for problem in told["problems"]:
        output.say(f"\n{problem['text']}\n-> {problem['remedy']}")


@pool_group.command("fence-test")
@click.argument("pool", shell_complete=completes(POOLS))
@click.option("--cut", metavar="MEMBER", help="Really cut the power of this member and give it back. Refused while HA VMs run on it.")
@click.option("--yes", is_flag=True, help="Do not ask before the power is cut.")
@with_output
def fence_test_command(output: Output, pool: str, cut: str | None, yes: bool) -> int:
    """Have every member ask every fence device for the power of the others; exit code 1 when one has failed. Nothing is cut.

    The last tests are shown by `domus pool show`.
    """
    if cut and not yes:
        click.confirm(f"The power of {cut} is really cut, and all that runs there ends. Continue?", abort=True)
    told = connect().post(f"{POOLS}/{pool}/fence-test", {"cut": cut} if cut else {})
    if output.for_people:
        output.rows(told["tests"], TESTS, empty="Nobody could ask.")
        for one in told["failed"]:
            output.say(f"{one['by']} could not test: {one['problem']}")
    else:
        output.data(told)
    return 0 if told["passed"] else 1
