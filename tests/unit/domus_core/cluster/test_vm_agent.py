"""The OCF agent's actions on a server that is told how to behave."""

from __future__ import annotations

import dataclasses
from typing import Optional

import pytest
from domus_core.cluster.pool import RESTART, STAY_OFF
from domus_core.cluster.records import PoolRecord
from domus_core.cluster.vm_agent import ERR_GENERIC, ERR_INSTALLED, NOT_RUNNING, SUCCESS, VmAgent
from domus_core.errors import Busy, DriverError, NotFound, Unreachable
from domus_core.libvirt_driver.qemu_processes import RUNNING, STOPPED, UNKNOWN

RECORD = PoolRecord("uuid", "web1", "<domain/>", stop_timeout=10)


@dataclasses.dataclass
class FakeHost:
    """A server; `told` is what was done to it. `hears` are the steps that end the VM, `locked_for` how many seconds a disk is still locked."""

    state: str = STOPPED
    clears_at: Optional[float] = None
    found: Optional[PoolRecord] = RECORD
    kept: Optional[PoolRecord] = RECORD
    hears: tuple[str, ...] = ("shutdown", "destroy", "term", "kill")
    libvirt: bool = True
    locked_for: float = 0.0
    why: str = ""
    saved: bool = False
    migrates: bool = True
    lost_in_migration: bool = False
    settled: bool = True
    being_stopped: bool = False
    now: float = 0.0
    name: str = "srv1"
    told: list[str] = dataclasses.field(default_factory=list)

    def look(self) -> str:
        return self.state if self.clears_at is None or self.now < self.clears_at else STOPPED

    def is_being_stopped(self) -> bool:
        return self.being_stopped

    def record(self) -> PoolRecord:
        if self.found is None:
            raise DriverError("its record can not be read")
        return self.found

    def copy(self) -> Optional[PoolRecord]:
        return self.kept

    def keep_copy(self, record: PoolRecord) -> None:
        self.kept = record

    def note_server(self) -> None:
        self.told.append("noted")

    def is_start_settled(self) -> bool:
        return self.settled

    def define_and_start(self, record: PoolRecord) -> None:
        self._ask("start")
        if self.now < self.locked_for:
            raise Busy("starting web1: resource busy: Failed to acquire lock: Lockspace resource is locked")
        self.state = RUNNING

    def has_saved_memory(self) -> bool:
        return self.saved

    def ask_to_shut_down(self) -> None:
        self._ask("shutdown")
        self._end("shutdown")

    def destroy(self) -> None:
        self._ask("destroy")
        self._end("destroy")

    def end_process(self, force: bool) -> None:
        self.told.append("kill" if force else "term")
        self._end(self.told[-1])

    def why_off(self) -> str:
        self._ask("why")
        return self.why

    def stay_off(self) -> None:
        self.told.append("stays off")

    def migrate(self, target: str) -> None:
        self._ask(f"migrate {target}")
        if self.lost_in_migration or self.migrates:
            self.state = STOPPED
        if not self.migrates:
            raise DriverError("migration broke off")

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _ask(self, what: str) -> None:
        self.told.append(what)
        if not self.libvirt:
            raise Unreachable("libvirt does not answer")

    def _end(self, step: str) -> None:
        if step in self.hears:
            self.state = STOPPED


@pytest.mark.parametrize(("state", "code"), [(RUNNING, SUCCESS), (STOPPED, NOT_RUNNING), (UNKNOWN, ERR_GENERIC)])
def test_monitor_says_what_is_proven_without_libvirt_and_record(state: str, code: int) -> None:
    assert VmAgent(FakeHost(state, libvirt=False, found=None, kept=None)).monitor().code == code


@pytest.mark.parametrize(
    ("why", "wish", "told"),
    [("shutdown", STAY_OFF, True), ("shutdown", RESTART, False), ("", STAY_OFF, False), ("saved", RESTART, True), ("crashed", STAY_OFF, False)],
)
def test_a_guests_own_shutdown_is_honoured_a_crash_is_not(why: str, wish: str, told: bool) -> None:
    host = FakeHost(STOPPED, why=why, kept=dataclasses.replace(RECORD, on_shutdown=wish))
    assert VmAgent(host).monitor().code == NOT_RUNNING
    assert ("stays off" in host.told) == told


@pytest.mark.parametrize("why", ["", "shutdown", "crashed"])
def test_what_somebody_stops_stays_off_whatever_libvirt_says(why: str) -> None:
    host = FakeHost(STOPPED, why=why, kept=dataclasses.replace(RECORD, on_shutdown=RESTART), being_stopped=True, libvirt=False)
    assert VmAgent(host).monitor().code == NOT_RUNNING
    assert "stays off" in host.told


def test_a_probe_wishes_nothing() -> None:
    host = FakeHost(STOPPED, why="shutdown")
    assert VmAgent(host, is_probe=True).monitor().code == NOT_RUNNING
    assert host.told == []


def test_a_shutdown_that_nobody_can_vouch_for_is_a_crash() -> None:
    host = FakeHost(STOPPED, why="shutdown", libvirt=False)
    assert VmAgent(host).monitor().code == NOT_RUNNING
    assert "stays off" not in host.told


def test_start_keeps_a_copy_notes_the_server_and_waits_its_delay() -> None:
    host = FakeHost(kept=None, found=dataclasses.replace(RECORD, start_delay=7))
    assert VmAgent(host).start().code == SUCCESS
    assert host.kept == host.found and host.told == ["start", "noted"] and host.now == 7


def test_start_of_what_runs_does_nothing() -> None:
    host = FakeHost(RUNNING)
    assert VmAgent(host).start().code == SUCCESS and host.told == []


def test_a_doubt_that_is_settled_soon_is_none() -> None:
    assert VmAgent(FakeHost(UNKNOWN, clears_at=3)).monitor().code == NOT_RUNNING
    assert VmAgent(FakeHost(UNKNOWN, clears_at=30)).monitor().code == ERR_GENERIC


def test_start_beside_a_dying_qemu_is_refused() -> None:
    host = FakeHost(UNKNOWN)
    assert VmAgent(host).start().code == ERR_GENERIC and host.told == []


def test_start_waits_for_a_lock_as_long_as_its_patience() -> None:
    assert VmAgent(FakeHost(locked_for=20), patience=30).start().code == SUCCESS
    host = FakeHost(locked_for=40)
    answer = VmAgent(host, patience=30).start()
    assert answer.code == ERR_GENERIC and "lock" in answer.reason
    assert 30 <= host.now < 31


def test_start_leaves_off_waiting_before_its_own_time_is_over() -> None:
    host = FakeHost(locked_for=1000)
    assert VmAgent(host, seconds=60, patience=500).start().code == ERR_GENERIC
    assert host.now <= 31


def test_start_without_a_record_starts_nothing_though_there_is_a_copy() -> None:
    host = FakeHost(found=None, kept=RECORD)
    assert VmAgent(host).start().code == ERR_GENERIC and host.told == []


def test_start_of_a_vm_saved_elsewhere() -> None:
    away = dataclasses.replace(RECORD, saved_on="srv2")
    assert VmAgent(FakeHost(found=away)).start().code == ERR_INSTALLED
    assert VmAgent(FakeHost(found=away, saved=True)).start().code == SUCCESS
    assert VmAgent(FakeHost(found=dataclasses.replace(RECORD, saved_on="srv1"))).start().code == SUCCESS


@pytest.mark.parametrize(
    ("hears", "last"), [(("shutdown",), "shutdown"), (("destroy",), "destroy"), (("term",), "term"), (("kill",), "kill")], ids=lambda value: str(value)
)
def test_stop_goes_on_to_stronger_means(hears: tuple[str, ...], last: str) -> None:
    host = FakeHost(RUNNING, hears=hears)
    assert VmAgent(host).stop().code == SUCCESS
    assert host.told[-1] == last


def test_stop_without_libvirt_ends_the_process() -> None:
    host = FakeHost(RUNNING, libvirt=False)
    assert VmAgent(host).stop().code == SUCCESS
    assert host.told == ["shutdown", "destroy", "term"]


def test_stop_without_proof_is_no_success_and_keeps_within_its_time() -> None:
    for state in (RUNNING, UNKNOWN):
        host = FakeHost(state, hears=())
        assert VmAgent(host, seconds=100).stop().code == ERR_GENERIC
        assert host.now <= 100


def test_a_start_that_may_still_go_on_is_no_proof_of_anything() -> None:
    """No process yet, and libvirt was asked for one."""
    for action in ("monitor", "start", "stop"):
        host = FakeHost(STOPPED, settled=False)
        assert getattr(VmAgent(host), action)().code == ERR_GENERIC
        assert "start" not in host.told


def test_stop_of_what_is_off_asks_nobody() -> None:
    host = FakeHost(STOPPED, libvirt=False, kept=None, found=None)
    assert VmAgent(host).stop().code == SUCCESS and host.told == []


def test_a_migration_that_fails_says_where_the_vm_is() -> None:
    answer = VmAgent(FakeHost(RUNNING, migrates=False)).migrate_to("srv2")
    assert answer.code == ERR_GENERIC and "runs on here" in answer.reason
    answer = VmAgent(FakeHost(RUNNING, migrates=False, lost_in_migration=True)).migrate_to("srv2")
    assert answer.code == ERR_GENERIC and "does not run here" in answer.reason


def test_migration() -> None:
    host = FakeHost(RUNNING)
    assert VmAgent(host).migrate_to("srv2").code == SUCCESS and host.told == ["migrate srv2"]
    assert VmAgent(FakeHost(STOPPED)).migrate_to("srv2").code == ERR_GENERIC
    assert VmAgent(FakeHost(RUNNING)).migrate_from().code == SUCCESS
    assert VmAgent(FakeHost(STOPPED)).migrate_from().code == ERR_GENERIC


def test_validation() -> None:
    assert VmAgent(FakeHost()).validate().code == SUCCESS
    assert VmAgent(FakeHost(found=None)).validate().code == ERR_GENERIC

    class Unknown(FakeHost):
        def record(self) -> PoolRecord:
            raise NotFound("has no record")

    assert VmAgent(Unknown()).validate().code == ERR_INSTALLED
