"""Figures come in one bounded call, and what a libvirt does not tell is None."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from domus_agent import statistics
from domus_agent.host_figures import host_figures
from domus_agent.statistics import Statistics, figures
from domus_core.libvirt_driver.connection import connect
from domus_core.libvirt_driver.registry import Registry

PATIENCE = 20


def test_the_test_driver_tells_only_states(tmp_path: Path) -> None:
    told = Statistics("test:///default", str(tmp_path)).collect()
    (vm,) = told["vms"].values()
    assert vm == {"state": "running", **dict.fromkeys(("cpu_time_ns", "vcpus", "memory", "disk_read", "disk_written", "net_received", "net_sent"))}
    json.dumps(told)


def test_figures_are_summed_over_devices() -> None:
    values = {"state.state": 3, "cpu.time": 7, "vcpu.current": 2, "balloon.current": 1024, "block.count": 2, "net.count": 1}
    values |= {"block.0.rd.bytes": 10, "block.1.rd.bytes": 5, "block.1.wr.bytes": 3, "net.0.rx.bytes": 8, "net.0.tx.bytes": 9}
    assert figures(values) == {
        "state": "paused",
        "cpu_time_ns": 7,
        "vcpus": 2,
        "memory": 1 << 20,
        "disk_read": 15,
        "disk_written": 3,
        "net_received": 8,
        "net_sent": 9,
    }


def test_the_host_and_its_repositories(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "objects"))
    registry.write("repository", "main", {"name": "main", "path": str(tmp_path)})
    registry.write("repository", "gone", {"name": "gone", "path": str(tmp_path / "gone")})
    asked = Statistics("test:///default", str(tmp_path))
    first, second = asked.collect()["host"], asked.collect()["host"]
    assert first["cpu"] is None and (second["cpu"] is None or 0 <= second["cpu"] <= 1)
    assert 0 < first["memory_available"] <= first["memory"] and first["cpus"] >= 1 and len(first["load"]) == 3
    assert list(first["file_systems"]) == ["main"]
    assert 0 < first["file_systems"]["main"]["free"] <= first["file_systems"]["main"]["size"]


def test_a_libvirt_that_is_away_leaves_the_host(tmp_path: Path) -> None:
    told = Statistics("qemu:///system?socket=/nowhere/libvirt-sock", str(tmp_path)).collect()
    assert told["vms"] is None and told["host"]["memory"] > 0


def test_a_libvirt_that_hangs_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, asked = threading.Event(), []

    def hang(uri: str) -> Any:
        asked.append(uri)
        answered.wait()
        return connect(uri)

    monkeypatch.setattr(statistics, "LIMIT", 0.05)
    monkeypatch.setattr(statistics, "connect", hang)
    stuck = Statistics("test:///default", str(tmp_path))
    assert [stuck.collect()["vms"] for dummy in range(3)] == [None] * 3
    assert len(asked) == 1
    answered.set()
    assert stuck._asking.acquire(timeout=PATIENCE), "it is answered, and still nobody may ask again"
    stuck._asking.release()
    monkeypatch.setattr(statistics, "LIMIT", 5.0)
    assert stuck.collect()["vms"]


def test_the_kernels_counters_are_told_of_real_disks_and_cards_only(tmp_path: Path) -> None:
    files = {
        "proc/stat": "cpu  10 20 30 400 50 6 7 8 10 0\ncpu0 1 1 1 1 1 1 1 1\n",
        "proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 60 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
        "proc/net/dev": "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n"
        "  eth0:100 0 0 0 0 0 0 0 200 0 0 0 0 0 0 0\n vnet1: 5 0 0 0 0 0 0 0 6 0 0 0 0 0 0 0\n",
        "proc/diskstats": "8 0 sda 1 0 10 0 1 0 20 0 0 0 0\n8 1 sda1 1 0 10 0 1 0 20 0 0 0 0\n253 0 dm-0 1 0 10 0 1 0 20 0 0 0 0\n"
        "7 0 loop0 1 0 1 0 1 0 1 0 0 0 0\n",
        **{f"sys/block/{name}/size": "1" for name in ("sda", "dm-0", "loop0")},
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    told = host_figures(str(tmp_path))
    assert (told["cpu_ticks"], told["cpu_idle_ticks"], told["memory_available"], told["swap_free"]) == (531, 450, 60 << 10, 4 << 10)
    assert told["net"] == {"eth0": {"received": 100, "sent": 200}}
    assert told["disks"] == {"sda": {"read": 5120, "written": 10240}}
    assert host_figures(str(tmp_path / "nowhere"))["cpu_ticks"] is None


def test_who_has_other_vcpus_or_memory_than_before_is_told(tmp_path: Path) -> None:
    class Told(Statistics):
        rounds: list[dict[str, tuple[Any, Any]] | None] = []

        def _vms(self) -> dict[str, Any] | None:
            found = self.rounds.pop(0)
            return None if found is None else {uuid: {"vcpus": vcpus, "memory": memory} for uuid, (vcpus, memory) in found.items()}

    heard: list[list[str]] = []
    told = Told("test:///default", str(tmp_path))
    told.resized = lambda uuids: heard.append(sorted(uuids))
    told.rounds = [
        {"a": (1, 10), "b": (1, 10)},
        {"a": (2, 10), "b": (1, 10), "new": (4, 10)},
        {"a": (None, None), "b": (1, 9)},
        None,
        {"a": (2, 10), "b": (1, 9)},
        {"a": (1, 10)},
    ]
    while told.rounds:
        told.collect()
    assert heard == [["a", "b"], ["a", "new"], ["b"], ["a"]], "what is not told is what it was"
