"""`api`, `dbwait`, `idle`: the manager under many requests, many writers, and none."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from domus_core.clients.manager import ManagerClient

from tests.support.made_up import fill
from tests.support.stack import WEB_AUTHORITY, Stack, descendants

from .manager_jobs import apply
from .measuring import format_seconds, line, median
from .sites import document

FEW, MANY, PAGE = 100, 20_000, 100
RATE, SECONDS, CONNECTIONS = 100, 10, 8
WRITERS, WRITING = 16, 30.0
RESTING = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


def measure_api(directory: Path) -> Iterator[str]:
    """Latency at a fixed rate over TLS, kept-alive connections: one VM by id, and a page of 100, among many VMs and among few."""
    measured: dict[int, dict[str, float]] = {}
    for vms in (FEW, MANY):
        stack = Stack(())
        try:
            stack.up()
            ids = fill(stack, vms)
            one = _load(stack.client, [f"/api/v1/vms/{id}" for id in ids])
            measured[vms] = {"one": one, "page": _load(stack.client, [f"/api/v1/vms?limit={PAGE}"])}
        finally:
            stack.close()
    for what, wanted in (("one", "20ms"), ("page", "40ms")):
        many, few = measured[MANY][what], measured[FEW][what]
        facts = (f"growth={many / few:.3g}", f"vms={MANY}", f"peer_vms={FEW}", f"rate={RATE}/s")
        yield line(f"api-{what}", many, few, *facts, f"wanted=p99<={wanted},growth<=1.5")


def _load(client: ManagerClient, paths: list[str]) -> float:
    """The 99th percentile of the latency, counted from when a request was due."""
    begin = time.perf_counter() + 0.5

    def run(connection_number: int) -> list[float]:
        address = urlsplit(client.url)
        connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=client.context, timeout=30)
        found = []
        for number in range(connection_number, RATE * SECONDS, CONNECTIONS):
            due = begin + number / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request("GET", paths[number * 7919 % len(paths)], headers={"Authorization": client.authorization or ""})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {body[:200]!r}")
            found.append(time.perf_counter() - due)
        connection.close()
        return found

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        latencies = sorted(one for found in pool.map(run, range(CONNECTIONS)) for one in found)
    return latencies[int(len(latencies) * 0.99) - 1]


def measure_dbwait(directory: Path) -> Iterator[str]:
    """Clients that write as fast as they can beside an agent's callbacks; the worst and the median wait, and what went wrong."""
    stack = Stack(settings={})
    try:
        stack.up()
        deadline = time.monotonic() + WRITING
        problems: list[str] = []

        def write(number: int) -> list[float]:
            client = ManagerClient(stack.url, (stack.client.authorization or "").partition(" ")[2], str(stack.manager_directory / WEB_AUTHORITY))
            connection = http.client.HTTPSConnection("127.0.0.1", stack.port, context=client.context, timeout=60)
            found = []
            while time.monotonic() < deadline:
                began = time.perf_counter()
                body = b'{"name": "writer"}'
                connection.request("POST", "/api/v1/tokens", body, {"Authorization": client.authorization or "", "Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                found.append(time.perf_counter() - began)
                if answer.status >= 300:
                    problems.append(f"{answer.status} {text[:200]!r}")
                    break
            connection.close()
            return found

        with ThreadPoolExecutor(WRITERS) as pool:
            waits = [one for found in pool.map(write, range(WRITERS)) for one in found]
        locked = stack.log("manager").count("database is locked")
    finally:
        stack.close()
    if problems or locked:
        raise RuntimeError(f"{problems[:3]}, locked {locked} times")
    facts = (f"median={format_seconds(median(waits))}", f"writes={len(waits)}", f"writers={WRITERS}", "locked=0", "wanted=worst<=250ms")
    yield line("dbwait", max(waits), None, *facts)


def measure_idle(directory: Path) -> Iterator[str]:
    """Memory (proportional set size) and processor time of manager and agent with 1,000 VMs and nothing to do."""
    stack = Stack()
    try:
        stack.up()
        apply(stack, {**document(1000), "servers": [{"name": "s0", "virtualization": "qemu"}]})
        time.sleep(5.0)
        groups = {
            "manager": [pid for name in ("manager", "nginx", "runner") for pid in descendants(stack.processes[name].pid)],
            "agent": descendants(stack.processes["agent0"].pid),
        }
        before = {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}
        began = time.monotonic()
        threading.Event().wait(RESTING)
        spent = time.monotonic() - began
        for name, wanted in (("manager", "memory<=200MB,cpu<=2%"), ("agent", "memory<=60MB,cpu<=2%")):
            memory = sum(map(memory_of, groups[name])) / 1e6
            share = (sum(map(cpu_seconds, groups[name])) - before[name]) / spent * 100
            yield f"idle-{name} ours={memory:.0f}MB peer=- ratio=- cpu={share:.2g}% vms=1000 wanted={wanted}"
    finally:
        stack.close()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_of(pid: int) -> int:
    """Bytes of memory, what is shared with others counted by its share (proc(5), Pss)."""
    for entry in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if entry.startswith("Pss:"):
            return int(entry.split()[1]) * 1024
    return 0
