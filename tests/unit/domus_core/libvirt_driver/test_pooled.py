"""What a pool adds to the work on a VM, with a membership that only keeps what it is told."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from domus_core.cluster.records import PoolRecord
from domus_core.errors import Forbidden
from domus_core.libvirt_driver.pooled import Pooled

RECORD = PoolRecord("u1", "web1", "<domain/>", {"name": "web1"}, 3, "srv1")


@dataclasses.dataclass
class Membership:
    """srv2's; without quorum nothing is written."""

    record: Any = RECORD
    quorum: bool = True
    server: str = "srv2"

    def find(self, uuid: str) -> Any:
        return self.record

    def save(self, record: PoolRecord) -> bool:
        if not self.quorum:
            raise Forbidden("no quorum")
        self.record = record
        return True


@dataclasses.dataclass
class Domain:
    """A VM that runs or not."""

    active: bool

    def UUIDString(self) -> str:
        return "u1"

    def isActive(self) -> bool:
        return self.active


@pytest.mark.parametrize("active", [True, False])
def test_a_vm_that_has_arrived_is_this_servers_by_its_record(active: bool) -> None:
    member: Any = Membership()
    Pooled(member).arrived(Domain(active))
    assert member.record == dataclasses.replace(RECORD, server="srv2")
    without: Any = Membership(None)
    Pooled(without).arrived(Domain(active))
    assert without.record is None


def test_what_does_not_run_has_not_arrived_before_that_is_written() -> None:
    member: Any = Membership(quorum=False)
    Pooled(member).arrived(Domain(True))
    with pytest.raises(Forbidden):
        Pooled(member).arrived(Domain(False))
