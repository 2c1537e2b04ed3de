# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of libvirt's configuration files: NAME = VALUE, a line each; a value is a text in quotes, a number, or a list of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[a-z][a-z0-9_]*")
# A setting in force may be indented and its list go on over lines; one that is commented out is a line like `#max_clients = 5000`.
LIST = r"\[(?:\"[^\"\n]*\"|[^\]\"])*\]"
IN_FORCE = rf"^[ \t]*{{name}}[ \t]*=[ \t]*(?:{LIST}|[^\n]*)"
COMMENTED = r"^#[ \t]*{name}[ \t]*=[^\n]*$"


def edited(text: str, settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The file's text with these settings, and the names of those that were not so before; None is not managed. Raises ValueError."""
    changed = []
    for name, value in settings.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{name}: is not the name of a setting")
        if value is None:
            continue
        line = f"{name} = {_written(name, value)}"
        after = _with(text, name, line)
        if after != text:
            text = after
            changed.append(name)
    return text, changed


def _with(text: str, name: str, line: str) -> str:
    found = list(re.finditer(IN_FORCE.format(name=name), text, re.MULTILINE))
    if found:  # libvirt takes the first; others would only mislead
        for match in reversed(found[1:]):
            text = text[: match.start()] + text[match.end() :].removeprefix("\n")
        return text if found[0].group() == line else text[: found[0].start()] + line + text[found[0].end() :]
    comment = re.search(COMMENTED.format(name=name), text, re.MULTILINE)
    if comment:
        return f"{text[: comment.end()]}\n{line}{text[comment.end() :]}"
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"


def _written(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if '"' in value or not value.isprintable():
            raise ValueError(f"{name}: a text has no quotes and no control characters")
        return f'"{value}"'
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return f"[{', '.join(_written(name, entry) for entry in value)}]"
    raise ValueError(f"{name}: is neither a text, a number, true or false, nor a list of texts")
