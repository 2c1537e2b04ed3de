"""server: the machines that VMs run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import click

from ..output import Output, key, moment, size
from .common import completes, connect, limit_option, listed, with_output

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
    *(key(name, name) for name in ("address", "port", "tags", "vms", "libvirt")),
    ("agent", _version),
    moment("last seen", "last_seen"),
    ("problems", lambda server: "\n".join(server.get("problems") or ())),
    *(key(name, "facts", name) for name in ("hostname", "cpu_model", "cpus")),
    size("memory", "facts", "memory"),
    *(key(name.replace("_", " "), "facts", name) for name in ("virtualization", "hypervisor", "hypervisor_version", "libvirt_version")),
]


@click.group("server")
def server_group() -> None:
    """Servers: the machines that VMs run on."""


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


@server_group.command("add")
@click.argument("name")
@click.argument("address")
@click.option("--port", type=click.IntRange(1, 65535), default=8899, show_default=True, help="The port of its agent.")
@click.option("--secret", "secret_file", type=click.File(), default="-", help="File of the one-time secret that `domus-agent secret` shows there; - asks.")
@with_output
def add_command(output: Output, name: str, address: str, port: int, secret_file: IO[str]) -> None:
    """Take over a server: from then on it works for this manager alone.

    The one-time secret is shown on the server by `domus-agent secret`.
    """
    asks = secret_file.name == "<stdin>" and secret_file.isatty()
    secret = click.prompt("One-time secret", hide_input=True) if asks else secret_file.read()
    server = connect().post(SERVERS, {"name": name, "address": address, "port": port, "secret": secret.strip()})
    output.item(server, FIELDS)


@server_group.command("maintenance")
@click.argument("server", shell_complete=completes(SERVERS))
@click.argument("mode", type=click.Choice(("on", "off")))
@click.option("--evacuate", is_flag=True, help="Move its VMs to other servers.")
@click.option("--reason", metavar="TEXT", help="Why; shown with the server.")
@with_output
def maintenance_command(output: Output, server: str, mode: str, evacuate: bool, reason: str | None) -> None:
    """Take a server out of use, or back into use.

    In maintenance no VM is placed on it or moved to it; those that are there go on.
    """
    if evacuate and mode == "off":
        raise click.UsageError("--evacuate goes with on")
    body = {"enabled": mode == "on", "evacuate": evacuate, "reason": reason}
    shown = connect().put(f"{SERVERS}/{server}/maintenance", body)
    if output.for_people:
        output.say(f"server {shown['name']} is {'in' if shown['maintenance'] else 'out of'} maintenance")
    else:
        output.data(shown)


@server_group.command("remove")
@click.argument("server", shell_complete=completes(SERVERS))
@click.confirmation_option(prompt="The manager will know nothing of this server any more; its VMs go on. Continue?")
@with_output
def remove_command(output: Output, server: str) -> None:
    """Let a server go: it is free again, and its VMs go on."""
    connect().delete(f"{SERVERS}/{server}")
    output.say(f"server {server} is free")
