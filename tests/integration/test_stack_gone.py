"""A VM that is deleted behind the manager's back is missed, on a real libvirt."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.private_libvirtd import PrivateLibvirtd
from tests.support.stack import Stack
from tests.support.stack_faults import ended, items

pytestmark = pytest.mark.libvirt

DOCUMENT = {
    "servers": [{"name": "s0", "virtualization": "qemu"}],
    "vms": [{"name": "missed", "memory": "16MiB", "state": "running"}],
}


def test_an_undefined_vm_is_drift_until_it_is_back_or_deleted_through_domus(libvirt_stack: Stack, private_libvirtd: PrivateLibvirtd) -> None:
    stack = libvirt_stack

    def apply() -> None:
        assert ended(stack, stack.client.post("/api/v1/apply", DOCUMENT)["id"])["state"] == "succeeded"

    def drift() -> dict[str, Any]:
        return {one["field"]: one for row in items(stack, "drift", kind="vm") if row["name"] == "missed" for one in row["drift"]}

    def names(field: str) -> bool:
        assert field in drift(), drift()
        return True

    apply()
    private_libvirtd.virsh("undefine", "missed")
    stack.wait_for(lambda: names("name"), "the drift of a VM without a definition")
    private_libvirtd.virsh("destroy", "missed")
    stack.wait_for(lambda: names("state") and drift()["state"]["running"] is None, "the drift of a VM that is gone")
    assert drift()["state"]["asked"] == "running"
    apply()
    stack.wait_for(lambda: not drift(), "the end of the drift")
    assert ended(stack, stack.client.delete("/api/v1/vms/missed")["id"])["state"] == "succeeded"
    stack.wait_for(lambda: not items(stack, "vms", name="missed") and not drift(), "the deletion")
