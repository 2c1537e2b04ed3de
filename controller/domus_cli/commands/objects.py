"""A list and a show command for each kind that is not a VM or a server; the kinds' own table names them."""

from __future__ import annotations

from collections.abc import Iterable

import click
from domus_core.model.fields import fields_of
from domus_core.model.kind import Kind
from domus_core.model.kinds import KINDS

from ..output import Column, Output, key, moment, size
from .common import completes, connect, limit_option, listed, with_output

SIZES = frozenset({"size"})
HIDDEN = frozenset({"name", "state", "servers", "adopted", "description"})


def kind_groups() -> Iterable[click.Group]:
    """The command groups of the kinds."""
    return [_group(kind) for kind in KINDS if kind.name not in ("vm", "server")]


def _group(kind: Kind) -> click.Group:
    path = f"/api/v1/{kind.section.replace('_', '-')}"
    group = click.Group(kind.name.replace("_", "-"), help=kind.doc)
    own = [_column(field.name) for field in fields_of(kind.spec) if field.name not in HIDDEN]
    columns = [key("NAME", "name"), key("STATE", "state"), key("SERVER", "server"), *((name.upper(), value) for name, value in own[:4])]

    @group.command("list")
    @click.option("--server", metavar="NAME", help="Only on this server.")
    @limit_option
    @with_output
    def list_command(output: Output, limit: int | None, server: str | None) -> None:
        """List them."""
        output.rows(listed(connect(), path, limit, server=server), columns, empty="There are none.")

    @group.command("show")
    @click.argument("name", shell_complete=completes(path))
    @with_output
    def show_command(output: Output, name: str) -> None:
        """Show one."""
        fields = [*(key(field, field) for field in ("name", "id", "state", "server", "site")), *own, moment("changed", "changed_at")]
        output.item(connect().get(f"{path}/{name}"), fields)

    return group


def _column(field: str) -> Column:
    return size(field, "spec", field) if field in SIZES else key(field, "spec", field)
