"""CPU groups: who is asked for what, when a baseline is to be made anew, and which VMs get it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from domus_core.model.vm_devices import CpuBaselineSpec
from domus_core.planning.cpu_groups import Group, Member, groups_of, open_vms, regrouped, with_baselines

EPYC = CpuBaselineSpec("EPYC", "AMD", ("pku",), ("sha-ni",))
SKYLAKE = CpuBaselineSpec("Skylake-Client-IBRS", "Intel", (), ("mpx",))


def member(name: str, cpu: CpuBaselineSpec | None = EPYC, **more: Any) -> Member:
    return Member(**{"id": f"id-{name}", "name": name, "group": "rack1", "cpu": cpu, "virtualization": "kvm", **more})


def group(*members: Member) -> Group:
    return groups_of(members)["rack1"]


def test_equal_cpus_are_one_and_another_member_with_the_same_cpu_changes_nothing() -> None:
    one, three = group(member("a")), group(member("c"), member("b"), member("a"))
    assert one.cpus == three.cpus == (EPYC,)
    assert one.fingerprint == three.fingerprint


@pytest.mark.parametrize("other", [member("b", SKYLAKE), member("b", dataclasses.replace(EPYC, disable=("sha-ni", "vme"))), member("b", virtualization="qemu")])
def test_a_member_with_another_cpu_makes_the_baseline_to_be_made_anew(other: Member) -> None:
    assert group(member("a"), other).fingerprint != group(member("a")).fingerprint


def test_who_has_not_told_takes_no_part() -> None:
    half = group(member("a"), member("b", None))
    assert half.fingerprint == group(member("a")).fingerprint and half.problem is None
    assert "told its CPU" in str(group(member("b", None)).problem)


def test_servers_that_run_vms_differently_have_none() -> None:
    assert group(member("a"), member("b", virtualization="qemu")).problem == (
        "its servers run VMs differently: a by kvm and b by qemu; no VM moves between them"
    )


def test_cpus_that_do_not_go_together_are_told_with_their_servers() -> None:
    mixed = group(*(member(name) for name in "abcd"), member("x", SKYLAKE))
    assert mixed.explained("have no CPU in common: vendors") == (
        "a, b, c and 1 more (AMD EPYC) and x (Intel Skylake-Client-IBRS) have no CPU in common: vendors"
    )


def test_a_document_moves_servers_between_groups() -> None:
    found = groups_of(regrouped([member("a"), member("b")], {"servers": [{"name": "b", "cpu_group": "rack2"}, {"name": "a", "tags": ["x"]}]}))
    assert {name: [one.name for one in each.members] for name, each in found.items()} == {"rack1": ["a"], "rack2": ["b"]}


def test_vms_that_leave_their_cpu_open_get_the_baseline() -> None:
    vms = [
        {"name": "open", "cpu_group": "rack1"},
        {"name": "own", "cpu_group": "rack1", "cpu_model": "host-model"},
        {"name": "given", "cpu_group": "rack1", "cpu_baseline": {"model": "qemu64"}},
        {"name": "earlier", "cpu_group": "rack1"},
        {"name": "gone", "cpu_group": "rack1", "state": "absent"},
        {"name": "anywhere"},
        {"name": "unknown", "cpu_group": "rack9"},
    ]
    assert list(open_vms({"vms": vms}, {"earlier"})) == [("open", "rack1"), ("unknown", "rack9")]
    filled = with_baselines({"site": "paris", "vms": vms}, {"rack1": EPYC}, {"earlier"})
    assert filled["vms"][0] == {
        "name": "open",
        "cpu_group": "rack1",
        "cpu_baseline": {"model": "EPYC", "vendor": "AMD", "require": ["pku"], "disable": ["sha-ni"]},
    }
    assert filled["vms"][1:] == vms[1:] and filled["site"] == "paris" and "cpu_baseline" not in vms[0]
