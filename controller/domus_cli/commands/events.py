"""event: what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from ..output import Output, key, moment
from .common import connect, limit_option, listed, with_output

EVENTS = "/api/v1/events"


def _object(event: Mapping[str, Any]) -> str:
    named = event.get("object") or {}
    return f"{named['kind']} {named['key']}" if named else ""


def _details(event: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in (event.get("data") or {}).items() if value not in (None, ""))


COLUMNS = [
    key("ID", "id"),
    moment("AT", "at"),
    key("SEVERITY", "severity"),
    key("KIND", "kind"),
    key("SERVER", "server"),
    ("OBJECT", _object),
    ("DETAILS", _details),
]


@click.group("event")
def event_group() -> None:
    """Events: what happened, as the servers told it."""


def _filtered(command: Any) -> Any:
    """The options that choose among events."""
    for option in (
        click.option("--severity", type=click.Choice(["info", "warning", "error"]), help="Only of this severity."),
        click.option("--object", "object_", metavar="NAME", help="Only of this object."),
        click.option("--server", metavar="NAME", help="Only of this server."),
        click.option("--kind", metavar="KIND", help="Only of this kind, such as vm.started; 'vm.*' are all of VMs."),
    ):
        command = option(command)
    return command


@event_group.command("list")
@_filtered
@limit_option
@with_output
def list_command(output: Output, limit: int | None, object_: str | None, **filters: str | None) -> None:
    """List events, the newest first."""
    output.rows(listed(connect(), EVENTS, limit or 50, object=object_, **filters), COLUMNS, empty="Nothing happened yet.")


@event_group.command("watch")
@_filtered
@with_output
def watch_command(output: Output, object_: str | None, **filters: str | None) -> None:
    """Show events as they come; Ctrl-C ends it."""
    for dummy, kind, text in connect().stream(f"{EVENTS}/stream", object=object_, **filters):
        if kind != "event":
            continue
        event = json.loads(text)
        if output.for_people:
            texts = [str(value(event) or "") for dummy_name, value in COLUMNS[1:]]
            output.say("  ".join(text for text in texts if text))
        else:
            output.line(event)
