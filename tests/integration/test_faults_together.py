"""A QEMU that hangs, applies at the same time, and changes by others while an apply works."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from domus_core.engine import apply
from domus_core.errors import Busy, DomusError
from domus_core.libvirt_driver import vm as vm_steps
from domus_core.libvirt_driver.bounded import bounded
from domus_core.model.document import parse_document

from tests.support.lab import Document, Lab

from .test_faults import vm

pytestmark = pytest.mark.libvirt

LIMIT = 2


def two_vms(lab: Lab, **fields: Any) -> Document:
    """Two running VMs that can change live."""
    names = ("fault-stuck", "fault-free")
    return {
        "site": "fault",
        "servers": [{"name": "here", "virtualization": "qemu"}],
        "repositories": [{"name": "main", "path": str(lab.repository)}],
        "vms": [vm(name, cpus=1, cpus_max=2, disks=[{"name": "root", "repository": "main", "size": "1MiB"}], state="running", **fields) for name in names],
    }


@contextlib.contextmanager
def stopped(lab: Lab, name: str) -> Iterator[None]:
    """A QEMU that does not go on."""
    process = lab.libvirtd.guest(name)
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def memory_of(document: Document, memory: str) -> Document:
    other = copy.deepcopy(document)
    for entry in other["vms"]:
        entry["memory"] = memory
    return other


def test_a_stuck_qemu_holds_up_nobody_else(lab: Lab) -> None:
    document = two_vms(lab)
    lab.succeed(document)
    change = memory_of(document, "48MiB")
    with stopped(lab, "fault-stuck"):
        found = lab.read(document).objects["vm"]
        assert {name: one.state.state for name, one in found.items()} == {"fault-stuck": "running", "fault-free": "running"}
        # Its end is part of this: a process that waited for the stuck call would not end before the limit of `finish`.
        outcome = lab.work(change, limit=LIMIT)
        assert [(error["object"], error["code"]) for error in outcome["errors"]] == [("vm fault-stuck", "unreachable")], outcome
        error = outcome["errors"][0]
        assert f"did not end within {LIMIT} s" in error["message"] and "virsh destroy" in error["remedy"], error
        free = [step for step in lab.plan(change) if "fault-free" in step]
        assert free == [], "the other VM was done"
        # While libvirt still waits for it, the next apply is told as well, and does not wait for ever either.
        again = lab.work(change, limit=LIMIT)
        assert [(error["object"], error["code"]) for error in again["errors"]] == [("vm fault-stuck", "unreachable")], again
    lab.mend(change)
    assert lab.plan(change) == []


def test_a_stuck_qemu_whose_disk_is_to_grow(lab: Lab) -> None:
    document = two_vms(lab)
    lab.succeed(document)
    disks = [{"name": f"{entry['name']}-root", "repository": "main", "size": "2MiB"} for entry in document["vms"]]
    change: Document = {"site": "fault", "virtual_disks": disks}
    with stopped(lab, "fault-stuck"):
        outcome = lab.work(change, limit=LIMIT)
        told = {error["object"]: error["code"] for error in outcome["errors"]}
        assert told == {"virtual_disk main/fault-stuck-root": "unreachable"}, outcome
        assert [step for step in lab.plan(change) if "fault-free" in step] == [], "the other one was done"
    lab.mend(change)


def test_a_call_that_was_given_up_changes_nothing_later(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that lives on, the abandoned work must not go on when the QEMU does: somebody else may hold the lock then."""
    document = two_vms(lab)
    lab.succeed(document)
    monkeypatch.setattr(vm_steps, "STEP_LIMIT", LIMIT)
    change = memory_of(document, "48MiB")
    with contextlib.closing(lab.driver()) as driver:
        with stopped(lab, "fault-stuck"):
            assert [error.code for error in apply(parse_document(change), driver).errors] == ["unreachable"]
            definition = lab.libvirtd.virsh("dumpxml", "--inactive", "fault-stuck")
        # The answer to this comes after that of the call that was given up.
        lab.libvirtd.virsh("qemu-monitor-command", "fault-stuck", "--hmp", "info version")
        time.sleep(0.5)
        assert lab.libvirtd.virsh("dumpxml", "--inactive", "fault-stuck") == definition
    lab.mend(change)


def test_a_stuck_qemu_can_be_killed_and_deleted(lab: Lab) -> None:
    document = two_vms(lab)
    lab.succeed(document)
    with stopped(lab, "fault-stuck"):
        gone = {**document, "vms": [{"name": "fault-stuck", "state": "absent", "delete_disks": True}, document["vms"][1]]}
        lab.mend(gone)
    assert lab.domains() == {"fault-free": "running"}


def test_bounded_hands_on_what_happened() -> None:
    assert bounded(lambda: 7, 5, "counting") == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 5, "dividing")


def test_two_applies_of_conflicting_documents(lab: Lab) -> None:
    """Whoever is last wins whole."""
    base = two_vms(lab)
    for entry in base["vms"]:
        entry["memory_max"] = "256MiB"
    less, more = memory_of(base, "64MiB"), memory_of(base, "128MiB")
    less["vms"][0]["description"], more["vms"][0]["description"] = "less", "more"
    less["vms"][0]["tags"], more["vms"][0]["tags"] = ["less"], ["more"]
    for _ in range(2):
        outcomes = [lab.finish(process) for process in [lab.begin(less), lab.begin(more)]]
        for outcome in outcomes:
            assert {error["code"] for error in [*outcome.get("errors", []), *filter(None, [outcome.get("error")])]} <= {"busy", "conflict"}, outcome
        assert any(not outcome.get("errors", ["error"]) for outcome in outcomes)
        assert (lab.plan(less) == []) != (lab.plan(more) == []), "one of the two, whole"
    lab.assert_tidy()


def test_eight_applies_of_different_vms(lab: Lab) -> None:
    shared = {"site": "fault", "servers": [{"name": "here", "virtualization": "qemu"}], "repositories": [{"name": "main", "path": str(lab.repository)}]}
    lab.succeed(shared)
    disk = {"name": "root", "repository": "main", "size": "1MiB"}
    documents = [{"site": "fault", "vms": [vm(f"fault-{number}", disks=[disk], cloud_init={"user_data": "x"})]} for number in range(8)]
    processes = [lab.begin(document) for document in documents]
    for process in processes:
        assert lab.finish(process).get("errors") == []
    assert set(lab.domains()) == {f"fault-{number}" for number in range(8)}
    for document in documents:
        assert lab.plan(document) == []
    lab.assert_tidy()


def begin_holding(lab: Lab, document: Document) -> subprocess.Popen[str]:
    process = lab.begin(document, hold=100)
    assert process.stderr is not None and process.stderr.readline() == "holding\n"
    return process


def test_busy_after_patience_and_free_after_death(lab: Lab) -> None:
    document = two_vms(lab)
    holder = begin_holding(lab, document)
    with pytest.raises(Busy) as told:
        lab.apply(document, patience=0.2)
    assert "another apply is working on it" in str(told.value) and told.value.object and "Wait for it to end" in told.value.remedy
    other = {"site": "fault", "vms": [vm("fault-apart")]}
    assert lab.apply(other, patience=0.2).errors == [], "another object is free"
    user = {"site": "fault", "vms": [vm("fault-user", disks=[{"name": "root", "repository": "main", "size": "1MiB"}])]}
    with pytest.raises(Busy):
        lab.apply(user, patience=0.2)
    assert lab.plan({"site": "fault", "vms": [vm("fault-apart")]}) == [], "reading needs no lock"
    holder.kill()
    holder.communicate()
    lab.apply(document, patience=0.2)
    lab.mend(document)


def meddled(lab: Lab, document: Document, meddle: Callable[[], Any]) -> list[DomusError]:
    """Apply, while somebody else does something after the reading."""
    with contextlib.closing(lab.driver()) as driver:
        read = driver.read

        def read_and_meddle(site: Any) -> Any:
            snapshot = read(site)
            meddle()
            return snapshot

        driver.read = read_and_meddle  # type: ignore[method-assign]
        return apply(parse_document(document), driver).errors


MEDDLING: dict[str, Callable[[Lab], Any]] = {
    "definition": lambda lab: lab.libvirtd.virsh("desc", "fault-stuck", "--config", "mine"),
    "stopped": lambda lab: lab.libvirtd.virsh("destroy", "fault-stuck"),
    "autostart": lambda lab: lab.libvirtd.virsh("autostart", "fault-stuck"),
    "deleted": lambda lab: (lab.libvirtd.virsh("destroy", "fault-stuck"), lab.libvirtd.virsh("undefine", "fault-stuck")),
}


@pytest.mark.parametrize("how", MEDDLING)
def test_a_vm_changed_by_somebody_else(lab: Lab, how: str) -> None:
    document = two_vms(lab)
    lab.succeed(document)
    seen: dict[str, Any] = {}

    def meddle() -> None:
        MEDDLING[how](lab)
        seen.update(state_of(lab, "fault-stuck"))

    change = memory_of(document, "48MiB")
    errors = meddled(lab, change, meddle)
    told = ("moved", "is not on this server any more") if how == "deleted" else ("conflict", "has changed since it was read")
    assert [(error.code, error.message, error.object) for error in errors] == [(*told, "vm fault-stuck")]
    assert state_of(lab, "fault-stuck") == seen, "nothing was done to it"
    assert [step for step in lab.plan(change) if "fault-free" in step] == [], "the other one was done"
    lab.mend(change)


def state_of(lab: Lab, name: str) -> dict[str, Any]:
    state = lab.domains().get(name)
    return {"state": state, "definition": lab.libvirtd.virsh("dumpxml", "--inactive", name) if state else None}


def test_a_vm_made_by_somebody_else(lab: Lab) -> None:
    document = two_vms(lab)
    xml = lab.directory / "other.xml"
    xml.write_text("<domain type='qemu'><name>fault-stuck</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>")
    errors = meddled(lab, document, lambda: lab.libvirtd.virsh("define", str(xml)))
    assert [(error.code, error.object, error.message) for error in errors] == [("conflict", "vm fault-stuck", "has changed since it was read")]
    assert lab.domains() == {"fault-stuck": "shut off", "fault-free": "running"}


def test_other_objects_changed_by_somebody_else(lab: Lab) -> None:
    document: Document = {
        "site": "fault",
        "servers": [{"name": "here", "virtualization": "qemu"}],
        "networks": [{"name": "fault-lan", "mode": "isolated", "autostart": False}],
        "repositories": [{"name": "main", "path": str(lab.repository)}],
        "virtual_disks": [{"name": "spare", "repository": "main", "size": "1MiB"}],
    }
    lab.succeed(document)
    change = copy.deepcopy(document)
    change["networks"][0]["state"] = "inactive"
    change["virtual_disks"][0]["size"] = "3MiB"

    def meddle() -> None:
        lab.libvirtd.virsh("net-autostart", "fault-lan")
        subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", str(lab.repository / "VirtualDisks" / "spare.qcow2"), "2M"], check=True)

    told = {(error.object, error.message) for error in meddled(lab, change, meddle)}
    assert told == {(name, "has changed since it was read") for name in ("network fault-lan", "virtual_disk main/spare")}
    assert "active" in lab.libvirtd.virsh("net-list", "--all")
    lab.mend(change)
