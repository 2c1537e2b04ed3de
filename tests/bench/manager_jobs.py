"""`job`, `job-bulk`: an apply through the manager, from the request until the job has ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.stack import Stack

from .measuring import alternate, format_seconds, line, median, spread
from .sites import document

ROUNDS, BULK_ROUNDS, VMS = 7, 3, 1000
RUNNER = """
import json, sys, tempfile, time, ansible_runner
with tempfile.TemporaryDirectory() as directory:
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"name": "Nothing", "ansible.builtin.ping": {}}]}]
    began = time.perf_counter()
    done = ansible_runner.run(private_data_dir=directory, playbook=play, inventory={"all": {"hosts": {"localhost": {"ansible_connection": "local",
        "ansible_python_interpreter": sys.executable}}}}, quiet=True, settings={"suppress_ansible_output": True})
    print(json.dumps({"seconds": time.perf_counter() - began, "status": done.status}))
"""


def measure_job(directory: Path) -> Iterator[str]:
    """An apply of a document with nothing to do, against ansible-runner with one task and nothing around it."""
    stack = Stack()
    try:
        stack.up()
        wanted = {"servers": [{"name": "s0", "virtualization": "qemu"}]}
        apply(stack, wanted)
        ours, bare = alternate(ROUNDS, lambda: apply(stack, wanted), lambda: _bare_runner(stack))
    finally:
        stack.close()
    times = f"{median(ours) / median(bare):.3g}"
    yield line("job", median(ours), median(bare), f"times={times}", f"spread={spread(ours)}", f"peer_spread={spread(bare)}", "wanted=times<=1.3")


def measure_bulk(directory: Path) -> Iterator[str]:
    """An apply of new VMs, libvirt's test driver behind the agent; a new Domus in each round."""
    seconds = [_bulk() for dummy in range(BULK_ROUNDS)]
    yield line("job-bulk", median(seconds), None, f"vms={VMS}", f"per_vm={format_seconds(median(seconds) / VMS)}", f"spread={spread(seconds)}", "wanted<=4s")


def _bulk() -> float:
    stack = Stack()
    try:
        stack.up()
        wanted = {**document(VMS), "servers": [{"name": "s0", "virtualization": "qemu"}]}
        return apply(stack, wanted)
    finally:
        stack.close()


def apply(stack: Stack, wanted: dict[str, Any]) -> float:
    """Seconds from the request until the job has ended. Raises RuntimeError when it failed."""
    began = time.perf_counter()
    job = stack.client.post("/api/v1/apply", wanted, wait=60)
    seconds = time.perf_counter() - began
    if job["state"] != "succeeded":
        raise RuntimeError(f"{job['state']}: {job['error']}")
    return seconds


def _bare_runner(stack: Stack) -> float:
    environment = {"PATH": f"{stack.install}/venv/bin:/usr/bin:/bin", "HOME": str(stack.directory), "LANG": "C.UTF-8"}
    done = subprocess.run([stack.install / "venv/bin/python", "-c", RUNNER], env=environment, capture_output=True, text=True, check=True, cwd="/")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["status"] != "successful":
        raise RuntimeError(done.stdout + done.stderr)
    return float(told["seconds"])
