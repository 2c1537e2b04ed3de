"""libvirt's events become ours, and a libvirt that is away is told once."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest
from domus_agent.libvirt_events import _DOMAIN_EVENTS, BACK, LOST, RESIZED, LibvirtEvents, Seen
from domus_core.libvirt_driver.connection import connect

PATIENCE = 20
DOMAIN = "<domain type='test'><name>{}</name><memory unit='MiB'>8</memory><os><type>hvm</type></os></domain>"


@pytest.fixture
def listening() -> Iterator[queue.Queue[Seen]]:
    """What is heard from libvirt's test driver."""
    heard: queue.Queue[Seen] = queue.Queue()
    events = LibvirtEvents("test:///default", heard.put)
    events.start()
    assert heard.get(timeout=PATIENCE) == Seen(BACK)
    yield heard
    events.stop()
    assert events.connection is None


@pytest.fixture
def connection(listening: queue.Queue[Seen]) -> Iterator[Any]:
    """A connection to the same test driver."""
    opened = connect("test:///default")
    yield opened
    opened.close()


def told(seen: Seen) -> tuple[str, str, str, Any]:
    return seen.kind, seen.state, seen.name, seen.data.get("reason")


def test_a_domains_life(listening: queue.Queue[Seen], connection: Any) -> None:
    domain = connection.defineXML(DOMAIN.format("lived"))
    domain.create()
    domain.suspend()
    domain.resume()
    domain.destroy()
    uuid = domain.UUIDString()
    domain.undefine()
    seen = [listening.get(timeout=PATIENCE) for dummy in range(6)]
    assert [told(one) for one in seen] == [
        ("vm.defined", "", "lived", "added"),
        ("vm.started", "running", "lived", "booted"),
        ("vm.suspended", "paused", "lived", "paused"),
        ("vm.resumed", "running", "lived", "unpaused"),
        ("vm.stopped", "stopped", "lived", "destroyed"),
        ("vm.undefined", "gone", "lived", "removed"),
    ]
    assert {(one.object_kind, one.uuid) for one in seen} == {("vm", uuid)}


def test_a_networks_life(listening: queue.Queue[Seen], connection: Any) -> None:
    network = connection.networkLookupByName("default")
    network.destroy()
    network.create()
    seen = [listening.get(timeout=PATIENCE) for dummy in range(2)]
    assert [(one.kind, one.object_kind, one.name) for one in seen] == [("network.stopped", "network", "default"), ("network.started", "network", "default")]


@pytest.mark.parametrize(
    "event, details, kind, severity, data",
    [
        ("LIFECYCLE", (5, 2), "vm.crashed", "error", {"reason": "crashed"}),
        ("LIFECYCLE", (5, 5), "vm.crashed", "error", {"reason": "failed"}),
        ("LIFECYCLE", (5, 4), "vm.stopped", "info", {"reason": "saved"}),
        ("LIFECYCLE", (8, 0), "vm.crashed", "error", {"reason": "panicked"}),
        ("LIFECYCLE", (3, 2), "vm.suspended", "error", {"reason": "io_error"}),
        ("LIFECYCLE", (0, 1), "vm.changed", "info", {"reason": "updated"}),
        ("LIFECYCLE", (2, 99), "vm.started", "info", {"reason": "unknown"}),
        ("REBOOT", (), "vm.rebooted", "info", {}),
        ("WATCHDOG", (2,), "vm.watchdog", "warning", {"action": "reset"}),
        (
            "IO_ERROR_REASON",
            ("/disks/a.qcow2", "virtio-disk0", 1, "enospc"),
            "vm.io_error",
            "error",
            {"device": "virtio-disk0", "path": "/disks/a.qcow2", "action": "pause", "reason": "enospc"},
        ),
        ("DEVICE_ADDED", ("net1",), "vm.changed", "info", {"reason": "device added", "device": "net1"}),
        ("DEVICE_REMOVED", ("net1",), "vm.changed", "info", {"reason": "device removed", "device": "net1"}),
        ("AGENT_LIFECYCLE", (1, 2), "vm.guest_agent", "info", {"state": "connected"}),
        ("METADATA_CHANGE", (2, "urn:x"), "vm.changed", "info", {"reason": "metadata element"}),
        ("BALLOON_CHANGE", (1 << 20,), RESIZED, "info", {}),
    ],
)
def test_what_the_test_driver_can_not_show(event: str, details: tuple[Any, ...], kind: str, severity: str, data: dict[str, Any]) -> None:
    seen = _DOMAIN_EVENTS[event](*details)
    assert seen is not None
    assert (seen.kind, seen.severity, seen.data) == (kind, severity, data)


def test_a_shutdown_that_has_only_begun_is_no_event() -> None:
    assert _DOMAIN_EVENTS["LIFECYCLE"](6, 0) is None


def test_a_libvirt_that_is_away_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domus_agent.libvirt_events.SOON", 0.01)
    heard: queue.Queue[Seen] = queue.Queue()
    events = LibvirtEvents("qemu:///system?socket=/nowhere/libvirt-sock", heard.put)
    events.start()
    first = heard.get(timeout=PATIENCE)
    with pytest.raises(queue.Empty):
        heard.get(timeout=0.5)
    events.stop()
    assert (first.kind, first.severity) == (LOST, "error")
    assert "does not answer" in first.data["reason"]
