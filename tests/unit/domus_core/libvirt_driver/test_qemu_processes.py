"""Proof from /proc, on a /proc made of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from domus_core.libvirt_driver.qemu_processes import RUNNING, STOPPED, UNKNOWN, find_qemu, look, remember, remembered, started

UUID = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"


class Proc:
    """A /proc with some processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "proc"
        self.note = str(folder / "state" / "note")
        (self.folder / "self").mkdir(parents=True)

    def add(self, pid: int, arguments: tuple[str, ...], *, comm: str = "qemu-system-x86", state: str = "S", start: int = 700, threads: int = 1) -> None:
        place = self.folder / str(pid)
        for thread in range(threads):
            (place / "task" / str(pid + thread)).mkdir(parents=True, exist_ok=True)
        (place / "cmdline").write_bytes(b"".join(one.encode() + b"\0" for one in arguments))
        (place / "comm").write_text(f"{comm}\n")
        (place / "stat").write_text(f"{pid} (a) b) {state} {' '.join(str(number) for number in range(4, 22))} {start} 0 0\n")

    def look(self) -> str:
        return look(UUID, self.note, str(self.folder))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def qemu(uuid: str) -> tuple[str, ...]:
    return ("/usr/bin/qemu-system-x86_64", "-name", "guest=web1,debug-threads=on", "-uuid", uuid, "-no-user-config")


def test_the_start_is_read_behind_a_name_with_brackets(proc: Proc) -> None:
    proc.add(5, qemu(UUID), start=4711)
    assert started(5, str(proc.folder)) == "4711"
    assert started(6, str(proc.folder)) == ""


def test_nobody_is_stopped(proc: Proc) -> None:
    proc.add(5, qemu(OTHER))
    proc.add(6, ("vim", UUID), comm="vim")
    proc.add(7, ("grep", "-uuid", UUID), comm="grep")
    proc.add(8, (), comm="kworker")
    assert proc.look() == STOPPED


def test_found_by_its_arguments_and_remembered(proc: Proc) -> None:
    proc.add(5, qemu(UUID), start=4711)
    assert proc.look() == RUNNING
    assert remembered(proc.note) == (5, "4711")


def test_a_dying_one_that_is_remembered_runs_until_it_is_gone(proc: Proc) -> None:
    proc.add(5, qemu(UUID), start=4711)
    remember(proc.note, 5, str(proc.folder))
    proc.add(5, (), start=4711, state="D")
    assert proc.look() == RUNNING
    proc.add(5, (), start=4711, state="Z", threads=2)
    assert proc.look() == RUNNING, "a thread may still write"
    (proc.folder / "5" / "task" / "6").rmdir()
    assert proc.look() == STOPPED, "a zombie has closed its files"


def test_a_dying_one_that_nobody_knows_is_no_proof(proc: Proc) -> None:
    proc.add(5, (), state="D")
    assert proc.look() == UNKNOWN
    assert find_qemu(UUID, str(proc.folder)) == ([], [5])


def test_a_dying_one_that_is_known_to_be_anothers_is_no_doubt(proc: Proc) -> None:
    proc.add(5, qemu(OTHER), start=4711)
    remember(f"{proc.note}-of-another", 5, str(proc.folder))
    proc.add(5, (), start=4711, state="D")
    assert proc.look() == STOPPED
    proc.add(5, (), start=4712, state="D")
    assert proc.look() == UNKNOWN


def test_a_pid_that_is_another_process_by_now(proc: Proc) -> None:
    proc.add(5, qemu(UUID), start=4711)
    remember(proc.note, 5, str(proc.folder))
    proc.add(5, ("sleep", "9"), comm="sleep", start=9000)
    assert proc.look() == STOPPED


def test_a_note_that_can_not_be_read_or_written_is_no_note(proc: Proc, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    proc.add(5, qemu(UUID))
    assert remembered(proc.note) == (0, "")
    assert proc.look() == RUNNING
