"""The probe guest really runs, a hanging emulator is ended, and the answer is remembered for the right time."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from domus_core.libvirt_driver import kvm_probe
from domus_core.libvirt_driver.kvm_probe import GUEST_ANSWERED, runs_guest, usable_kvm

# Far above what any loaded machine needs: these tests ask what is answered, never how fast.
PATIENT = 120.0

Emulator = Callable[[str], Path]


@pytest.fixture
def emulator(tmp_path: Path) -> Emulator:
    """Make a stand-in for QEMU that notes each start in the file `starts` and then does as told."""

    def make(script: str) -> Path:
        path = tmp_path / "emulator"
        path.write_text(f'#!/bin/sh\necho "$$ $*" >> {tmp_path}/starts\n{script}\n')
        path.chmod(0o755)
        return path

    return make


def starts(tmp_path: Path) -> list[str]:
    return (tmp_path / "starts").read_text().splitlines()


def qemu() -> str:
    path = shutil.which("qemu-system-x86_64")
    assert path, "QEMU is missing: apt-get install qemu-system-x86"
    return path


@pytest.mark.libvirt
def test_the_guest_answers_under_software_emulation() -> None:
    assert runs_guest(qemu(), "tcg", PATIENT)


@pytest.mark.libvirt
@pytest.mark.parametrize("damage", [b"\xf4\xeb\xfd", b"\x66\xba\x01\x05\xb0\x07\xee"], ids=["halts", "answers wrongly"])
def test_another_guest_is_no_proof(monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setattr(kvm_probe, "BOOT_SECTOR", damage + kvm_probe.BOOT_SECTOR[len(damage) :])
    assert not runs_guest(qemu(), "tcg", 5.0)


@pytest.mark.libvirt
def test_an_accelerator_that_is_not_there_runs_nothing() -> None:
    assert not runs_guest(qemu(), "xen", PATIENT)


def test_the_boot_sector_is_one() -> None:
    assert len(kvm_probe.BOOT_SECTOR) == 512
    assert kvm_probe.BOOT_SECTOR.endswith(b"\x55\xaa")


@pytest.mark.parametrize("code", [0, 1, GUEST_ANSWERED, 127])
def test_only_the_code_of_the_guest_is_a_yes(emulator: Emulator, tmp_path: Path, code: int) -> None:
    assert usable_kvm(str(emulator(f"exit {code}")), str(tmp_path / "state")) is (code == GUEST_ANSWERED)


def test_kvm_is_what_is_asked_for(emulator: Emulator, tmp_path: Path) -> None:
    usable_kvm(str(emulator("exit 0")), str(tmp_path / "state"))
    assert "-accel kvm " in starts(tmp_path)[0]


def test_an_emulator_that_is_not_there_is_a_no(tmp_path: Path) -> None:
    assert not usable_kvm(str(tmp_path / "missing"), str(tmp_path / "state"))


@pytest.mark.parametrize("machine", ["aarch64", "s390x"])
def test_an_architecture_without_probe_guest_is_a_no(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert not usable_kvm(str(emulator(f"exit {GUEST_ANSWERED}")), str(tmp_path / "state"))
    assert not (tmp_path / "starts").exists()


def test_a_hanging_emulator_is_ended_with_its_children(emulator: Emulator, tmp_path: Path) -> None:
    hanging = emulator(f"trap '' TERM INT HUP\nsleep 3600 & echo $! >> {tmp_path}/starts\nwait")
    assert not usable_kvm(str(hanging), str(tmp_path / "state"))
    processes = [int(line.split()[0]) for line in starts(tmp_path)]
    assert len(processes) == 2
    assert not Path(f"/proc/{processes[0]}").exists()
    assert eventually(lambda: not is_alive(processes[1]))


def is_alive(process: int) -> bool:
    """Whether the process runs; one that only waits to be collected by its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_disk_of_the_guest_is_private_and_gone_afterwards(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    usable_kvm(str(emulator(f"ls -ld {tmp_path}/domus-* >> {tmp_path}/seen; exit 0")), str(tmp_path / "state"))
    assert (tmp_path / "seen").read_text().startswith("drwx------")
    assert not list(tmp_path.glob("domus-*"))


@pytest.mark.parametrize("code", [0, GUEST_ANSWERED])
def test_the_answer_is_remembered(emulator: Emulator, tmp_path: Path, code: int) -> None:
    path, state = str(emulator(f"exit {code}")), str(tmp_path / "state")
    assert usable_kvm(path, state) is usable_kvm(path, state) is (code == GUEST_ANSWERED)
    assert len(starts(tmp_path)) == 1


def test_the_memory_is_readable_by_all_and_nothing_lies_beside_it(emulator: Emulator, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        usable_kvm(str(emulator("exit 0")), str(tmp_path / "state"))
    finally:
        os.umask(before)
    memory = tmp_path / "state" / "kvm-probe.json"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o644
    assert os.listdir(tmp_path / "state") == ["kvm-probe.json"]


def change_boot(memory: Path, emulator: Path) -> None:
    content: dict[str, Any] = json.loads(memory.read_text())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot in content["key"]
    memory.write_text(json.dumps({**content, "key": ["another boot" if part == boot else part for part in content["key"]]}))


FORGETTING: dict[str, Callable[[Path, Path], object]] = {
    "another boot": change_boot,
    "a new emulator": lambda memory, emulator: emulator.write_text(emulator.read_text() + "\n"),
    "cut off": lambda memory, emulator: memory.write_text(memory.read_text()[:-9]),
    "empty": lambda memory, emulator: memory.write_text(""),
    "not text": lambda memory, emulator: memory.write_bytes(b"\xff\xfe\x00"),
    "another type": lambda memory, emulator: memory.write_text("[1]"),
    "deep": lambda memory, emulator: memory.write_text("[" * 100_000),
    "no yes or no": lambda memory, emulator: memory.write_text(memory.read_text().replace("false", '"false"')),
    "gone": lambda memory, emulator: memory.unlink(),
}


@pytest.mark.parametrize("forget", FORGETTING.values(), ids=FORGETTING)
def test_what_is_changed_or_damaged_is_asked_again(emulator: Emulator, tmp_path: Path, forget: Callable[[Path, Path], object]) -> None:
    path, state = emulator("exit 0"), tmp_path / "state"
    usable_kvm(str(path), str(state))
    forget(state / "kvm-probe.json", path)
    usable_kvm(str(path), str(state))
    usable_kvm(str(path), str(state))
    assert len(starts(tmp_path)) == 2


def test_another_emulator_is_asked_itself(emulator: Emulator, tmp_path: Path) -> None:
    first = emulator("exit 0")
    second = tmp_path / "second"
    second.write_text(f"#!/bin/sh\nexit {GUEST_ANSWERED}\n")
    second.chmod(0o755)
    assert not usable_kvm(str(first), str(tmp_path / "state"))
    assert usable_kvm(str(second), str(tmp_path / "state"))


def test_a_directory_that_can_not_be_written_costs_only_the_memory(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a directory")
    assert usable_kvm(str(emulator(f"exit {GUEST_ANSWERED}")), str(tmp_path / "state"))
