"""Whether and how a VM is moved, and whose it is after an interruption."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
from domus_core.errors import Refused
from domus_core.model.migration import Destination, MigrationSpec, MovingDisk, MovingFile, MovingVm, RepositoryThere, destination, moving_vm, parse_migration
from domus_core.planning import migration as planning
from domus_core.planning.migration import plan_from_dict, plan_migration, settle
from hypothesis import given
from hypothesis import strategies as some

GIB = 1 << 30
DISK = MovingDisk(
    "root", "vda", "/srv/main/VirtualDisks/web1-root.qcow2", "main/VirtualDisks/web1-root.qcow2", "qcow2", "main", 10 * GIB, GIB, "7:1000", note={"owner": "u"}
)
VM = MovingVm(
    "web1",
    "0e3f5a9c-0000-4000-8000-000000000001",
    "running",
    memory=2 * GIB,
    machine="pc-q35-7.2",
    cpu="<cpu/>",
    disks=(DISK,),
    networks=("lan",),
    repositories={"main": "/srv/main"},
    probes={"main": ".probe-1"},
)
THERE = RepositoryThere("/srv/main", 100 * GIB, True, False, False)
TO = Destination(
    "srv2",
    "srv2",
    "192.0.2.2",
    "kvm",
    ("kvm", "qemu"),
    ("pc-q35-7.2",),
    16 * GIB,
    8,
    "superset",
    repositories={"main": THERE},
    networks={"lan": True},
)
COPY, NONE = MigrationSpec(copy_storage=True), MigrationSpec()
SHARED = dataclasses.replace(TO, repositories={"main": dataclasses.replace(THERE, same=True)})


def refusals(vm: MovingVm, to: Destination, options: MigrationSpec = NONE) -> list[str]:
    """The fields of all refusals."""
    with pytest.raises(Refused) as caught:
        plan_migration(vm, to, options)
    assert all(error.remedy for error in caught.value.errors), "each refusal says what to do"
    assert all(error.object == "vm web1" for error in caught.value.errors)
    return [error.field for error in caught.value.errors]


def test_shared_storage_is_not_copied_and_libvirt_is_to_take_our_word_for_it() -> None:
    plan = plan_migration(VM, SHARED, COPY)
    assert (plan.way, plan.copied, plan.unsafe, plan.bytes) == ("live", (), True, 2 * GIB)
    assert set(plan.flags) == {"PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE", "LIVE", "ABORT_ON_ERROR", "TLS", "UNSAFE"}


def test_where_libvirt_sees_for_itself_that_it_is_shared_nothing_is_unsafe() -> None:
    known = dataclasses.replace(TO, repositories={"main": dataclasses.replace(THERE, same=True, known_shared=True)})
    assert "UNSAFE" not in plan_migration(VM, known, NONE).flags


def test_local_storage_is_copied_when_asked_for() -> None:
    plan = plan_migration(VM, TO, COPY)
    assert (plan.copied, plan.unsafe, plan.bytes) == (("vda",), False, 3 * GIB)
    assert "NON_SHARED_DISK" in plan.flags and "UNSAFE" not in plan.flags


def test_what_was_declared_shared_and_is_not_is_never_copied_onto_itself_nor_taken_for_shared() -> None:
    to = dataclasses.replace(TO, repositories={"main": dataclasses.replace(THERE, shared=True)})
    assert refusals(dataclasses.replace(VM, shared=("main",)), to, COPY) == ["disks[root]"]


def test_a_repository_that_nothing_can_be_proven_of_counts_as_shared_when_both_say_so_and_the_file_is_the_same() -> None:
    adopted = RepositoryThere("/srv/main", 100 * GIB, True, True, None, adopted=True)
    vm = dataclasses.replace(VM, shared=("main",))
    same = dataclasses.replace(TO, repositories={"main": adopted}, files={DISK.path: DISK.identity})
    assert plan_migration(vm, same, NONE).copied == ()
    assert refusals(vm, dataclasses.replace(same, files={DISK.path: "8:1000"})) == ["disks[root]"]
    assert refusals(VM, same) == ["disks[root]"]


def test_the_seed_goes_along_unless_it_lies_on_shared_storage() -> None:
    seed = MovingFile("cloud_init", "/srv/main/VirtualDisks/web1-cloud-init-0.iso", 10, "main", True)
    vm = dataclasses.replace(VM, files=(seed,))
    assert plan_migration(vm, TO, COPY).brought == (seed.path,)
    assert plan_migration(vm, SHARED, COPY).brought == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"state": "suspended"}, "state"),
        ({"managed": False}, "managed"),
        ({"persistent": False}, "persistent"),
        ({"snapshots": 2}, "snapshots"),
        ({"job": "a save"}, ""),
        ({"machine": "pc-q35-9.2"}, "machine"),
        ({"virtualization": "xen"}, "virtualization"),
        ({"memory": 64 * GIB}, "memory"),
        ({"networks": ("lan", "dmz")}, "network"),
        ({"bridges": ("br7",)}, "bridge"),
        ({"filters": ("clean-traffic",)}, "filter"),
        ({"local_devices": ("hostdev pci",)}, "devices"),
        ({"vnc_listen": "192.0.2.1"}, "vnc.listen"),
        ({"files": (MovingFile("cdrom", "/srv/main/ISOs/a.iso", 5, "main"),)}, "cdrom"),
        ({"cpu_mode": "host-passthrough"}, "cpu_model"),
    ],
)
def test_what_is_in_the_way_of_the_vm(changes: dict[str, Any], field: str) -> None:
    assert refusals(dataclasses.replace(VM, **changes), dataclasses.replace(SHARED, addresses=("192.0.2.2",))) == [field]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cpu": "incompatible"}, "cpu_model"),
        ({"virtualization": "qemu"}, "virtualization"),
        ({"vm": "web1 (running)"}, "server"),
        ({"reserved": "job-1"}, "server"),
        ({"networks": {"lan": False}}, "network"),
        ({"repositories": {}}, "disks[root]"),
        ({"repositories": {"main": dataclasses.replace(THERE, available=False)}}, "disks[root]"),
        ({"repositories": {"main": dataclasses.replace(THERE, path="/mnt/main")}}, "disks[root]"),
        ({"repositories": {"main": dataclasses.replace(THERE, adopted=True)}}, "disks[root]"),
        ({"repositories": {"main": dataclasses.replace(THERE, free=GIB // 2)}}, "repository"),
        ({"files": {DISK.path: "9:9"}}, "disks[root]"),
    ],
)
def test_what_is_in_the_way_at_the_destination(changes: dict[str, Any], field: str) -> None:
    assert refusals(VM, dataclasses.replace(TO, **changes), COPY) == [field]


@pytest.mark.parametrize("changes", [{"shareable": True}, {"read_only": True}, {"waiting": True}, {"repository": "", "place": "/x"}])
def test_disks_that_are_not_copied(changes: dict[str, Any]) -> None:
    assert refusals(dataclasses.replace(VM, disks=(dataclasses.replace(DISK, **changes),)), TO, COPY) == ["disks[root]"]


def test_every_reason_is_told_at_once() -> None:
    vm = dataclasses.replace(VM, snapshots=1, memory=64 * GIB, networks=("dmz",))
    assert refusals(vm, TO) == ["snapshots", "memory", "disks[root]", "network"]


def test_a_stopped_vm_goes_offline_and_its_disks_are_not_copied() -> None:
    vm = dataclasses.replace(VM, state="stopped", memory=64 * GIB)
    offline = ("PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE", "OFFLINE")
    assert plan_migration(vm, dataclasses.replace(SHARED, cpu="incompatible", tls=False), NONE).flags == offline
    assert plan_migration(vm, dataclasses.replace(SHARED, cpu="incompatible", tls=True), NONE).flags == (*offline, "TLS")
    assert refusals(vm, TO, COPY) == ["disks[root]"]


def test_post_copy_needs_the_kernel_there() -> None:
    options = MigrationSpec(post_copy=True)
    assert "POSTCOPY" in plan_migration(VM, SHARED, options).flags
    assert refusals(VM, dataclasses.replace(SHARED, post_copy=False), options) == ["post_copy"]


@pytest.mark.parametrize("wrong", [{"bandwidth": 0}, {"multifd": 2, "post_copy": True}, {"copy_storage": True, "post_copy": True}, {"speed": 1}])
def test_options_that_can_not_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        parse_migration(wrong)


def test_what_the_servers_tell_each_other_survives_json_and_a_newer_version() -> None:
    vm = dataclasses.replace(VM, files=(MovingFile("kernel", "/k"),))
    assert moving_vm({**json.loads(json.dumps(dataclasses.asdict(vm))), "later": 1}) == vm
    assert destination({**json.loads(json.dumps(dataclasses.asdict(SHARED))), "later": 1}) == SHARED
    plan = plan_migration(VM, TO, COPY)
    assert plan_from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@given(some.booleans(), some.booleans(), some.sampled_from([None, True, False]), some.booleans(), some.booleans())
def test_nothing_is_ever_copied_onto_a_file_that_is_there(declared_here: bool, declared_there: bool, same: Any, exists: bool, copy: bool) -> None:
    vm = dataclasses.replace(VM, shared=("main",) if declared_here else ())
    there = dataclasses.replace(THERE, shared=declared_there, same=same)
    to = dataclasses.replace(TO, repositories={"main": there}, files={DISK.path: DISK.identity if exists else None})
    try:
        plan = plan_migration(vm, to, MigrationSpec(copy_storage=copy))
    except Refused:
        return
    assert not (plan.copied and (exists or same))
    assert plan.copied or same or (declared_here and declared_there and exists)


SOURCES = (planning.MOVING, planning.RUNS, planning.HALTED, planning.DEFINED, planning.ABSENT, planning.SPLIT, planning.SILENT)
DESTINATIONS = (*SOURCES, planning.ARRIVING)
HAS = (planning.RUNS, planning.HALTED, planning.DEFINED)


@pytest.mark.parametrize(("source", "there"), list(itertools.product(SOURCES, DESTINATIONS)))
def test_whatever_is_seen_one_side_runs_it_at_most_and_nothing_is_lost(source: str, there: str) -> None:
    verdict = settle(source, there)
    if verdict.at_source == planning.DROP:
        assert there in HAS, "the source's copy ends only when the destination is seen to have it"
    if verdict.at_destination == planning.DROP and there in HAS:
        assert source in HAS, "the destination's copy ends only when the source is seen to have it"
    if verdict.at_source == planning.RESUME:
        assert there == planning.ABSENT, "the source goes on only when the destination is seen not to have it"
    runs_here = source == planning.RUNS and verdict.at_source != planning.DROP or verdict.at_source == planning.RESUME
    runs_there = there == planning.RUNS and verdict.at_destination != planning.DROP
    assert not (runs_here and runs_there)
    assert verdict.reason


@pytest.mark.parametrize(
    ("source", "there", "owner", "at_source", "at_destination"),
    [
        (planning.ABSENT, planning.RUNS, "destination", "finish", "finish"),
        (planning.RUNS, planning.ABSENT, "source", "keep", "drop"),
        (planning.HALTED, planning.ABSENT, "source", "resume", "drop"),
        (planning.HALTED, planning.RUNS, "destination", "drop", "finish"),
        (planning.DEFINED, planning.RUNS, "destination", "drop", "finish"),
        (planning.DEFINED, planning.DEFINED, "destination", "drop", "finish"),
        (planning.RUNS, planning.HALTED, "source", "keep", "drop"),
        (planning.RUNS, planning.RUNS, "both", "drop", "finish"),
        (planning.HALTED, planning.SILENT, "unknown", "ask", "wait"),
        (planning.RUNS, planning.SILENT, "source", "keep", "wait"),
        (planning.SILENT, planning.RUNS, "destination", "wait", "finish"),
        (planning.SILENT, planning.ABSENT, "unknown", "wait", "wait"),
        (planning.ABSENT, planning.ABSENT, "nobody", "keep", "keep"),
        (planning.MOVING, planning.ARRIVING, "source", "wait", "wait"),
        (planning.HALTED, planning.SPLIT, "unknown", "ask", "ask"),
    ],
)
def test_whose_it_is(source: str, there: str, owner: str, at_source: str, at_destination: str) -> None:
    verdict = settle(source, there)
    assert (verdict.owner, verdict.at_source, verdict.at_destination) == (owner, at_source, at_destination)
