# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the control node as one archive, the same for the same files whenever and wherever it is made."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping

LEFT_OUT = frozenset({"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"})


def files_of(sources: Mapping[str, str]) -> dict[str, str]:
    """Every file of the sources (a file or directory, by its path in the tree) by its path in the tree, sorted. Raises OSError."""
    found: dict[str, str] = {}
    for name, source in sources.items():
        if os.path.isdir(source):
            found.update({os.path.normpath(os.path.join(name, below)): path for below, path in _below(source)})
        else:
            os.stat(source)
            found[os.path.normpath(name)] = source
    outside = [name for name in found if name.startswith(("..", "/"))]
    if outside:
        raise OSError(22, "lies outside of dest", outside[0])
    return dict(sorted(found.items()))


def digest_of(files: Mapping[str, str]) -> str:
    """What tells these files from others: SHA-256 of their names, contents and whether they can be run. Raises OSError."""
    whole = hashlib.sha256()
    for name, path in files.items():
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
        whole.update(f"{name}\0{_mode(path):o}\0{content}\n".encode())
    return whole.hexdigest()


def pack(files: Mapping[str, str], archive: str) -> None:
    """Write the archive: root's, readable for all, of no date. Raises OSError."""
    with tarfile.open(archive, "w") as packed:
        for directory in sorted({parent for name in files for parent in _parents(name)}):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            packed.addfile(entry)
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = os.stat(path).st_size, _mode(path)
            with open(path, "rb") as file:
                packed.addfile(entry, file)


def _mode(path: str) -> int:
    return 0o755 if os.stat(path).st_mode & 0o100 else 0o644


def _parents(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _below(directory: str) -> Iterator[tuple[str, str]]:
    for place, directories, names in os.walk(directory, onerror=_raise):
        directories[:] = [name for name in directories if name not in LEFT_OUT and not name.endswith(".egg-info")]
        for name in names:
            if not name.endswith(".pyc"):
                path = os.path.join(place, name)
                yield os.path.relpath(path, directory), path


def _raise(error: OSError) -> None:
    raise error
