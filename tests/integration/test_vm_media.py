"""Media of CD-ROM drives in real QEMUs: changed while they run, whatever guest and firmware do with the tray."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest
from domus_core.errors import InvalidSpec

from tests.integration.server_under_test import SMALL, ServerUnderTest

pytestmark = pytest.mark.libvirt

SECURE = 1


def test_the_medium_of_a_usb_drive_waits_and_is_never_taken_out(server: ServerUnderTest) -> None:
    server.vm(**SMALL, cdroms=[{"name": "cd", "iso": "cd1", "bus": "usb"}], state="running")
    server.vm(cdroms=[{"name": "cd", "iso": "cd2"}])
    assert server.waiting() == {"cdroms[cd].iso"}
    with pytest.raises(InvalidSpec) as raised:
        server.vm(cdroms=[{"name": "cd", "iso": ""}])
    assert raised.value.field == "cdroms[cd].iso" and raised.value.remedy
    server.vm(state="stopped")
    assert server.vm(state="running").running.cdroms[0].iso == "cd2"


@pytest.mark.parametrize("iso", ["cd2", ""])
def test_a_medium_is_changed_after_the_guest_has_closed_the_tray_unseen(iso: str, server: ServerUnderTest) -> None:
    server.vm(**SMALL, cdroms=[{"name": "cd", "iso": "cd1"}], state="running")
    # The firmware would look at the drive once more.
    server.domain().suspend()
    drive = server.xml(flags=SECURE).find("devices/disk[@device='cdrom']")
    assert drive.find("target").get("bus") == "ide"
    monitor(server, json.dumps({"execute": "blockdev-open-tray", "arguments": {"id": drive.find("alias").get("name")}}))
    eventually(lambda: server.xml(flags=SECURE).find("devices/disk/target").get("tray") == "open")
    # A software reset of the first IDE bus, as drivers do it: the tray is closed then, and libvirt not told.
    for value in (4, 0):
        monitor(server, "--hmp", f"o /b 0x3f6 {value}")
    eventually(lambda: '"tray_open":false' in monitor(server, json.dumps({"execute": "query-block"})))
    assert server.xml(flags=SECURE).find("devices/disk/target").get("tray") == "open"
    server.vm(cdroms=[{"name": "cd", "iso": iso}])
    sources = [str(one) for one in server.xml(flags=SECURE).xpath("devices/disk/source/@file")]
    assert sources == ([str(server.main / "ISOs/2.iso")] if iso else []) and server.waiting() == set()


def monitor(server: ServerUnderTest, *command: str) -> str:
    """What QEMU answers."""
    argv = ["virsh", "--connect", server.connection.getURI(), "qemu-monitor-command", server.domain().UUIDString(), *command]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def eventually(question: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + 20
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_media_are_changed_while_the_firmware_looks_at_the_drive(server: ServerUnderTest) -> None:
    server.vm(**SMALL, cdroms=[{"name": "cd", "iso": "cd1"}], state="running")
    for number in range(12):
        server.vm(cdroms=[{"name": "cd", "iso": ("cd2", "", "cd1")[number % 3]}])
        assert server.waiting() == set()
