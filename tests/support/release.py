"""The release before this one, as it was installed: made from git, so that versions N-1 and N are tested with each other."""

from __future__ import annotations

import fcntl
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# The commit that 0.1.0 was released from; a tag would have to be fetched apart.
COMMIT, VERSION = "b978952113cf83a21d1799e6194cd15f3e0cc062", "0.1.0"
PARTS = ("agent", "controller", "plugins", "roles", "playbooks", "meta", "galaxy.yml", "README.md")


def released(install: Path) -> Path:
    """Install version N-1 beside what `scripts/install` made, once, and return where: bin/domus-agent, bin/domus-manager, collections.

    Its manager runs with the packages of this version's environment.
    """
    place = Path(f"{install}-{VERSION}")
    place.mkdir(exist_ok=True)
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "bin").exists():
            _install(place, install / "venv")
    return place


def _install(place: Path, venv: Path) -> None:
    done = subprocess.run(["git", "-C", CHECKOUT, "archive", "--format=tar", COMMIT, *PARTS], capture_output=True, check=False)
    assert done.returncode == 0, f"version {VERSION} is not in this clone: git fetch --unshallow. {done.stderr.decode()}"
    for old in ("agent", "manager", "collections"):
        shutil.rmtree(place / old, ignore_errors=True)
    source = place / "collections" / "ansible_collections" / "domus" / "virt"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(source)
    packages = {"agent": ["agent/domus_agent"], "manager": ["controller/domus_controller", "controller/domus_cli"]}
    for name, own in packages.items():
        for package in ("plugins/module_utils/domus_core", *own):
            shutil.copytree(source / package, place / name / Path(package).name)
    commands = place / "bin.new"
    shutil.rmtree(commands, ignore_errors=True)
    commands.mkdir()
    _command(commands / "domus-manager", f"PYTHONPATH={place}/manager {venv}/bin/python -m domus_controller")
    _command(commands / "domus-agent", f"PYTHONPATH={place}/agent /usr/bin/python3 -m domus_agent")
    commands.rename(place / "bin")


def _command(file: Path, words: str) -> None:
    file.write_text(f'#!/bin/sh\nexec env {words} "$@"\n')
    file.chmod(0o755)
