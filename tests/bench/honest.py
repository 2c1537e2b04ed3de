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

from tests.integration.server_under_test import INACTIVE, LAN, SYSTEM, ServerUnderTest

from .honest_edits import Edits
from .measuring import PEERS, format_ratio

EDITS, VMS = 200, 4


def measure(directory: Path) -> Iterator[str]:
    """Half of the VMs run while they are edited. Right is an edit of which check mode told what then happened, and after which nothing is left to do.

    The peer gets edits of the same kinds as XML, and is right when its check mode said `changed` if, and only if, the
    definition that libvirt holds was another afterwards: it tells no more than that.
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
    edits = Edits(server.name(f"ours{number}"), number)
    state = "running" if number % 2 else "stopped"
    server.try_apply(vms=[{**edits.document(LAN), "state": state}])
    right = 0
    for _ in range(count):
        edit = edits.next()
        document = {"vms": [edits.document(LAN)]}
        told, done = apply(server.site(**document), server.driver, check=True), server.try_apply(**document)
        left = server.steps(**document)
        if not done.errors and not left and _essence(told) == _essence(done) and (edit == "nothing") != done.changed:
            right += 1
        else:
            print(f"honest: {edit} of a {state} VM: told {_essence(told)}, done {_essence(done)} {done.errors}, left {left}", file=sys.stderr)
    return right


def _essence(report: Report) -> list[Any]:
    return [[result.key, result.changed, [change.as_dict() for change in result.changes]] for result in report.results]


def _peer_edits(server: ServerUnderTest, number: int, count: int) -> int:
    """How many of the edits of one domain the peer told right."""
    edits = Edits(server.name(f"peer{number}"), number)
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
