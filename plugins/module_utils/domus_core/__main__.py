"""Commands of the engine; none of them changes anything.

`python -m domus_core WANTED SNAPSHOT` prints the plan for a document on a saved snapshot; `python -m domus_core snapshot` saves
one; `python -m domus_core adopt` writes the document of VMs that Domus does not manage.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Mapping
from typing import Optional

from .documents import read_document
from .errors import DomusError, InvalidSpec
from .model.document import Site, parse_document
from .model.snapshot import Snapshot, snapshot_from_dict
from .planning.reconcile import plan
from .rendering import render_plan
from .snapshots import load_snapshot


def main(arguments: Optional[list[str]] = None) -> int:
    """Do what the command line says; 0: done, or nothing to change, 2: something to change, 1: refused."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words and words[0] in ("snapshot", "adopt"):
            from .server_commands import run  # planning needs no libvirt, and no time to load it

            return run(words[0], words[1:])
        return _plan(words)
    except (DomusError, OSError, ValueError) as error:
        as_json = isinstance(error, DomusError) and "json" in words
        sys.stderr.write(f"{json.dumps(error.as_dict()) if as_json and isinstance(error, DomusError) else f'error: {error}'}\n")
        return 1


def _plan(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="domus_core", description="Print the plan for a site document on a saved snapshot.", epilog="Other commands: snapshot, adopt (--help tells more)."
    )
    parser.add_argument("wanted", help="the site document, YAML or JSON; without SNAPSHOT: a scenario file that holds both")
    parser.add_argument("snapshot", nargs="?", help="the snapshot of a server, JSON")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print the plan")
    parser.add_argument("--server", help="plan only what concerns this server")
    options = parser.parse_args(words)
    gc.disable()  # much is made and nothing is dropped: collecting would only cost time
    try:
        planned = plan(*_load(options.wanted, options.snapshot, options.server))
    finally:
        gc.enable()
    sys.stdout.write((json.dumps(planned.as_dict(), indent=2) if options.output == "json" else render_plan(planned)) + "\n")
    return 2 if planned.steps else 0


def _load(wanted: str, snapshot: Optional[str], server: Optional[str]) -> tuple[Site, Snapshot]:
    if snapshot is not None:
        return parse_document(read_document(wanted), server=server), load_snapshot(_read(snapshot))
    scenario = read_document(wanted)
    if not isinstance(scenario, Mapping) or not {"wanted", "snapshot"} <= scenario.keys():
        raise InvalidSpec("holds no `wanted` and `snapshot`", object=wanted, remedy="Give a snapshot file as well, or a scenario file")
    return parse_document(scenario["wanted"], server=server), snapshot_from_dict(scenario["snapshot"])


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    raise SystemExit(main())
