"""Memory that was needed once goes back to the system: in a process of its own, since it is about that process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AGENT = Path(__file__).parents[3] / "agent"
SCRIPT = """
import threading
from domus_agent import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

memory.use_one_heap()
before = resident()
kept = []

def work():
    # Each too small for a mapping of its own; what is kept last would hold all below it in the heap.
    parts = [bytes(60_000) for dummy in range(1_000)]
    kept.append(parts[-1])

for dummy in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
used = resident()
memory.give_back()
print(before, used, resident())
"""


def test_what_is_free_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], env={"PYTHONPATH": str(AGENT)}, capture_output=True, text=True, check=True)
    before, used, after = (int(word) for word in done.stdout.split())
    assert used - before > 40_000_000
    assert after - before < 10_000_000
