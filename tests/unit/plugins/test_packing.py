"""Trees that are packed on the control node and unpacked by the module domus.virt.tree."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from plugins.plugin_utils import packing

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / ".collections"))
tree = importlib.import_module("ansible_collections.domus.virt.plugins.modules.tree")


def source(directory: Path) -> Path:
    """A package with what must not travel."""
    (directory / "package" / "__pycache__").mkdir(parents=True)
    (directory / "package" / "__pycache__" / "a.cpython-311.pyc").write_text("x")
    (directory / "package" / "a.py").write_text("A = 1\n")
    (directory / "package" / "run").write_text("#!/bin/sh\n")
    (directory / "package" / "run").chmod(0o700)
    return directory / "package"


def test_the_digest_goes_by_names_contents_and_what_can_be_run(tmp_path: Path) -> None:
    package = source(tmp_path)
    files = packing.files_of({"lib/p": str(package)})
    assert list(files) == ["lib/p/a.py", "lib/p/run"]
    first = packing.digest_of(files)
    os.utime(package / "a.py", (1, 1))
    (package / "a.py").chmod(0o600)
    assert packing.digest_of(packing.files_of({"lib/p": str(package)})) == first
    digests = {first, packing.digest_of(packing.files_of({"p": str(package)}))}
    (package / "a.py").chmod(0o755)
    digests.add(packing.digest_of(files))
    (package / "a.py").write_text("A = 2\n")
    digests.add(packing.digest_of(files))
    assert len(digests) == 4


def test_a_tree_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    files = packing.files_of({".": str(source(tmp_path)), "more/b.py": str(tmp_path / "package" / "a.py")})
    packing.pack(files, str(tmp_path / "tree.tar"))
    dest = tmp_path / "there"
    dest.mkdir()
    (dest / "old.py").write_text("gone")
    (tmp_path / "there.new").mkdir()
    tree._replace(str(dest), str(tmp_path / "tree.tar"), "digest", True)
    assert sorted(str(path.relative_to(dest)) for path in dest.rglob("*.py")) == ["a.py", "more/b.py"]
    assert (dest / "run").stat().st_mode & 0o777 == 0o755 and (dest / "a.py").stat().st_mode & 0o777 == 0o644
    assert tree._stamp(str(dest)) == "digest" and list(dest.glob("__pycache__/a.*.pyc"))
    assert not (tmp_path / "there.new").exists() and not (tmp_path / "there.old").exists()


@pytest.mark.parametrize("name", ["../etc", "/etc", "a/../../b"])
def test_nothing_is_unpacked_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="outside"):
        packing.files_of({name: str(source(tmp_path))})


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        packing.files_of({"x": str(tmp_path / "nothing")})
