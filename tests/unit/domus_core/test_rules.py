"""The rules of the core, enforced: what it may import, what its files may hold, which Python it must run on."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[3] / "plugins" / "module_utils" / "domus_core"
FILES = {str(path.relative_to(CORE)): path for path in sorted(CORE.rglob("*.py"))}
GUARDED = {"libvirt_driver/connection.py": "libvirt", "libvirt_driver/xml_fields.py": "lxml", "documents.py": "yaml", "clients/wire.py": "defusedxml"}
IMPURE = {"os", "time", "socket", "subprocess", "libvirt", "random", "datetime", "pathlib", "shutil", "threading", "io", "tempfile"}
DECLARED = "from __future__ import annotations"


@pytest.fixture(params=FILES.keys())
def name(request: pytest.FixtureRequest) -> str:
    """One file of the core, by its path in it."""
    return str(request.param)


def _tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"), filename=name, feature_version=(3, 9))


def _imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str, int]]:
    """Every import with the top-level module it names and its level (0: absolute)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name.split(".")[0], 0
        elif isinstance(node, ast.ImportFrom):
            yield node, (node.module or "").split(".")[0], node.level


def test_there_are_files() -> None:
    assert {"engine.py", "model/vm.py", "planning/reconcile.py", "fake_driver/driver.py"} <= FILES.keys()


def test_imports_are_relative_or_of_the_standard_library(name: str) -> None:
    allowed = sys.stdlib_module_names | ({GUARDED[name]} if name in GUARDED else set())
    wrong = [f"line {node.lineno}: {module}" for node, module, level in _imports(_tree(name)) if level == 0 and module not in allowed]
    assert not wrong


def test_relative_imports_stay_inside_the_core(name: str) -> None:
    depth = name.count("/") + 1
    wrong = [f"line {node.lineno}" for node, _, level in _imports(_tree(name)) if level > depth]
    assert not wrong


@pytest.mark.parametrize("name", GUARDED.keys(), indirect=True)
def test_third_parties_are_imported_in_a_guard(name: str) -> None:
    tree = _tree(name)
    guarded = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    found = [node for node, module, level in _imports(tree) if level == 0 and module == GUARDED[name]]
    assert found and all(id(node) in guarded for node in found)


def test_init_files_hold_a_docstring_at_most(name: str) -> None:
    if name.endswith("__init__.py"):
        body = _tree(name).body
        assert not body or (len(body) == 1 and ast.get_docstring(_tree(name)))


def test_runs_on_the_oldest_python(name: str) -> None:
    """Python 3.9 grammar; nothing in it that 3.9 parses but can not run."""
    tree = _tree(name)
    text = FILES[name].read_text(encoding="utf-8")
    assert name.endswith("__init__.py") or DECLARED in text
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith(("dataclass", "dataclasses.field")):
                assert not {keyword.arg for keyword in node.keywords} & {"slots", "kw_only", "weakref_slot"}, f"line {node.lineno}"
            assert called != "zip" or not any(keyword.arg == "strict" for keyword in node.keywords), f"line {node.lineno}"
    assert not [f"line {line}" for line in _unions_at_runtime(tree)]


def _unions_at_runtime(tree: ast.Module) -> Iterator[int]:
    """Where `X | None` would be evaluated: outside annotations, which stay text."""
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if annotation is not None
        for inner in ast.walk(annotation)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in annotations:
            sides = (node.left, node.right)
            if any(
                isinstance(side, ast.Constant) and side.value is None or ast.unparse(side) in {"str", "int", "bool", "float", "dict", "list"} for side in sides
            ):
                yield node.lineno


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("planning/", "model/")) and name != "model/secrets.py"], indirect=True)
def test_planning_is_pure(name: str) -> None:
    """No input, no output, no clock, no chance; the salts of secrets are the one exception, in their own file."""
    assert not {module for _, module, _ in _imports(_tree(name))} & IMPURE
    assert not {ast.unparse(node.func) for node in ast.walk(_tree(name)) if isinstance(node, ast.Call)} & {"open", "print", "input", "exec", "eval"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("planning/", "model/"))], indirect=True)
def test_planning_knows_no_driver(name: str) -> None:
    reached = {node.module or "" for node in ast.walk(_tree(name)) if isinstance(node, ast.ImportFrom)}
    assert not [module for module in reached if module.split(".")[0] in ("libvirt_driver", "fake_driver", "engine", "driver")]
