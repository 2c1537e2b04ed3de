"""apply, plan, drift, adopt: documents and what they would change."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from domus_core.documents import LARGEST, dump_document, load_document
from domus_core.errors import DomusError, InvalidSpec, Refused, error_from_dict
from domus_core.rendering import render_value

from ..changes import lines_of_plan
from ..following import follow
from ..output import Output, key
from .common import connect, with_output

SOMETHING_TO_CHANGE = 2
LONGEST_VALUE = 40
PLAN_ID = re.compile(r"[0-9a-f-]{36}")
PLAN_FORMAT = "domus-plan-1"


def _read(path: str) -> str:
    try:
        text = sys.stdin.read(LARGEST + 1) if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"can not be read: {getattr(error, 'strerror', None) or 'it is not text'}", object=path) from None
    return text


def _document(path: str) -> Any:
    return load_document(_read(path), name=path)


@click.command("apply")
@click.argument("plan", required=False)
@click.option("-f", "--file", "path", metavar="FILE", help="The site document, YAML or JSON; - is standard input.")
@click.option("--wait-for-address", type=click.IntRange(0, 3600), default=0, metavar="SECONDS", help="Give VMs that are to run so long to get an address.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the job to end.")
@click.option("--reason", default="", help="Why; kept with the job.")
@with_output
def apply_command(output: Output, plan: str | None, path: str | None, wait_for_address: int, no_wait: bool, reason: str) -> int:
    """Make the servers match a document, or carry out a PLAN that `domus plan` made (its file, or its id)."""
    if (plan is None) == (path is None):
        raise click.UsageError("give either -f FILE or a PLAN")
    manager = connect()
    if plan is not None:
        job = manager.post(f"/api/v1/plans/{_plan_id(plan)}/apply", {})
    else:
        job = manager.post("/api/v1/apply", _document(str(path)), wait_for_address=wait_for_address or None, reason=reason or None)
    return follow(manager, job, output, wait=not no_wait)


def _plan_id(plan: str) -> str:
    if not os.path.exists(plan):
        if not PLAN_ID.fullmatch(plan):
            raise InvalidSpec("is neither a file nor the id of a plan", object=plan, remedy="Make a plan with: domus plan -f FILE --out PLAN")
        return plan
    kept = json.loads(_read(plan)) if _read(plan).lstrip().startswith("{") else None
    if not isinstance(kept, dict) or kept.get("format") != PLAN_FORMAT:
        raise InvalidSpec("is not a plan", object=plan, remedy="Make one with: domus plan -f FILE --out PLAN; a document is applied with -f")
    return str(kept["id"])


@click.command("plan")
@click.option("-f", "--file", "path", required=True, metavar="FILE", help="The site document, YAML or JSON; - is standard input.")
@click.option("--out", "plan", metavar="PLAN", help="Keep the plan, for: domus apply PLAN")
@with_output
def plan_command(output: Output, path: str, plan: str | None) -> int:
    """Show what applying a document would change; nothing is changed. Exit code 2: there is something to change."""
    made = connect().post("/api/v1/plans", _document(path))
    if not output.for_people:
        output.data(made)
    elif not made["errors"]:
        output.lines(lines_of_plan(made["objects"]))
    if made["errors"]:
        raise _refused(made["errors"])
    if plan is not None:
        _keep(plan, made["id"])
        output.say(f"To carry out exactly this: domus apply {plan}")
    return SOMETHING_TO_CHANGE if made["changed"] else 0


def _refused(errors: list[dict[str, Any]]) -> DomusError:
    """What can not be done, all of it."""
    made = [error_from_dict(error) for error in errors]
    return made[0] if len(made) == 1 else Refused(made)


def _keep(plan: str, plan_id: str) -> None:
    try:
        Path(plan).write_text(json.dumps({"format": PLAN_FORMAT, "id": plan_id}) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"can not be written: {error.strerror}", object=plan, remedy=f"The plan itself is kept: domus apply {plan_id}") from None


@click.command("drift", short_help="Show where asked, recorded, defined and running differ.")
@click.option("--server", metavar="NAME", help="Only on this server.")
@with_output
def drift_command(output: Output, server: str | None) -> int:
    """Show where what was asked for, what is recorded, what is defined and what runs differ. Exit code 2: they do somewhere."""
    found = list(connect().pages("/api/v1/drift", **({"server": server} if server else {})))
    rows = [{"kind": one["kind"], "name": one["name"], "server": one["server"], **field} for one in found for field in one["drift"]]
    columns = [key(name.upper(), name) for name in ("kind", "name", "server", "field")]
    columns += [(name.upper(), functools.partial(_value, name)) for name in ("asked", "recorded", "defined", "running")]
    if output.for_people:
        output.rows(rows, columns, empty="No drift: everything is as it was asked for, defined and running alike.")
    else:
        output.data(found)
    return SOMETHING_TO_CHANGE if found else 0


def _value(name: str, row: Mapping[str, Any]) -> str:
    """A value as people write it, and not longer than fits beside three others."""
    text = "" if row.get(name) is None else render_value(str(row["field"]), row[name])
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


@click.command("adopt", short_help="Write the document of VMs that ran before Domus came.")
@click.argument("names", nargs=-1, metavar="[VM ...]")
@click.option("--server", required=True, metavar="NAME", help="The server they run on.")
@click.option("--site", help="The site they will belong to (default: the manager's).")
@with_output
def adopt_command(output: Output, names: tuple[str, ...], server: str, site: str | None) -> None:
    """Write the document of VMs that ran before Domus came (none named: all that Domus does not manage). Changes nothing: apply it, and Domus manages them."""
    adopted = connect().post(f"/api/v1/servers/{server}/adopt", {"vms": list(names) or None, "site": site})
    if not output.for_people:
        output.data(adopted)
        return
    click.echo(dump_document(adopted["document"]), nl=False)
    for name, places in adopted["not_managed"].items():
        for place in places:
            click.echo(f"# not managed, stays as it is: vm {name}: {place}")
