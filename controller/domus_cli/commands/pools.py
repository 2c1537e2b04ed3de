"""pool: clustered server pools, their quorum, members, fence devices, and what is wrong in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..output import Output, key, moment
from .common import completes, connect, with_output

POOLS = "/api/v1/server-pools"
COLUMNS = [
    key("NAME", "name"),
    key("STATE", "state"),
    key("QUORATE", "quorate"),
    ("MEMBERS", lambda pool: f"{sum(one['state'] == 'online' for one in pool['members'])} of {len(pool['members'])} online"),
    ("VMS", lambda pool: len(pool["vms"])),
    ("PROBLEMS", lambda pool: len(pool["problems"])),
]
FIELDS = [
    *(key(name, name) for name in ("name", "state", "quorate", "coordinator")),
    ("votes", lambda pool: "{total} of {expected}, {quorum} are needed".format(**pool["votes"]) if pool.get("votes") else None),
    ("told by", lambda pool: f"{pool['told_by']}{' (not heard now)' if pool['stale'] else ''}"),
]
MEMBERS = [
    key("MEMBER", "member"),
    key("STATE", "state"),
    key("SERVER", "server"),
    key("HEARD", "heard"),
    moment("LAST SEEN", "last_seen"),
    key("SEES OTHERWISE", "differs"),
]
LINKS = [key("LINK", "link"), key("FROM", "from"), key("ADDRESS", "address"), key("TO", "member"), key("CONNECTED", "connected")]
DEVICES = [
    key("FENCE DEVICE", "name"),
    key("WATCHED BY", "watched_by"),
    ("LAST TEST", lambda device: [_test(test) for test in device["tests"]] or "never tested"),
]
VMS = [key("VM", "vm"), key("ON", "on")]


def _test(test: Mapping[str, Any]) -> str:
    """A test as people read it: whose power, what came of it, when."""
    outcome = test.get("problem") or f"{'cut and back ' if test.get('cut') else ''}{test['state']}"
    return f"{test['server']}: {outcome} ({str(test['at']).replace('T', ' ')[:16]})"


@click.group("pool")
def pool_group() -> None:
    """Server pools: servers that run each other's virtual machines when one of them dies."""


@pool_group.command("list")
@with_output
def list_command(output: Output) -> None:
    """List server pools."""
    output.rows(connect().get(POOLS)["items"], COLUMNS, empty="No server told of a clustered pool yet: the role server_pool makes one")


@pool_group.command("show")
@click.argument("pool", shell_complete=completes(POOLS))
@with_output
def show_command(output: Output, pool: str) -> None:
    """Show a server pool: quorum, members, links, fence devices, and what is wrong with what to do about it."""
    told = connect().get(f"{POOLS}/{pool}")
    output.item(told, FIELDS)
    if not output.for_people:
        return
    vms = [{"vm": name, "on": servers} for name, servers in told["vms"].items()]
    for items, columns in ((told["members"], MEMBERS), (told["links"], LINKS), (told["fence_devices"], DEVICES), (vms, VMS)):
        if items:
            output.say("")
            output.rows(items, columns, empty="")
    for problem in told["problems"]:
        output.say(f"\n{problem['text']}\n-> {problem['remedy']}")
