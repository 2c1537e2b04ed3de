"""What all measurements share: a line of the benchmark, medians, and playbooks run as a user runs them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PEERS = ROOT / ".bench"
TEST_DRIVER = "test:///default"


def line(name: str, ours: float, peer: Optional[float], *facts: str) -> str:
    """The line of a measurement of seconds: ratio says how many times as fast as the peer we are; facts follow."""
    ratio = "-" if peer is None else format_ratio(peer / ours)
    return " ".join([name, f"ours={format_seconds(ours)}", f"peer={'-' if peer is None else format_seconds(peer)}", f"ratio={ratio}", *facts])


def format_seconds(seconds: float) -> str:
    """Seconds with three digits that count, below one as milliseconds."""
    return f"{seconds * 1000:.3g}ms" if seconds < 0.9995 else f"{seconds:.3g}s" if seconds < 100 else f"{seconds:.0f}s"


def format_ratio(ratio: float) -> str:
    """A ratio with three digits that count."""
    return f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


def spread(seconds: Sequence[float]) -> str:
    """The least and the greatest of what was measured."""
    return f"{format_seconds(min(seconds))}..{format_seconds(max(seconds))}"


def alternate(rounds: int, *contenders: Callable[[], float]) -> list[list[float]]:
    """Let the contenders take turns, so that what else the machine does meets all of them; what each measured, in their order."""
    measured: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for results, contender in zip(measured, contenders):
            results.append(contender())
    return measured


def median(seconds: Sequence[float]) -> float:
    """The median."""
    return statistics.median(seconds)


class Playbook:
    """A playbook of tasks for this machine, in a directory of its own."""

    def __init__(self, directory: Path, tasks: list[dict[str, Any]]) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
        (directory / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")

    def run(self, *options: str) -> tuple[float, str]:
        """The wall time in seconds of the whole ansible-playbook, with Ansible's default settings, and its output. Raises RuntimeError when it fails."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_COLLECTIONS_PATH": f"{ROOT / '.collections'}:{PEERS}",
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_REMOTE_TEMP": str(self.directory / "tmp"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        command = [str(BIN / "ansible-playbook"), "play.yml", *options]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise RuntimeError(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return seconds, done.stdout
