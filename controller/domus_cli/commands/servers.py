"""server: the machines that VMs run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import click
from domus_core.errors import DomusError, error_from_dict

from ..following import follow
from ..output import Output, key, moment
from .balancing import balance_command
from .common import completes, connect, limit_option, listed, with_output
from .server_facts import FACTS
from .server_statistics import statistics_command

SERVERS = "/api/v1/servers"


def _version(server: Mapping[str, Any]) -> str | None:
    """The agent's version; marked when the manager is newer."""
    return f"{server['version']} (behind)" if server.get("behind") else server.get("version")


COLUMNS = [
    key("NAME", "name"),
    key("STATE", "state"),
    key("ADDRESS", "address"),
    key("VMS", "vms"),
    key("LIBVIRT", "libvirt"),
    ("AGENT", _version),
    moment("LAST SEEN", "last_seen"),
]
FIELDS = [
    *(key(name, name) for name in ("name", "id", "state")),
    moment("since", "state_since"),
    ("maintenance", lambda server: (server.get("maintenance_reason") or True) if server.get("maintenance") else None),
    ("off", lambda server: "by {by} since {at}: {reason}".format(**server["powered_off"]) if server.get("powered_off") else None),
    *(key(name, name) for name in ("address", "port", "pool", "tags", "vms", "libvirt")),
    ("agent", _version),
    moment("last seen", "last_seen"),
    moment("certificate until", "certificate_ends_at"),
    moment("libvirt's until", "libvirt_certificate_ends_at"),
    key("revoked", "revoked"),
    ("problems", lambda server: "\n".join(server.get("problems") or ())),
    *FACTS,
]
DISCOVERED = [
    key("ADDRESS", "address"),
    key("PORT", "port"),
    key("NAME", "name"),
    key("OWNED", "owned"),
    key("OURS", "ours"),
    key("KNOWN AS", "known_as"),
    key("VERSION", "version"),
    key("SERVER", "server"),
]
DISCOVERED_FIELDS = [
    *(key(name.replace("_", " "), name) for name in ("address", "port", "fingerprint", "server", "name", "version", "protocols", "host_uuid")),
    *(key(name.replace("_", " "), name) for name in ("owned", "manager", "ours", "known_as")),
    moment("certificate until", "certificate_ends_at"),
]


MOVES = [
    key("VM", "vm"),
    key("TO", "server"),
    ("WHY", lambda move: move["reason"] if move["possible"] else "; ".join(str(error_from_dict(error)) for error in move["errors"])),
]


GROUPS = [
    key("GROUP", "name"),
    ("SERVERS", lambda group: ", ".join(one["server"] if one.get("cpu") else f"{one['server']} (not told)" for one in group["members"])),
    ("BASELINE", lambda group: _cpu(group["baseline"]) if group["baseline"] else f"none: {group['problem']}"),
]


def _cpu(cpu: Mapping[str, Any]) -> str:
    """As people write CPUs: the model, what is added and what is taken away."""
    return " ".join([cpu["model"], *(f"+{name}" for name in cpu.get("require") or ()), *(f"-{name}" for name in cpu.get("disable") or ())])


def _choosing_what_moves(command: Any) -> Any:
    """The options that say which VMs an evacuation moves, and how."""
    copying = click.option("--copy-storage", is_flag=True, help="Copy the disks that lie on storage of the server's own.")
    stopped = click.option("--stopped", is_flag=True, help="Move stopped ones, too, where their disks can be reached; those that can not stay.")
    return copying(stopped(command))


@click.group("server")
def server_group() -> None:
    """Servers: the machines that VMs run on."""


server_group.add_command(statistics_command)
server_group.add_command(balance_command)


@server_group.command("list")
@limit_option
@with_output
def list_command(output: Output, limit: int | None) -> None:
    """List servers."""
    output.rows(listed(connect(), SERVERS, limit), COLUMNS, empty="There are no servers yet: domus server add")


@server_group.command("show")
@click.argument("server", shell_complete=completes(SERVERS))
@with_output
def show_command(output: Output, server: str) -> None:
    """Show one server."""
    output.item(connect().get(f"{SERVERS}/{server}"), FIELDS)


@server_group.command("cpu-groups")
@with_output
def cpu_groups_command(output: Output) -> None:
    """List the CPU compatibility groups, and the CPU that all servers of each have."""
    output.rows(connect().get("/api/v1/cpu-groups")["items"], GROUPS, empty="No server has told its CPU yet.")


@server_group.command("discover")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--port", type=click.IntRange(1, 65535), default=8899, show_default=True, help="The port of the agents.")
@with_output
def discover_command(output: Output, addresses: tuple[str, ...], port: int) -> None:
    """Look who answers at addresses, free or owned, and with which fingerprint. Nothing is changed there.

    Compare the fingerprint with what `domus-agent secret` shows on the server before its colon.
    """
    client = connect()
    if len(addresses) == 1:
        output.item(client.post(f"{SERVERS}/discover", {"address": addresses[0], "port": port}), DISCOVERED_FIELDS)
        return
    found, silent = [], []
    for address in addresses:
        try:
            found.append(client.post(f"{SERVERS}/discover", {"address": address, "port": port}))
        except DomusError as error:
            if error.code not in ("unreachable", "invalid_spec"):
                raise
            silent.append(f"{address}: {error}")
    output.rows(found, DISCOVERED, empty="Nobody answers.")
    for one in silent:
        click.echo(one, err=True)
    if silent:
        raise click.exceptions.Exit(1)


@server_group.command("add")
@click.argument("name")
@click.argument("address")
@click.option("--port", type=click.IntRange(1, 65535), default=8899, show_default=True, help="The port of its agent.")
@click.option("--secret", "secret_file", type=click.File(), default="-", help="File of the one-time secret that `domus-agent secret` shows there; - asks.")
@click.option("--pool", default="default", show_default=True, help="Servers of one pool trust each other's libvirt: VMs migrate among them.")
@click.option("--replace", is_flag=True, help="It is the server of that name, reinstalled: the old one's record is buried, its certificates are revoked.")
@with_output
def add_command(output: Output, name: str, address: str, port: int, secret_file: IO[str], pool: str, replace: bool) -> None:
    """Take over a server: from then on it works for this manager alone.

    The one-time secret is shown on the server by `domus-agent secret`.
    """
    asks = secret_file.name == "<stdin>" and secret_file.isatty()
    secret = click.prompt("One-time secret", hide_input=True) if asks else secret_file.read()
    # A manager that is older than this command knows neither.
    more = {**({"pool": pool} if pool != "default" else {}), **({"replace": True} if replace else {})}
    server = connect().post(SERVERS, {"name": name, "address": address, "port": port, "secret": secret.strip(), **more})
    output.item(server, FIELDS)


@server_group.command("evacuate")
@click.argument("server", shell_complete=completes(SERVERS))
@click.option("--check", is_flag=True, help="Only show where each VM would go, and why; exit code 1 when one of them can not.")
@click.option("--at-once", type=click.IntRange(1, 64), metavar="N", help="How many move at the same time (default: 2).")
@_choosing_what_moves
@click.option("--no-wait", is_flag=True, help="Do not wait for it to be done.")
@with_output
def evacuate_command(output: Output, server: str, check: bool, at_once: int | None, no_wait: bool, **choices: bool) -> int:
    """Move the running virtual machines of a server to others, a few at a time; nothing moves when one of them can not."""
    manager = connect()
    body = {**({"at_once": at_once} if at_once else {}), **_chosen(choices)}
    if not check:
        return follow(manager, manager.post(f"{SERVERS}/{server}/evacuate", body), output, wait=not no_wait)
    plan = manager.post(f"{SERVERS}/{server}/evacuate?check=true", body)
    if output.for_people:
        _show_plan(plan, output)
    else:
        output.data(plan)
    return 0 if plan["possible"] else 1


def _chosen(choices: Mapping[str, bool]) -> dict[str, bool]:
    """What was chosen, as the body says it; what was not is left out, since an older manager does not know it."""
    return {name: True for name, wanted in choices.items() if wanted}


def _show_plan(plan: Mapping[str, Any], output: Output) -> None:
    output.rows(plan["moves"], MOVES, empty=f"Nothing moves from {plan['server']}.")
    for one in plan.get("staying") or ():
        output.say(f"vm {one['vm']} stays: {one['reason']}")


@server_group.command("power-off")
@click.argument("server", shell_complete=completes(SERVERS))
@click.option("--reason", metavar="TEXT", help="Why; shown with the server.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Do not wait for it to be done.")
@with_output
def power_off_command(output: Output, server: str, reason: str | None, yes: bool, no_wait: bool) -> int:
    """Switch a server off in order, which is refused while virtual machines run on it; its silence alarms nobody then.

    In a clustered pool it leaves first, so that nobody cuts its power. Empty it before: domus server evacuate.
    """
    if not yes:
        click.confirm(f"Server {server} is switched off. Continue?", abort=True)
    manager = connect()
    return follow(manager, manager.post(f"{SERVERS}/{server}/power-off", reason=reason), output, wait=not no_wait)


@server_group.command("power-on")
@click.argument("server", shell_complete=completes(SERVERS))
@click.option("--reason", metavar="TEXT", help="Why; kept with the job.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is heard.")
@with_output
def power_on_command(output: Output, server: str, reason: str | None, no_wait: bool) -> int:
    """Wake a server: by a fence device of its pool, or else by a magic packet to its network card (wake-on-LAN)."""
    manager = connect()
    return follow(manager, manager.post(f"{SERVERS}/{server}/power-on", reason=reason), output, wait=not no_wait)


@server_group.command("what-if")
@click.argument("server", shell_complete=completes(SERVERS))
@with_output
def what_if_command(output: Output, server: str) -> int:
    """Show where the virtual machines of a server would start again if it died; exit code 1 when there is no place for one of them."""
    plan = connect().get(f"{SERVERS}/{server}/loss")
    if output.for_people:
        output.rows(plan["moves"], MOVES, empty=f"There is no VM on {plan['server']}.")
    else:
        output.data(plan)
    return 0 if plan["possible"] else 1


@server_group.command("maintenance")
@click.argument("server", shell_complete=completes(SERVERS))
@click.argument("mode", type=click.Choice(("on", "off")))
@click.option("--evacuate", is_flag=True, help="Move its VMs to other servers; where each goes is shown first.")
@_choosing_what_moves
@click.option("--reason", metavar="TEXT", help="Why; shown with the server.")
@with_output
def maintenance_command(output: Output, server: str, mode: str, evacuate: bool, reason: str | None, **choices: bool) -> int:
    """Take a server out of use, or back into use.

    In maintenance no VM is placed on it or moved to it; those that are there go on.
    """
    if evacuate and mode == "off":
        raise click.UsageError("--evacuate goes with on")
    if any(choices.values()) and not evacuate:
        raise click.UsageError("--copy-storage and --stopped go with --evacuate")
    body = {"enabled": mode == "on", "evacuate": evacuate, "reason": reason, **_chosen(choices)}
    manager = connect()
    if evacuate and output.for_people:
        _show_plan(manager.post(f"{SERVERS}/{server}/evacuate?check=true", _chosen(choices)), output)
    shown = manager.put(f"{SERVERS}/{server}/maintenance", body)
    if "kind" in shown:
        return follow(manager, shown, output, wait=True)
    if output.for_people:
        output.say(f"server {shown['name']} is {'in' if shown['maintenance'] else 'out of'} maintenance")
    else:
        output.data(shown)
    return 0


@server_group.command("renew")
@click.argument("server", shell_complete=completes(SERVERS))
@click.option("--pool", help="The pool that it belongs to from now on; `tls_allowed_dn_list` on it must be changed, too (role server).")
@with_output
def renew_command(output: Output, server: str, pool: str | None) -> None:
    """Give a server new certificates now. That happens by itself, too, 90 days before they end."""
    output.item(connect().post(f"{SERVERS}/{server}/renew", {} if pool is None else {"pool": pool}), FIELDS)


@server_group.command("revoke")
@click.argument("server", shell_complete=completes(SERVERS))
@click.confirmation_option(prompt="Nobody will accept a certificate of this server any more, and the manager can not reach it. Continue?")
@with_output
def revoke_command(output: Output, server: str) -> None:
    """Accept no certificate of a server any more: it was stolen, or is in wrong hands.

    The other servers refuse it within 10 seconds. It comes back as a new one: reinstall it, then `domus server add --replace`.
    """
    output.item(connect().post(f"{SERVERS}/{server}/revoke"), FIELDS)


@server_group.command("remove")
@click.argument("server", shell_complete=completes(SERVERS))
@click.confirmation_option(prompt="The manager will know nothing of this server any more; its VMs go on. Continue?")
@click.option("--forget", is_flag=True, help="Also when it does not answer: its certificates are revoked.")
@with_output
def remove_command(output: Output, server: str, forget: bool) -> None:
    """Let a server go: it is free again, and its VMs go on."""
    connect().delete(f"{SERVERS}/{server}", forget=True if forget else None)
    output.say(f"server {server} is {'forgotten' if forget else 'free'}")
