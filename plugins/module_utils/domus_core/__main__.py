"""`python -m domus_core WANTED SNAPSHOT`: print the plan for a document on a saved snapshot; changes nothing."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Mapping
from typing import Optional

from .documents import LARGEST, load_document
from .errors import DomusError, InvalidSpec
from .model.document import Site, parse_document
from .model.snapshot import Snapshot, snapshot_from_dict
from .planning.reconcile import plan
from .rendering import render_plan
from .snapshots import load_snapshot


def main(arguments: Optional[list[str]] = None) -> int:
    """Print the plan; 0: nothing to change, 2: something to change, 1: refused (like `terraform plan -detailed-exitcode`)."""
    parser = argparse.ArgumentParser(prog="domus_core", description="Print the plan for a site document on a saved snapshot.")
    parser.add_argument("wanted", help="the site document, YAML or JSON; without SNAPSHOT: a scenario file that holds both")
    parser.add_argument("snapshot", nargs="?", help="the snapshot of a server, JSON")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print the plan")
    parser.add_argument("--server", help="plan only what concerns this server")
    options = parser.parse_args(arguments)
    gc.disable()  # much is made and nothing is dropped: collecting would only cost time
    try:
        planned = plan(*_load(options.wanted, options.snapshot, options.server))
    except DomusError as error:
        print(json.dumps(error.as_dict()) if options.output == "json" else f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        gc.enable()
    print(json.dumps(planned.as_dict(), indent=2) if options.output == "json" else render_plan(planned))
    return 2 if planned.steps else 0


def _load(wanted: str, snapshot: Optional[str], server: Optional[str]) -> tuple[Site, Snapshot]:
    if snapshot is not None:
        return parse_document(load_document(_read(wanted, LARGEST + 1), name=wanted), server=server), load_snapshot(_read(snapshot))
    scenario = load_document(_read(wanted, LARGEST + 1), name=wanted)
    if not isinstance(scenario, Mapping) or not {"wanted", "snapshot"} <= scenario.keys():
        raise InvalidSpec("holds no `wanted` and `snapshot`", object=wanted, remedy="Give a snapshot file as well, or a scenario file")
    return parse_document(scenario["wanted"], server=server), snapshot_from_dict(scenario["snapshot"])


def _read(path: str, most: int = -1) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(most)


if __name__ == "__main__":
    sys.exit(main())
