"""Live changes that QEMU can not always take at once, on a domain that only answers."""

from __future__ import annotations

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

XML = "<domain><name>v</name><devices><disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/></disk></devices></domain>"
SPEC = VmSpec(name="v", cdroms=(CdromSpec(name="cd", iso="one"),))
CHANGE = Change("cdroms[cd].iso", "", "one", LIVE)


class Domain:
    """Refuses the first `refusals` changes, as QEMU does while the firmware looks at the drive."""

    def __init__(self, refusals: int, reason: str = "Tray of the device is not open") -> None:
        self.refusals, self.reason, self.taken = refusals, reason, []

    taken: list[str]

    def XMLDesc(self, flags: int) -> str:
        return XML

    def updateDeviceFlags(self, xml: str, flags: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise libvirt.libvirtError(f"internal error: unable to execute QEMU command 'blockdev-insert-medium': {self.reason}")
        self.taken.append(xml)

    def setMetadata(self, *arguments: Any) -> None:
        """The names are not looked at here."""


def change(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_live, "PAUSE", 0)
    writing = Writing(Places({}), {"one": "/isos/1.iso"}, VmRecord(SPEC, "paris", 1, {"cdroms": {"cd": "sda"}}))
    vm_live.change_running(domain, SPEC, (CHANGE,), writing)


def test_a_tray_that_the_guest_closes_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Domain(refusals=vm_live.TRIES - 1)
    change(domain, monkeypatch)
    assert len(domain.taken) == 1 and "file=\"/isos/1.iso\"" in domain.taken[0]


@pytest.mark.parametrize(("refusals", "reason"), [(vm_live.TRIES, "Tray of the device is not open"), (1, "Permission denied")])
def test_what_does_not_pass_is_told(refusals: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DriverError, match=reason) as refusal:
        change(Domain(refusals, reason), monkeypatch)
    assert refusal.value.field == "cdroms[cd].iso"
