"""A VM is powered off also while somebody's question waits for its QEMU."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest
from domus_core.libvirt_driver import vm_power


class Refusal(libvirt.libvirtError):  # type: ignore[misc]
    """libvirt's error with a code."""

    def __init__(self, code: int) -> None:
        super().__init__("told")
        self.code = code

    def get_error_code(self) -> int:
        return self.code


class Domain:
    """Refuses to be ended so many times."""

    def __init__(self, code: int, times: int) -> None:
        self.code, self.left, self.asked = code, times, 0

    def hasManagedSaveImage(self) -> bool:
        return False

    def isActive(self) -> bool:
        return self.left >= 0

    def destroy(self) -> None:
        self.asked += 1
        self.left -= 1
        if self.left >= 0:
            raise Refusal(self.code)


def test_who_waits_for_its_qemu_holds_nobody_up_for_good() -> None:
    domain: Any = Domain(libvirt.VIR_ERR_OPERATION_TIMEOUT, 3)
    vm_power.kill(domain)
    assert domain.asked == 4


@pytest.mark.parametrize(("code", "times", "asked"), [(libvirt.VIR_ERR_OPERATION_TIMEOUT, 9, 4), (libvirt.VIR_ERR_INTERNAL_ERROR, 1, 1)])
def test_but_not_for_ever_and_not_for_another_reason(code: int, times: int, asked: int) -> None:
    domain: Any = Domain(code, times)
    with pytest.raises(libvirt.libvirtError):
        vm_power.kill(domain)
    assert domain.asked == asked
