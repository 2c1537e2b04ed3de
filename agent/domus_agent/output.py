"""What the command prints: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from domus_core.errors import DomusError


def show(rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print rows, all with the same keys; as JSON a list of them."""
    print_text(json.dumps(list(rows), indent=2) if output == "json" else table(rows))


def show_one(values: Mapping[str, Any], output: str) -> None:
    """Print one thing: a line for each of its values, or a JSON object."""
    if output == "json":
        print_text(json.dumps(values, indent=2))
        return
    width = max(map(len, values), default=0)
    print_text("\n".join(f"{name.replace('_', ' '):<{width}}  {cell(value)}".rstrip() for name, value in values.items()))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns with a heading; nothing to tell is one short line."""
    if not rows:
        return "(nothing)"
    lines = [[name.replace("_", " ").upper() for name in rows[0]], *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip() for line in lines)


def findings(rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """What the doctor found: verdict, check and message in columns that wrap, what to do below."""
    names = max(len(row["check"]) for row in rows)
    lines = []
    for row in rows:
        head = f"{row['verdict']:<4}  {row['check']:<{names}}  "
        lines += _wrapped(head, cell(row["message"]), width)
        lines += _wrapped(f"{'':<{len(head)}}-> ", cell(row["remedy"]), width) if row["remedy"] else []
    return "\n".join(lines)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    indent = " " * len(head)
    return textwrap.wrap(text, max(width, len(head) + 20), initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def cell(value: Any) -> str:
    """A value in one line that no terminal misreads."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def print_text(text: str) -> None:
    """Write to standard output."""
    sys.stdout.write(f"{text}\n")


def tell_changes(changes: Sequence[str], options: Any) -> int:
    """Print what has changed; the exit code: 2 when that is something that was only asked for (`--check`)."""
    show_one({"changes": list(changes)}, options.output)
    return 2 if options.check and changes else 0


def complain(error: DomusError, output: str) -> None:
    """Write an error to standard error: one line, or JSON."""
    sys.stderr.write(f"{json.dumps(error.as_dict()) if output == 'json' else f'error: {error}'}\n")


def remark(text: str) -> None:
    """Write a line for the person who watches to standard error."""
    sys.stderr.write(f"{text}\n")
