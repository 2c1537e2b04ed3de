"""job: what the manager did, does and will do."""

from __future__ import annotations

import click

from ..following import ENDED, follow, state_of
from ..output import Output, key, moment
from .common import connect, limit_option, listed, with_output

JOBS = "/api/v1/jobs"
COLUMNS = [
    key("ID", "id"),
    key("KIND", "kind"),
    key("STATE", "state"),
    key("CHANGED", "changed"),
    key("BY", "created_by"),
    moment("CREATED", "created_at"),
    moment("FINISHED", "finished_at"),
    ("OBJECTS", lambda job: ", ".join(one["name"] for one in (job.get("objects") or [])[:3]) + ("..." if len(job.get("objects") or []) > 3 else "")),
    key("WAITING FOR", "waiting_for"),
]
FIELDS = [
    *(key(name, name) for name in ("id", "kind", "state", "changed", "check", "created_by", "reason", "waiting_for", "relaunch_of")),
    *(moment(name.replace("_at", ""), name) for name in ("created_at", "started_at", "finished_at")),
    ("objects", lambda job: [f"{one['kind']} {one['name']}" for one in job.get("objects") or ()]),
    ("error", lambda job: (job.get("error") or {}).get("message")),
    ("what to do", lambda job: (job.get("error") or {}).get("remedy")),
]


@click.group("job")
def job_group() -> None:
    """Jobs: what the manager did, does and will do."""


@job_group.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]), help="Only in this state.")
@click.option("--kind", metavar="KIND", help="Only of this kind: apply, start, stop ...")
@limit_option
@with_output
def list_command(output: Output, limit: int | None, **filters: str | None) -> None:
    """List jobs, the newest first."""
    output.rows(listed(connect(), JOBS, limit or 50, **filters), COLUMNS, empty="There are no jobs.")


@job_group.command("show")
@click.argument("job")
@with_output
def show_command(output: Output, job: str) -> None:
    """Show one job."""
    output.item(connect().get(f"{JOBS}/{job}"), FIELDS)


@job_group.command("tail")
@click.argument("job")
@with_output
def tail_command(output: Output, job: str) -> int:
    """Follow a job until it ends, from its beginning."""
    manager = connect()
    return follow(manager, manager.get(f"{JOBS}/{job}"), output, wait=True)


@job_group.command("cancel")
@click.argument("job")
@with_output
def cancel_command(output: Output, job: str) -> int:
    """Cancel a job: what it has not begun is not done."""
    manager = connect()
    manager.post(f"{JOBS}/{job}/cancel", {})
    ended = manager.get(f"{JOBS}/{job}", wait=30)
    if not output.for_people:
        output.data(ended)
    elif ended["state"] == "cancelled" or ended["state"] not in ENDED:
        output.say(f"job {job}: {'cancelled' if ended['state'] == 'cancelled' else 'is being cancelled'}")
    else:
        output.say(f"job {job} had ended already: {state_of(ended)}")
    return 0


@job_group.command("relaunch")
@click.argument("job")
@click.option("--no-wait", is_flag=True, help="Do not wait for it to end.")
@with_output
def relaunch_command(output: Output, job: str, no_wait: bool) -> int:
    """Do again what a job that did not succeed was to do."""
    manager = connect()
    return follow(manager, manager.post(f"{JOBS}/{job}/relaunch", {}), output, wait=not no_wait)
