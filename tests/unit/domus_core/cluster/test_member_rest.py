"""A member that rests leaves in order and comes back at the next boot; one that leaves for good does not."""

from __future__ import annotations

import pytest
from domus_core.cluster import member_services
from domus_core.cluster.member_services import DEVICE_UNIT, UNITS, rest_member, stop_member
from domus_core.cluster.pool_status import PoolStatus
from domus_core.errors import Conflict


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemctl is told on a member with a quorum device, on which no HA VM runs."""
    told: list[str] = []
    monkeypatch.setattr(member_services, "is_active", lambda unit: True)
    monkeypatch.setattr(member_services, "has_device", lambda: True)
    monkeypatch.setattr(member_services, "run", lambda command, **more: told.append(" ".join(command[1:])) or "")
    vms(monkeypatch)
    return told


def vms(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(member_services.os, "uname", lambda: type("Name", (), {"nodename": "h1"}))
    status = PoolStatus(True, "h1", {"h1": "online"}, {f"domus-vm-{name}": ("h1",) for name in names}, ())
    monkeypatch.setattr(member_services, "read_status", lambda: status)


def test_who_rests_is_stopped_in_order_and_stays_enabled(commands: list[str]) -> None:
    assert len(rest_member()) == 3
    assert commands == [f"stop {UNITS[1]}", f"stop {DEVICE_UNIT}", f"stop {UNITS[0]}"], "Pacemaker before Corosync: it says goodbye"


def test_who_leaves_does_not_come_back(commands: list[str]) -> None:
    assert len(stop_member()) == 3
    assert commands[-1] == f"disable {' '.join(UNITS)} {DEVICE_UNIT}"


def test_nobody_rests_on_whom_ha_vms_run(commands: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    vms(monkeypatch, "web")
    with pytest.raises(Conflict, match="HA VMs run here: domus-vm-web"):
        rest_member()
    assert commands == []
