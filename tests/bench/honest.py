"""`honest`: random edits on real QEMU guests: was what check mode said what then happened?"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.testing import patch_module_args
from domus_core.engine import Report, apply

from tests.integration.server_under_test import INACTIVE, LAN, OTHER, SYSTEM, ServerUnderTest

from .honest_edits import honest_edits
from .honest_xml import XmlEdits
from .measuring import PEERS, format_ratio

EDITS, VMS = 200, 4


def measure(directory: Path) -> Iterator[str]:
    """Right is an edit of which check mode told exactly what apply then did, and after which nothing is left to do.

    The peer gets edits as XML, half of its domains running, and is right when its check mode said `changed` if, and only if,
    the definition that libvirt holds was another afterwards: it tells no more than that.
    """
    server = ServerUnderTest()
    try:
        ours = sum(_our_edits(server, number, EDITS // VMS) for number in range(VMS))
        peer = sum(_peer_edits(server, number, EDITS // VMS) for number in range(VMS))
    finally:
        server.close()
    yield f"honest ours={ours}/{EDITS} peer={peer}/{EDITS} ratio={format_ratio(ours / peer) if peer else '-'} vms={VMS} wanted=200/200"


def _our_edits(server: ServerUnderTest, number: int, count: int) -> int:
    """How many of the edits of one VM were told right; the others are shown."""
    edits = honest_edits(number, count, server.name(f"ours{number}"), networks=(LAN, OTHER), template="small", isos=("cd1", "cd2"))
    right = 0
    for edit in edits:
        told, done = apply(server.site(**edit.document), server.driver, check=True), server.try_apply(**edit.document)
        left = server.steps(**edit.document)
        if not done.errors and not left and _essence(told) == _essence(done) and _waits_as_told(told, done, edit.guest_decides):
            right += 1
        else:
            print(f"honest: {edit}: told {told.as_dict()}, done {done.as_dict()}, left {left}", file=sys.stderr)
    return right


def _essence(report: Report) -> list[Any]:
    return [[result.key, result.changed, [step.as_dict() for step in result.steps]] for result in report.results]


def _waits_as_told(told: Report, done: Report, guest_decides: bool) -> bool:
    """Does what was told wait for a restart? More may, where a guest does not let a device go."""
    pairs = [(set(one.restart_required), set(other.restart_required)) for one, other in zip(told.results, done.results)]
    return all(predicted <= measured if guest_decides else predicted == measured for predicted, measured in pairs)


def _peer_edits(server: ServerUnderTest, number: int, count: int) -> int:
    """How many of the edits of one domain the peer told right."""
    edits = XmlEdits(server.name(f"peer{number}"), number)
    disk = server.directory / f"peer{number}.qcow2"
    disk.write_bytes((server.main / "Templates/small.qcow2").read_bytes())
    _define(edits.xml(LAN, str(disk)), check=False)
    domain = server.connection.lookupByName(edits.name)
    if number % 2:
        domain.create()
    right = 0
    for _ in range(count):
        edits.next()
        xml, before = edits.xml(LAN, str(disk)), domain.XMLDesc(INACTIVE)
        told = _define(xml, check=True)
        _define(xml, check=False)
        right += told == (domain.XMLDesc(INACTIVE) != before)
    return right


def _define(xml: str, *, check: bool) -> bool:
    """What community.libvirt.virt says about `changed`, run in this process. Raises RuntimeError when it fails."""
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    module = importlib.import_module("ansible_collections.community.libvirt.plugins.modules.virt")
    told = io.StringIO()
    arguments = {"command": "define", "uri": SYSTEM, "xml": xml, "_ansible_check_mode": check}
    with patch_module_args(arguments), contextlib.redirect_stdout(told), contextlib.suppress(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own way to ask whether there is a domain
        module.main()
    outcome = json.loads(told.getvalue())
    if outcome.get("failed"):
        raise RuntimeError(outcome["msg"])
    return bool(outcome.get("changed", False))
