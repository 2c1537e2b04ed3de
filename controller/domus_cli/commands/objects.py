"""A list and a show command for each kind that is not a VM or a server; the kinds' own table names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click
from domus_core.model.fields import public_fields
from domus_core.model.kind import Kind
from domus_core.model.kinds import KINDS

from ..output import Column, Output, key, moment, size
from .common import completes, connect, limit_option, listed, with_output

SIZES = frozenset({"size"})
# What is shown otherwise, or is no more than a word of one document.
HIDDEN = frozenset({"name", "state", "servers", "adopted", "description", "force_unmount"})
# Every server has disks of its own; the others are one object under their name, on many servers.
OF_ONE_SERVER = frozenset({"virtual_disk"})


def kind_groups() -> Iterable[click.Group]:
    """The command groups of the kinds."""
    return [_group(kind) for kind in KINDS if kind.name not in ("vm", "server", "server_pool")]


def _group(kind: Kind) -> click.Group:
    path = f"/api/v1/{kind.section.replace('_', '-')}"
    site = None if kind.name in OF_ONE_SERVER else f"/api/v1/site/{kind.section}"
    group = click.Group(kind.name.replace("_", "-"), help=kind.doc)
    own = [_column(field.name) for field in public_fields(kind.spec) if field.name not in HIDDEN]
    shown = [(name.upper(), value) for name, value in own[:4]]

    @group.command("list")
    @click.option("--server", metavar="NAME", help="Only on this server, as they are there.")
    @limit_option
    @with_output
    def list_command(output: Output, limit: int | None, server: str | None) -> None:
        """List them."""
        if site is None or server is not None:
            columns = [key("NAME", "name"), key("STATE", "state"), key("SERVER", "server"), *shown]
            output.rows(listed(connect(), path, limit, server=server), columns, empty="There are none.")
        else:
            columns = [key("NAME", "name"), ("STATE", _states), key("SERVERS", "count"), ("NOTES", _notes), *shown]
            output.rows(listed(connect(), site, limit), columns, empty="There are none.")

    @group.command("show")
    @click.argument("name", shell_complete=completes(site or path))
    @click.option("--server", metavar="NAME", help="As it is on this server.")
    @with_output
    def show_command(output: Output, name: str, server: str | None) -> None:
        """Show one."""
        if site is None or server is not None:
            fields = [*(key(field, field) for field in ("name", "id", "state", "server", "site")), *own, moment("changed", "changed_at")]
            output.item(connect().get(f"{path}/{name}", **({} if server is None else {"server": server})), fields)
            return
        found = connect().get(f"{site}/{name}")
        output.item(found, [key("name", "name"), ("state", _states), key("servers", "count"), ("notes", _notes), *own])
        if output.for_people:
            output.say("")
            output.rows(found["servers"], _places(found["servers"]), empty="It is on no server.")

    return group


def _places(servers: Iterable[Mapping[str, Any]]) -> list[Column]:
    """The columns that these servers have something to say in."""
    columns = [key("SERVER", "server"), ("STATE", _state), size("CAPACITY", "capacity"), size("FREE", "free"), ("NOTES", _remarks)]
    return [column for column in columns if column[0] in ("SERVER", "STATE", "NOTES") or any(column[1](one) is not None for one in servers)]


def _state(place: Mapping[str, Any]) -> str:
    """Its state there; of a silent server what it told last."""
    return f"{place['state'] or 'missing'}{'?' if place.get('stale') else ''}"


def _remarks(place: Mapping[str, Any]) -> str:
    drift = [f"drift: {', '.join(place['drift'])}"] if place.get("drift") else []
    drift += [f"differs: {', '.join(place['differs'])}"] if place.get("differs") else []
    return "; ".join([*drift, *([place["problem"]] if place.get("problem") else []), *(["server silent"] if place.get("stale") else [])])


def _states(item: Mapping[str, Any]) -> str:
    """The one state, or how many servers have which."""
    states = item.get("states") or {}
    return next(iter(states)) if len(states) == 1 else ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _notes(item: Mapping[str, Any]) -> str:
    drifted = [f"{item['drifted']} not as wanted"] if item.get("drifted") else []
    return "; ".join([*drifted, *([item["problem"]] if item.get("problem") else [])])


def _column(field: str) -> Column:
    return size(field, "spec", field) if field in SIZES else key(field, "spec", field)
