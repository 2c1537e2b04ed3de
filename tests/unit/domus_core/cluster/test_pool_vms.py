"""The VMs of a pool, listed, started and stopped by a member without the manager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster import pool_vms
from domus_core.cluster.pool_problems import Problem
from domus_core.cluster.pool_status import PoolStatus
from domus_core.cluster.pool_vms import STARTED, STOPPED, set_wanted, vms_of
from domus_core.cluster.records import PoolRecord
from domus_core.errors import Conflict, Forbidden, NotFound, Unreachable
from domus_core.libvirt_driver.xml_fields import etree

CIB = etree.fromstring((Path(__file__).parent / "samples" / "cib.xml").read_bytes())
FAILED = Problem("action_failed", "vm0", "could not start VM vm0 on h1: no disk", "mend it", "h1", "start")


class Pacemaker:
    """Says where the VMs run, before it was told something (`servers`) and afterwards (`later`)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.servers: dict[str, tuple[str, ...]] = {"domus-vm-vm0": ("h2",), "domus-vm-vm1": ("h3",)}
        self.later = dict(self.servers)
        self.quorate, self.problems = True, ()  # type: tuple[bool, tuple[Problem, ...]]
        self.told: list[list[str]] = []
        self.never_ends = False
        monkeypatch.setattr(pool_vms.Pacemaker, "read", lambda self: CIB)
        monkeypatch.setattr(pool_vms, "read_status", self.status)
        monkeypatch.setattr(pool_vms, "run", self.run)

    def status(self) -> PoolStatus:
        return PoolStatus(self.quorate, "h1", {"h1": "online"}, self.later if self.told else self.servers, self.problems)

    def run(self, argv: list[str], **dummy: Any) -> str:
        self.told.append(argv)
        if "--wait" in argv and self.never_ends:
            raise Unreachable("did not end")
        return ""


@pytest.fixture
def pacemaker(monkeypatch: pytest.MonkeyPatch) -> Pacemaker:
    return Pacemaker(monkeypatch)


def test_vms_with_ha_and_without_are_listed(pacemaker: Pacemaker) -> None:
    pacemaker.problems = (FAILED,)
    uuid = next(vm.uuid for vm in vms_of(CIB, pacemaker.status(), ()) if vm.name == "vm0")
    assert len(uuid) == 36
    records = [PoolRecord("u-plain", "plain", "<domain/>", server="h1"), PoolRecord(uuid, "vm0", "<domain/>", server="h9")]
    assert [(vm.name, vm.is_ha, vm.servers, vm.wanted, vm.problems) for vm in vms_of(CIB, pacemaker.status(), records)] == [
        ("plain", False, ("h1",), None, ()),
        ("vm0", True, ("h2",), "Started", (FAILED.text,)),
        ("vm1", True, ("h3",), "Started", ()),
    ]


def test_a_vm_is_stopped_by_its_target_role(pacemaker: Pacemaker) -> None:
    pacemaker.later["domus-vm-vm0"] = ()
    assert set_wanted("vm0", STOPPED, 5, check=True) == ["vm vm0 stopped"] and pacemaker.told == []
    assert set_wanted("vm0", STOPPED, 5) == ["vm vm0 stopped"]
    role = ["--meta", "--set-parameter", "target-role", "--parameter-value", "Stopped"]
    assert pacemaker.told == [["crm_resource", "--resource", "domus-vm-vm0", *role], ["crm_resource", "--wait", "--timeout", "5s"]]


def test_what_is_so_already_is_left(pacemaker: Pacemaker) -> None:
    assert set_wanted("vm0", STARTED, 5) == [] and pacemaker.told == []


def test_a_vm_that_does_not_start_says_why(pacemaker: Pacemaker) -> None:
    pacemaker.servers["domus-vm-vm0"] = pacemaker.later["domus-vm-vm0"] = ()
    with pytest.raises(Conflict, match="no server has room"):
        set_wanted("vm0", STARTED, 5)
    pacemaker.problems = (FAILED,)
    with pytest.raises(Conflict, match="no disk"):
        set_wanted("vm0", STARTED, 5)
    pacemaker.never_ends = True
    with pytest.raises(Unreachable, match="after 5 s"):
        set_wanted("vm0", STARTED, 5)
    pacemaker.told.clear()
    pacemaker.later["domus-vm-vm0"] = ("h1",)
    assert set_wanted("vm0", STARTED, 5) == ["vm vm0 started"], "others may keep Pacemaker busy for longer"


def test_nothing_is_started_without_quorum_nor_what_is_none_of_pacemakers(pacemaker: Pacemaker) -> None:
    pacemaker.quorate = False
    with pytest.raises(Forbidden):
        set_wanted("vm0", STOPPED, 5)
    with pytest.raises(NotFound):
        set_wanted("plain", STOPPED, 5)
    assert pacemaker.told == []
