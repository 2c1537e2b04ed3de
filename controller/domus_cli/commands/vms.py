"""vm: look at virtual machines, and start, stop and reach them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from domus_core.errors import error_from_dict
from domus_core.verbs import VERBS, Verb

from ..console import attach
from ..following import follow, follow_all
from ..output import Output, key, moment, size
from .common import completes, connect, limit_option, listed, with_output

VMS = "/api/v1/vms"


def _waits(vm: Mapping[str, Any]) -> str:
    marks = ["server silent"] if vm.get("stale") else []
    marks += ["restart required"] if vm.get("restart_required") else []
    marks += ["drift"] if vm.get("drift") else []
    marks += ["conflict"] if vm.get("conflict") else []
    marks += ["request failed"] if (vm.get("request") or {}).get("state") == "failed" else []
    return ", ".join(marks)


def _state(vm: Mapping[str, Any]) -> str:
    """What it does; of a server that is silent what it did when that was heard last."""
    return f"{vm['state']}?" if vm.get("stale") else vm["state"]


COLUMNS = [
    key("NAME", "name"),
    ("STATE", _state),
    key("SERVER", "server"),
    key("ADDRESSES", "addresses"),
    key("CPUS", "spec", "cpus"),
    size("MEMORY", "spec", "memory"),
    ("NOTES", _waits),
]
FIELDS = [
    *(key(name, name) for name in ("name", "id")),
    ("state", _state),
    *(key(name, name) for name in ("server", "site", "generation", "addresses", "restart_required")),
    key("description", "spec", "description"),
    key("tags", "spec", "tags"),
    key("cpus", "spec", "cpus"),
    size("memory", "spec", "memory"),
    ("disks", lambda vm: [f"{one['name']} ({one.get('file') or one.get('virtual_disk')})" for one in vm["spec"].get("disks", ())]),
    ("nics", lambda vm: [f"{one['name']} on {one.get('network') or one.get('bridge')} ({one.get('mac')})" for one in vm["spec"].get("nics", ())]),
    ("drift", lambda vm: [field["field"] for field in vm.get("drift") or ()]),
    ("notes", _waits),
    ("request", lambda vm: ((vm.get("request") or {}).get("error") or {}).get("message")),
    moment("changed", "changed_at"),
]


@click.group("vm")
def vm_group() -> None:
    """Virtual machines."""


@vm_group.command("list")
@click.option("--server", metavar="NAME", help="Only on this server.")
@click.option("--state", metavar="STATE", help="Only in this run state.")
@click.option("--tag", metavar="TAG", help="Only with this tag.")
@click.option("--site", metavar="SITE", help="Only of this site.")
@limit_option
@with_output
def list_command(output: Output, limit: int | None, **filters: str | None) -> None:
    """List virtual machines."""
    output.rows(listed(connect(), VMS, limit, **filters), COLUMNS, empty="There are no virtual machines.")


@vm_group.command("show")
@click.argument("vm", shell_complete=completes(VMS))
@with_output
def show_command(output: Output, vm: str) -> None:
    """Show one virtual machine."""
    output.item(connect().get(f"{VMS}/{vm}"), FIELDS)


@vm_group.command("console")
@click.argument("vm", shell_complete=completes(VMS))
@click.option("--force", is_flag=True, help="Take it from somebody else who has it open.")
def console_command(vm: str, force: bool) -> None:
    """Open the serial console of a virtual machine; Ctrl-] ends it."""
    attach(connect(), vm, force=force)


@vm_group.command("migrate")
@click.argument("vm", shell_complete=completes(VMS))
@click.argument("server", required=False, shell_complete=completes("/api/v1/servers"))
@click.option("--copy-storage", is_flag=True, help="Copy the disks that lie on storage of the source's own.")
@click.option("--bandwidth", type=click.IntRange(1), metavar="MIB", help="MiB/s at most.")
@click.option("--downtime", type=click.IntRange(1), metavar="MS", help="Milliseconds it may stand still for the last step (default: 300).")
@click.option("--multifd", type=click.IntRange(1, 255), metavar="N", help="Connections that carry the memory side by side.")
@click.option("--post-copy", is_flag=True, help="After the first pass go on at the destination, and fetch the rest of the memory from there.")
@click.option("--timeout", type=click.IntRange(1, 86400), metavar="SECONDS", help="Give it up after so long; the VM stays where it is.")
@click.option("--check", is_flag=True, help="Only say whether and how it would get there; exit code 1 when it can not.")
@click.option("--no-wait", is_flag=True, help="Do not wait for it to be done.")
@with_output
def migrate_command(output: Output, vm: str, server: str | None, check: bool, no_wait: bool, **options: Any) -> int:
    """Move a virtual machine to another server while it runs: the one that is named, else where there is room for it."""
    manager = connect()
    body = {**({"server": server} if server else {}), **{name: value for name, value in options.items() if value}}
    if not check:
        return follow(manager, manager.post(f"{VMS}/{vm}/migrate", body), output, wait=not no_wait)
    told = manager.post(f"{VMS}/{vm}/migrate?check=true", body)
    if not output.for_people:
        output.data(told)
        return 0 if told["possible"] else 1
    _tell_check(vm, told, output)
    return 0 if told["possible"] else 1


def _tell_check(vm: str, told: Mapping[str, Any], output: Output) -> None:
    for error in told["errors"]:
        output.say(f"error ({error.get('code', 'error')}): {error_from_dict(error)}")
    plan = told["plan"]
    if plan is None:
        output.say(f"{vm} can not be moved to {told['server'] or 'any server'}.")
        return
    for warning in plan["warnings"]:
        output.say(f"warning: {warning}")
    copied = f"; copies the disks {', '.join(plan['copied'])}" if plan["copied"] else ""
    output.say(f"{vm} can be moved to {told['server']} ({plan['way']}, about {plan['bytes'] >> 20} MiB{copied}).")


def _add_verb(verb: Verb) -> None:
    @vm_group.command(verb.name, help=verb.doc)
    @click.argument("vms", nargs=-1, required=True, metavar="VM ...", shell_complete=completes(VMS))
    @click.option("--timeout", type=click.IntRange(0, 86400), metavar="SECONDS", help="How long the guest gets to shut down by itself.")
    @click.option("--force", is_flag=True, help="Power it off when it does not.")
    @click.option("--no-wait", is_flag=True, help="Do not wait for it to be done.")
    @with_output
    def run(output: Output, vms: tuple[str, ...], timeout: int | None, force: bool, no_wait: bool) -> int:
        manager = connect()
        body = {"force": force, **({"timeout": timeout} if timeout is not None else {})}
        jobs = [manager.post(f"{VMS}/{vm}/{verb.name}", body) for vm in vms]
        return follow_all(manager, jobs, output, wait=not no_wait)


for _verb in VERBS.values():
    _add_verb(_verb)
