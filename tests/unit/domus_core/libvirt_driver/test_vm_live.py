"""Live changes that QEMU can not always take at once, on a domain that only answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from domus_core.errors import DriverError
from domus_core.libvirt_driver import vm_live
from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.device_writer import Writing
from domus_core.libvirt_driver.places import Places
from domus_core.libvirt_driver.vm_record import VmRecord
from domus_core.model.fields import LIVE
from domus_core.model.vm import VmSpec
from domus_core.model.vm_devices import CdromSpec
from domus_core.planning.steps import Change

XML = """<domain><name>v</name><devices><disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
<target dev='sda' bus='sata' tray='{tray}'/><alias name='sata0-0-0'/></disk></devices></domain>"""
SPEC = VmSpec(name="v", cdroms=(CdromSpec(name="cd", iso="one"),))
CHANGE = Change("cdroms[cd].iso", "", "one", LIVE)


REMOVING = "'blockdev-remove-medium': Tray of device 'sata0-0-0' is not open"
INSERTING = "'blockdev-insert-medium': Tray of the device is not open"


class Domain:
    """Refuses the first `refusals` changes, as QEMU does while the firmware looks at the drive; libvirt believes the tray `tray`."""

    def __init__(self, refusals: int, reason: str = REMOVING, tray: str = "closed") -> None:
        self.refusals, self.reason, self.tray = refusals, reason, tray
        self.taken: list[str] = []

    def XMLDesc(self, flags: int) -> str:
        return XML.format(tray=self.tray)

    def UUIDString(self) -> str:
        return "11111111-2222-3333-4444-555555555555"

    def connect(self) -> Any:
        return SimpleNamespace(getURI=lambda: "qemu:///system")

    def updateDeviceFlags(self, xml: str, flags: int) -> None:
        if self.refusals:
            self.refusals -= 1
            libvirt.virResetLastError()  # else the error would be the last real one of this thread
            raise libvirt.libvirtError(f"internal error: unable to execute QEMU command {self.reason}")
        self.taken.append(xml)

    def setMetadata(self, *arguments: Any) -> None:
        """The names are not looked at here."""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that are run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(vm_live, "PAUSE", 0)
    monkeypatch.setattr(vm_live, "run", lambda argv, **rest: commands.append(argv))
    return commands


def change(domain: Domain) -> None:
    writing = Writing(Places({}), {"one": "/isos/1.iso"}, VmRecord(SPEC, "paris", 1, {"cdroms": {"cd": "sda"}}))
    vm_live.change_running(domain, SPEC, (CHANGE,), writing)


@pytest.mark.parametrize("reason", [REMOVING, INSERTING])
def test_a_tray_that_the_guest_closes_is_tried_again(reason: str, ran: list[list[str]]) -> None:
    domain = Domain(vm_live.TRIES - 1, reason)
    change(domain)
    assert len(domain.taken) == 1 and 'file="/isos/1.iso"' in domain.taken[0] and ran == []


def test_a_tray_that_only_libvirt_believes_open_is_opened(ran: list[list[str]]) -> None:
    domain = Domain(refusals=1, tray="open")
    change(domain)
    assert len(domain.taken) == 1
    assert [json.loads(argv[-1]) for argv in ran] == [{"execute": "blockdev-open-tray", "arguments": {"id": "sata0-0-0"}}]
    assert ran[0][:-1] == ["virsh", "--connect", "qemu:///system", "qemu-monitor-command", "--domain", domain.UUIDString()]


def test_opening_the_tray_may_fail(monkeypatch: pytest.MonkeyPatch, ran: list[list[str]]) -> None:
    def refuse(argv: list[str], **rest: Any) -> None:
        raise DriverError("no")

    monkeypatch.setattr(vm_live, "run", refuse)
    domain = Domain(refusals=2, tray="open")
    change(domain)
    assert len(domain.taken) == 1


def test_a_change_never_moves_the_tray(ran: list[list[str]]) -> None:
    domain = Domain(refusals=0, tray="open")
    change(domain)
    assert "tray" not in domain.taken[0]


@pytest.mark.parametrize("reason", [REMOVING, INSERTING, "timed out waiting to open tray of 'sda'", "'blockdev-remove-medium': Device 'x' is not removable"])
def test_a_medium_that_the_guest_does_not_let_go_waits_for_a_restart(reason: str, ran: list[list[str]]) -> None:
    domain = Domain(vm_live.TRIES, reason)
    change(domain)
    assert domain.taken == []


def test_what_does_not_pass_is_told(ran: list[list[str]]) -> None:
    with pytest.raises(DriverError, match="Permission denied") as refusal:
        change(Domain(1, "Permission denied"))
    assert refusal.value.field == "cdroms[cd].iso"
