"""A remedy that names a command is of use only if there is such a command: each one that is named anywhere is looked up in its command line."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from domus_agent.__main__ import parser as agent_parser
from domus_cli.commands import domus
from domus_controller.__main__ import command_line

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("plugins", "agent", "controller") for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = [path for folder in ("docs", "roles", "playbooks", "examples") for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".md", ".yml")]
NAMED = re.compile(r"(?<![\w./@:-])(domus|domus-agent|domus-manager) ((?:-{0,2}[a-z][a-z-]*(?:[ ]|\b))+)")
# In a text a command is what is typed: in a line of a code block, or between backticks.
TYPED = re.compile(r"`([^`\n]+)`|^(?:\s*[-|]?\s*(?:sudo )?)((?:domus|domus-agent|domus-manager) [a-z].*)$", re.MULTILINE)

# What follows these are names of units of systemd.
OF_UNITS = re.compile(r"\b(systemctl|journalctl)\b[^`]*$")

# Words after the name of a program that are plain English.
ENGLISH = frozenset({"command", "on"})

Look = Callable[[list[str]], "str | None"]


def _in_click(words: list[str]) -> str | None:
    """What is wrong with the words of a `domus` command; None when nothing is."""
    command: Any = domus
    while isinstance(command, click.Group) and words and words[0] != "--help":
        if words[0] not in command.commands:
            return f"{command.name} has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return _options(words, known)


def _in_argparse(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """The same of a command of argparse."""
    while words and (below := next((one for one in parser._actions if isinstance(one, argparse._SubParsersAction)), None)) is not None:
        if words[0] not in below.choices:
            return f"{parser.prog} has no command {words[0]}"
        parser, words = below.choices[words[0]], words[1:]
    return _options(words, set(parser._option_string_actions))


def _options(words: list[str], known: set[str]) -> str | None:
    unknown = [word for word in words if word.startswith("--") and word not in known]
    return f"has no option {unknown[0]}" if unknown else None


PROGRAMS: dict[str, Look] = {
    "domus": _in_click,
    "domus-agent": lambda words: _in_argparse(agent_parser(), words),
    "domus-manager": lambda words: _in_argparse(command_line(), words),
}


def wrong(text: str) -> Iterator[str]:
    """The commands that a text names and that do not exist."""
    for match in NAMED.finditer(text):
        words = match[2].split()
        is_unit = OF_UNITS.search(text, text.rfind("\n", 0, match.start()) + 1, match.start()) is not None
        problem = None if words[0] in ENGLISH or is_unit else PROGRAMS[match[1]](words)
        if problem is not None:
            yield f"{match[0].strip()!r}: {problem}"


def strings_of(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module with their lines; what is put into an f-string is shown as X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def test_every_command_that_the_source_names_exists() -> None:
    found = [(path, line, text) for path in SOURCES for line, text in strings_of(path)]
    assert sum(bool(NAMED.search(text)) for dummy, line, text in found) > 50, "the texts are found"
    problems = [f"{path.relative_to(ROOT)}:{line}: {problem}" for path, line, text in found for problem in wrong(text)]
    assert problems == [], "\n".join(problems)


def test_every_command_that_the_documentation_names_exists() -> None:
    typed = [(path, match[1] or match[2]) for path in [*TEXTS, ROOT / "README.md"] for match in TYPED.finditer(path.read_text(encoding="utf-8"))]
    assert sum(bool(NAMED.match(text)) for dummy, text in typed) > 30, "the commands are found"
    problems = [f"{path.relative_to(ROOT)}: {problem}" for path, text in typed for problem in wrong(text)]
    assert problems == [], "\n".join(problems)


@pytest.mark.parametrize(
    "text",
    ["Adopt it first: domus server adopt", "domus-agent shutdown web1", "`domus server add --replaced`", "Run domus-manager start", "domus-agent pool halt"],
)
def test_a_command_that_does_not_exist_is_found(text: str) -> None:
    assert list(wrong(text))


@pytest.mark.parametrize(
    "text",
    [
        "domus-agent status, on the server",
        "To see it: domus job show 17",
        "domus server add NAME ADDRESS --replace",
        "domus-agent pool fence-test",
        "domus.virt.apply",
    ],
)
def test_a_command_that_exists_is_let_pass(text: str) -> None:
    assert not list(wrong(text))
