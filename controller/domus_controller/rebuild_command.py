"""`domus-manager rebuild`: the work, and what is said of what came back."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from domus_core.model.kinds import KINDS

from .agents.rebuild import NOT_RESTORED, OURS, SILENT, Outcome, Rebuild
from .config import ManagerConfig
from .rebuild_places import Place
from .security.authority import Authority
from .store.database import Store

# Of a range most addresses are nobody's.
RANGE_SECONDS, SECONDS = 3.0, 10.0
# What is counted, VMs first, and the heading of its column.
COUNTED = {kind.name: kind.section.replace("_", " ").upper() for kind in reversed(KINDS) if kind.name != "server"}


def rebuild(config: ManagerConfig, places: Sequence[Place], options: argparse.Namespace) -> int:
    """Take back what these places have, and say what came of it; 0 when all that answered did, and, unless a range was asked, all answered."""
    scanning = bool(options.range)
    authority = Authority(config.directory)
    authority.ensure()
    store = Store(config.directory)
    try:
        work = Rebuild(store, authority, config, RANGE_SECONDS if scanning else SECONDS)
        outcomes = work.run(places, lambda outcome: None if scanning and outcome.result == SILENT else _remark(outcome))
    finally:
        store.close()
    shown = [outcome for outcome in outcomes if not (scanning and outcome.result == SILENT)]
    if options.output == "json":
        _print(json.dumps({"servers": [dataclasses.asdict(outcome) for outcome in shown], "not_restored": NOT_RESTORED}, indent=2))
    else:
        _print(table(shown, len(outcomes) - len(shown)))
    return 0 if shown and all(outcome.result in OURS for outcome in shown) else 1


def table(outcomes: Sequence[Outcome], silent: int) -> str:
    """What came back, server by server, what is to be done for the others, and what can not come back."""
    head = ["SERVER", "ADDRESS", "RESULT", *COUNTED.values()]
    lines = [head, *([one.name or one.server or "-", f"{one.address}:{one.port}", one.result, *_counts(one)] for one in outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    told = ["  ".join(f"{_line(text):<{width}}" for text, width in zip(line, widths)).rstrip() for line in lines] if outcomes else ["no server answered"]
    told += [f"{silent} addresses without an answer"] if silent else []
    told += [
        f"{_line(one.name or one.address)}: {_line(str(one.note))}" + (f"\n  {one.remedy}" if one.remedy and one.result not in OURS else "")
        for one in outcomes
        if one.note
    ]
    ours = sum(one.result in OURS for one in outcomes)
    told.append(f"{ours} of {len(outcomes)} servers are here." + ("" if ours == len(outcomes) else " The same command adds the others later."))
    told.append("What servers do not know comes from a backup only: " + "; ".join(NOT_RESTORED) + ".")
    return "\n".join(told)


def _line(text: str) -> str:
    """What a server says, as no terminal misreads it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _counts(outcome: Outcome) -> list[str]:
    return [str(outcome.objects.get(kind, 0)) if outcome.result in OURS else "-" for kind in COUNTED]


def _remark(outcome: Outcome) -> None:
    """One line while it works; what is printed in the end goes elsewhere."""
    sys.stderr.write(f"{outcome.address}:{outcome.port}: {outcome.result}\n")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
