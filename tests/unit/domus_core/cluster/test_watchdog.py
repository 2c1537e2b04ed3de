"""The watchdog of a member: its file, when Pacemaker may trust it, what is refused, when SBD begins and ends."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from domus_core.cluster import member_files, member_services, watchdog
from domus_core.cluster.cib import wanted_configuration
from domus_core.cluster.membership import fencing_refusal
from domus_core.cluster.pool import FenceDevice, Pool, QuorumDevice, Watchdog, check_pool, fencing_problems
from domus_core.cluster.pool_document import PoolDocument, as_data, read_pool_document
from domus_core.errors import Conflict, DriverError, Unsupported
from hypothesis import given
from hypothesis import strategies as some
from lxml import etree

from tests.unit.domus_core.cluster.pools import pool

DISKS = 'SBD_DEVICE="/dev/disk/by-id/shared"\n'
PACKAGED = '#SBD_DEVICE=""\nSBD_WATCHDOG_TIMEOUT=5\n'


def cib_of(one: Pool, **told: str) -> Any:
    """The CIB of a pool, with what members have told of their watchdogs."""
    cib = etree.Element("cib")
    cib.append(wanted_configuration(one, {member.name: number for number, member in enumerate(one.members, 1)}))
    status = etree.SubElement(cib, "status")
    for name, value in told.items():
        state = etree.SubElement(status, "node_state", uname=name)
        attributes = etree.SubElement(etree.SubElement(state, "transient_attributes"), "instance_attributes")
        etree.SubElement(attributes, "nvpair", name=watchdog.TOLD, value=value)
    return cib


@given(some.integers(5, 300))
def test_its_file_tells_its_timeout(seconds: int) -> None:
    text = watchdog.sbd_file(Watchdog(seconds))
    assert watchdog.wanted_timeout(text) == seconds and "SBD_DEVICE" not in text
    watchdog.require_ours(text)


def test_a_file_of_somebody_else_says_nothing_and_one_with_disks_is_kept() -> None:
    assert watchdog.wanted_timeout(PACKAGED) is None
    watchdog.require_ours(PACKAGED)
    with pytest.raises(Conflict):
        watchdog.require_ours(DISKS)


def test_pacemaker_is_to_wait_twice_as_long_and_only_where_it_is_asked_for() -> None:
    name = f".//nvpair[@name='{watchdog.WATCHDOG_PROPERTY}']"
    assert [pair.get("value") for pair in cib_of(pool(watchdog=Watchdog(15))).iterfind(name)] == ["30s"]
    assert cib_of(pool()).find(name) is None


def test_it_is_trusted_only_when_each_member_has_told() -> None:
    names, asked = ["srv1", "srv2"], Watchdog(10)
    assert watchdog.members_without(cib_of(pool(), srv1="10", srv2="10"), names, asked) == []
    assert watchdog.members_without(cib_of(pool(), srv1="10", srv2="20"), names, asked) == ["srv2"]
    assert watchdog.members_without(cib_of(pool()), names, asked) == names
    assert watchdog.members_without(cib_of(pool()), names, None) == []
    assert watchdog.members_without(cib_of(pool(watchdog=asked)), names, asked) == [], "Pacemaker starts nowhere without, once it is trusted"


@pytest.mark.parametrize(("value", "trusted"), [("20s", True), ("-1", True), ("0", False), ("0s", False), ("00ms", False), ("", False)])
def test_what_pacemaker_takes_for_trust(value: str, trusted: bool) -> None:
    cib = cib_of(pool(watchdog=Watchdog(10)))
    cib.find(f".//nvpair[@name='{watchdog.WATCHDOG_PROPERTY}']").set("value", value)
    assert watchdog.is_trusted(cib) == trusted


@pytest.mark.parametrize(
    ("one", "field"),
    [
        (pool(2, watchdog=Watchdog(60)), "watchdog"),
        (pool(2, watchdog=Watchdog(34), quorum_device=QuorumDevice("qnetd")), "watchdog.timeout"),
        (pool(2, watchdog=Watchdog(35), quorum_device=QuorumDevice("qnetd")), None),
        (pool(3, watchdog=Watchdog(5)), None),
        (pool(1, watchdog=Watchdog(5)), None),
    ],
)
def test_where_it_would_not_reset_whom_it_must(one: Pool, field: str | None) -> None:
    assert [problem.field for problem in check_pool(one)] == ([field] if field else [])


def test_ha_needs_no_device_with_it_but_a_device_that_is_there_is_tested() -> None:
    bare, asked = pool(devices=()), pool(devices=(), watchdog=Watchdog(10))
    assert fencing_refusal(cib_of(bare), "srv1", ()) is not None and fencing_refusal(cib_of(asked), "srv1", ()) is None
    assert len(fencing_problems(bare, ())) == 3 and fencing_problems(asked, ()) == []
    some_device = pool(devices=(FenceDevice("bmc", "fence_test", {"srv2": ""}),), watchdog=Watchdog(10))
    assert "bmc" in str(fencing_refusal(cib_of(some_device), "srv1", ())) and len(fencing_problems(some_device, ())) == 1


def test_it_survives_the_way_to_a_member() -> None:
    document = PoolDocument(pool(watchdog=Watchdog(12)), {"srv1": 1, "srv2": 2, "srv3": 3})
    assert read_pool_document(json.loads(json.dumps(as_data(document)))).pool.watchdog == Watchdog(12)


# --- on a member


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SBD's file, and the others of a member, in a directory."""
    for name in ("CONF", "KEY", "SETTINGS", "OCF_LINK", "FENCING"):
        monkeypatch.setattr(member_files, name, str(tmp_path / name.lower()))
    for module in (member_files, member_services):
        monkeypatch.setattr(module, "WATCHDOG_FILE", str(tmp_path / "sbd"))
    return tmp_path / "sbd"


def document(seconds: int | None) -> PoolDocument:
    one = pool(watchdog=None if seconds is None else Watchdog(seconds))
    return PoolDocument(one, {"srv1": 1, "srv2": 2, "srv3": 3}, base64.b64encode(bytes(128)).decode())


def test_its_file_comes_and_goes_with_it(file: Path) -> None:
    file.write_text(PACKAGED)
    assert str(file) in member_files.write_files(document(10)) and watchdog.wanted_timeout(file.read_text()) == 10
    assert member_files.write_files(document(10)) == []
    assert str(file) in member_files.write_files(document(None)) and not file.exists()
    file.write_text(PACKAGED)
    assert member_files.write_files(document(None)) == [] and file.read_text() == PACKAGED
    file.write_text(DISKS)
    with pytest.raises(Conflict):
        member_files.write_files(document(10))


class Member:
    """The services of a member, as systemd would have them."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, running: int | None = None, corosync: bool = False, enabled: bool = False, device: bool = True
    ) -> None:
        self.commands: list[str] = []
        self.told: list[int] = []
        self.running = running
        monkeypatch.setattr(member_services, "is_active", lambda unit: corosync)
        monkeypatch.setattr(member_services, "ask", lambda argv, **more: (0 if enabled else 1, "enabled\n" if enabled else "disabled\n"))
        monkeypatch.setattr(member_services, "run", lambda argv, **more: self.commands.append(" ".join(argv)) or "")
        monkeypatch.setattr(member_services, "running_timeout", lambda: self.running)
        monkeypatch.setattr(member_services, "tell", self.told.append)
        monkeypatch.setattr(member_services, "rest_member", lambda check=False: ["stopped"])
        monkeypatch.setattr(watchdog, "DEVICE", "/dev/null" if device else "/dev/no-watchdog")


def test_it_begins_with_corosync_and_is_told_when_it_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member_files.write_files(document(10))
    fresh = Member(monkeypatch)
    assert member_services._follow_watchdog(False) == ["the watchdog begins with Corosync"] and fresh.commands == ["systemctl enable sbd.service"]
    with pytest.raises(DriverError):
        member_services._tell_of_watchdog()
    fresh.running = 10
    member_services._tell_of_watchdog()
    assert fresh.told == [10]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"ActiveState": "active", "ActiveEnterTimestamp": "@1001"}, 15),
        ({"ActiveState": "active", "ActiveEnterTimestamp": "@999"}, 0),
        ({"ActiveState": "inactive", "ActiveEnterTimestamp": "@1001"}, None),
        ({}, None),
    ],
)
def test_it_runs_by_its_file_when_it_was_started_after_it(told: dict[str, str], seconds: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["activating", "activating"]
    monkeypatch.setattr(watchdog, "PAUSE", 0)
    monkeypatch.setattr(watchdog, "FILE", str(tmp_path / "sbd"))
    monkeypatch.setattr(watchdog, "_shown", lambda name, *options: states.pop() if name == "ActiveState" and states else told.get(name, ""))
    (tmp_path / "sbd").write_text(watchdog.sbd_file(Watchdog(15)))
    os.utime(tmp_path / "sbd", (1000, 1000))
    assert watchdog.running_timeout() == seconds and states == []


def test_a_member_that_runs_without_it_is_started_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member_files.write_files(document(10))
    Member(monkeypatch, corosync=True, enabled=True)
    assert member_services._follow_watchdog(False) == ["stopped", member_services.ANEW]
    Member(monkeypatch, corosync=True, enabled=True, running=10)
    assert member_services._follow_watchdog(False) == []


def test_a_member_that_leaves_takes_it_along(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Member(monkeypatch, corosync=True, enabled=True, running=10)
    member_services.stop_member()
    assert one.commands == ["systemctl disable corosync.service pacemaker.service"]
    member_files.write_files(document(10))
    member_services.stop_member()
    assert one.commands[1:] == ["systemctl disable corosync.service pacemaker.service", "systemctl disable sbd.service"]


def test_who_has_none_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member_files.write_files(document(10))
    Member(monkeypatch, device=False)
    with pytest.raises(Unsupported):
        member_services._follow_watchdog(True)


def test_without_it_sbd_begins_no_more_unless_it_is_somebody_elses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Member(monkeypatch, corosync=True, enabled=True, running=10)
    assert member_services._follow_watchdog(False) == ["the watchdog begins with Corosync no more"] and one.commands == ["systemctl disable sbd.service"]
    file.write_text(DISKS)
    assert member_services._follow_watchdog(False) == []
