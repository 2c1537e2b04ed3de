"""What every command shares: the connection to the manager, and how it prints."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from itertools import islice
from typing import Any

import click
from click.shell_completion import CompletionItem
from domus_core.clients.manager import ManagerClient
from domus_core.errors import DomusError

from ..output import FORMATS, Output
from ..profile import load_profile

Command = Callable[..., Any]
MOST_COMPLETIONS = 200


def with_output(command: Command) -> Command:
    """Give a command `-o` and `--query`, and an Output as its first argument."""

    @click.option("-o", "--output", "format", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print.")
    @click.option("--query", metavar="JMESPATH", help="Print only what this JMESPath expression finds.")
    @functools.wraps(command)
    def run(*arguments: Any, format: str, query: str | None, **options: Any) -> Any:
        return command(Output(format, query), *arguments, **options)

    return run


def connect() -> ManagerClient:
    """The manager of the profile. Raises InvalidSpec for a damaged profile."""
    profile = load_profile(os.environ)
    return ManagerClient(profile.url, profile.token or None, profile.authority)


def listed(manager: ManagerClient, path: str, limit: int | None, **filters: Any) -> list[dict[str, Any]]:
    """The items of a list, all pages, `limit` of them at most."""
    given = {name: value for name, value in filters.items() if value is not None}
    return list(islice(manager.pages(path, **given), limit))


def completes(path: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completes the names of the objects in a list of the API; says nothing when the manager does not answer."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            names = [str(item.get("name") or item["id"]) for item in listed(connect(), path, MOST_COMPLETIONS)]
        except DomusError:
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return complete


limit_option = click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
