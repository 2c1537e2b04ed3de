"""`unchanged`: the same document again, on a server that matches it, against the same loop over community.libvirt.virt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from domus_core.engine import apply
from domus_core.libvirt_driver.driver import open_driver
from domus_core.model.document import parse_document

from tests.support.libvirt_calls import recorded_calls, writes

from .define import PEER_VMS, ROUNDS, VMS, our_playbook, peer_playbook, result
from .measuring import Playbook, alternate, format_seconds, median
from .sites import definitions, document, seeded_uri, without_record


def measure(directory: Path) -> Iterator[str]:
    """Wall time of the whole ansible-playbook by the number of VMs that it leaves as they are.

    libvirt's test driver starts with the VMs as a first apply of our engine made them. The peer gets its VMs as XML that is
    equal to what the driver starts with. `ansible_alone` is a playbook with one `ping`: what Ansible needs for nothing.
    """
    state = directory / "ours" / "state"
    uri = seeded_uri(directory / "seed.xml", definitions(VMS, state))
    ours = our_playbook(directory / "ours", uri, VMS)
    xml = [without_record(text) for text in definitions(PEER_VMS, directory / "peer" / "state")]
    peer = peer_playbook(directory / "peer", seeded_uri(directory / "peer.xml", xml), xml)
    nothing = Playbook(directory / "nothing", [{"name": "Nothing", "ansible.builtin.ping": {}}])
    measured, theirs, alone = alternate(ROUNDS, lambda: _unchanged(ours), lambda: _unchanged(peer), lambda: _unchanged(nothing))
    facts = (f"ansible_alone={format_seconds(median(alone))}", "changed=0", f"writes={count_writes(uri, state)}")
    yield result("unchanged", measured, theirs, "wanted<=2s", *facts)


def _unchanged(playbook: Playbook) -> float:
    seconds, output = playbook.run()
    if "changed=0 " not in output:
        raise RuntimeError(f"something was changed: {output[-2000:]}")
    return seconds


def count_writes(uri: str, state_directory: Path, vms: int = VMS) -> int:
    """How many calls of libvirt the engine makes for it that do more than read, counted in this process."""
    with recorded_calls() as calls:
        driver = open_driver(uri, str(state_directory))
        try:
            report = apply(parse_document(document(vms)), driver)
        finally:
            driver.close()
    if report.errors or report.changed or not calls:
        raise RuntimeError(f"not an unchanged apply: {report.as_dict()}")
    return sum(writes(calls).values())
