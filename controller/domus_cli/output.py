"""What commands print: tables for people, JSON and YAML for programs, and a JMESPath query over both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
import jmespath
from domus_core.documents import dump_document
from domus_core.model.quantities import format_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

FORMATS = ("table", "json", "yaml")
COLOURS = {
    "running": "green",
    "active": "green",
    "succeeded": "green",
    "effective": "green",
    "failed": "red",
    "offline": "red",
    "unknown": "red",
    "disconnected": "yellow",
    "maintenance": "cyan",
    "off": "cyan",
    "error": "red",
    "cancelled": "yellow",
    "queued": "yellow",
    "pending": "yellow",
    "warning": "yellow",
}
# As wide as it needs, like other commands of this trade: a name that is cut or broken can not be copied.
WIDEST = 250
Column = tuple[str, Callable[[Mapping[str, Any]], Any]]


class Output:
    """Prints in the format that was asked for; `query` is a JMESPath expression (https://jmespath.org) or None."""

    def __init__(self, format: str = "table", query: str | None = None, console: Console | None = None) -> None:
        self.format = "json" if query and format == "table" else format
        self.query = _compiled(query) if query else None
        self.console = console or Console(highlight=False, width=WIDEST)

    @property
    def for_people(self) -> bool:
        """Is it a person who reads this?"""
        return self.format == "table"

    def say(self, text: str) -> None:
        """Tell a person something; programs are spared."""
        if self.for_people:
            self.console.print(Text(text), soft_wrap=True)

    def lines(self, lines: Iterable[Text]) -> None:
        """Tell a person several things, as wide as they are."""
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def rows(self, items: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, empty: str) -> None:
        """A list: a table of these columns, or the items as they are."""
        if not self.for_people:
            self.data(list(items))
        elif not items:
            self.say(empty)
        else:
            self._print(table_of(items, columns))

    def item(self, item: Mapping[str, Any], fields: Sequence[Column]) -> None:
        """One object: a field a line, or the object as it is."""
        if not self.for_people:
            self.data(item)
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in fields:
            shown = value(item)
            if shown not in (None, "", [], {}):
                table.add_row(Text(name, style="bold"), _cell(shown))
        self._print(table)

    def line(self, value: Any) -> None:
        """One of many values that come over time, a line each."""
        chosen = value if self.query is None else self.query.search(value)
        self._write(f"---\n{dump_document(chosen)}" if self.format == "yaml" else json.dumps(chosen, ensure_ascii=False) + "\n")

    def data(self, value: Any) -> None:
        """The value as JSON or YAML, queried if a query was given."""
        chosen = value if self.query is None else self.query.search(value)
        self._write(dump_document(chosen) if self.format == "yaml" else json.dumps(chosen, indent=2, ensure_ascii=False) + "\n")

    def _print(self, table: Table) -> None:
        """Print a table without the blanks that fill its last column."""
        with self.console.capture() as captured:
            self.console.print(table, crop=False)
        self._write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()


def table_of(items: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    """The items as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, dummy in columns:
        table.add_column(name, no_wrap=True)
    for item in items:
        table.add_row(*(_cell(value(item)) for dummy, value in columns))
    return table


def _cell(value: Any) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, (list, tuple)):
        return Text(", ".join(str(entry) for entry in value))
    if isinstance(value, Mapping):
        return Text(json.dumps(value, ensure_ascii=False))
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(str(value), style=COLOURS.get(str(value), ""))


def _compiled(query: str) -> Any:
    try:
        return jmespath.compile(query)
    except jmespath.exceptions.JMESPathError as error:
        raise click.BadParameter(f"is not a JMESPath expression: {' '.join(str(error).split())}", param_hint="--query") from None


def key(name: str, *path: str) -> Column:
    """A column that shows what is at this path of an item."""

    def value(item: Mapping[str, Any]) -> Any:
        found: Any = item
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    return name, value


def size(name: str, *path: str) -> Column:
    """A column that shows a number of bytes as people write it."""
    dummy, value = key(name, *path)
    return name, lambda item: None if value(item) is None else format_size(int(value(item)))


def moment(name: str, field: str) -> Column:
    """A column that shows a time, to the second."""
    return name, lambda item: str(item.get(field) or "").replace("T", " ").split(".")[0].rstrip("Z")
