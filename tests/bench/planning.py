"""`plan`: a plan for 20,000 VMs, one in a hundred changed, from a snapshot file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import plan_data
from .measuring import ROOT, line, median, spread

VMS, ROUNDS = 20_000, 5


def measure(directory: Path) -> Iterator[str]:
    """Wall time and greatest resident memory of `python -m domus_core`, text output and Python's start included; it has no peer."""
    # In a process of its own: Linux counts what a parent holds at the fork among a child's greatest memory.
    subprocess.run([sys.executable, "-m", plan_data.__name__, str(directory)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wanted, snapshot = directory / "wanted.json", directory / "snapshot.json"
    seconds, memory = [], []
    for _ in range(ROUNDS):
        took, most = _plan(wanted, snapshot, directory / "plan.txt")
        seconds.append(took)
        memory.append(most)
    changes = sum(text.startswith("~") for text in (directory / "plan.txt").read_text(encoding="utf-8").splitlines())
    yield line(
        "plan", median(seconds), None, f"memory={max(memory) >> 20}MiB", f"spread={spread(seconds)}", f"vms={VMS}", f"changes={changes}", "wanted<=2s,<=300MB"
    )


def _plan(wanted: Path, snapshot: Path, output: Path) -> tuple[float, int]:
    with output.open("w", encoding="utf-8") as file:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "domus_core", str(wanted), str(snapshot)], stdout=file, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 2:  # something to change
        raise RuntimeError(f"python -m domus_core ended with {process.returncode}")
    return seconds, usage.ru_maxrss * 1024
