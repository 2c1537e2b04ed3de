"""`define`: new VMs by one playbook with one task, against a loop over community.libvirt.virt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from .measuring import TEST_DRIVER, Playbook, alternate, format_seconds, line, median, spread
from .sites import definitions, document, without_record

VMS, PEER_VMS, ROUNDS = 1000, 20, 3


def measure(directory: Path) -> Iterator[str]:
    """Wall time of the whole ansible-playbook by the number of VMs it defines, on libvirt's test driver.

    The peer gets the same VMs as the XML that our engine makes, without the record that only Domus reads, and as a loop in
    one task, which is its fastest way: it has no task for many VMs, and no time of its start-up is taken off.
    """
    ours = our_playbook(directory / "ours", TEST_DRIVER, VMS)
    peer = peer_playbook(directory / "peer", TEST_DRIVER, [without_record(text) for text in definitions(PEER_VMS, directory / "seed")])

    def run_ours() -> float:
        shutil.rmtree(directory / "ours" / "state", ignore_errors=True)
        seconds, output = ours.run()
        if "changed=1 " not in output:
            raise RuntimeError(output)
        return seconds

    measured, theirs = alternate(ROUNDS, run_ours, lambda: peer.run()[0])
    yield result("define", measured, theirs, "wanted>=150,<=3s")


def result(name: str, ours: list[float], theirs: list[float], wanted: str, *facts: str) -> str:
    """The line of a measurement by the number of VMs."""
    totals = [f"all={format_seconds(median(ours))}", f"spread={spread(ours)}", f"vms={VMS}"]
    peer = [f"peer_all={format_seconds(median(theirs))}", f"peer_vms={PEER_VMS}"]
    return line(name, median(ours) / VMS, median(theirs) / PEER_VMS, "per=VM", *totals, *peer, *facts, wanted)


def our_playbook(directory: Path, uri: str, vms: int) -> Playbook:
    """A playbook with one task that applies the document; the state directory lies beside it."""
    playbook = Playbook(directory, [{"name": "Apply", "domus.virt.apply": {"file": "site.json", "uri": uri, "state_directory": str(directory / "state")}}])
    (directory / "site.json").write_text(json.dumps(document(vms)), encoding="utf-8")
    return playbook


def peer_playbook(directory: Path, uri: str, xml: list[str]) -> Playbook:
    """A playbook with one task that defines each of these domains in a loop."""
    task = {"name": "Define", "community.libvirt.virt": {"command": "define", "uri": uri, "xml": "{{ item }}"}, "loop": xml}
    return Playbook(directory, [{**task, "loop_control": {"label": "a VM"}}])
