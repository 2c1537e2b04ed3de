"""`start` and `start-raw`: real QEMU guests started by one document, against a loop over virsh and against libvirt-python with threads."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import libvirt
from domus_core.engine import WORKERS, Report, apply
from domus_core.libvirt_driver.driver import SYSTEM, open_driver
from domus_core.model.document import parse_document

from .measuring import alternate, line, median, spread

VMS, ROUNDS = 40, 3
NAMES = [f"domus-bench-{os.getpid()}-{number:02}" for number in range(VMS)]
# Nothing but a processor and memory: what is measured is who asks libvirt, and how.
SMALL: dict[str, Any] = {"memory": "16MiB", "machine": "pc", "serial_console": False, "rng": False, "guest_agent": False}


def measure(directory: Path) -> Iterator[str]:
    """Wall time until all guests run, each contender with its own connection to open; all start the same domains, which are killed in between."""
    contenders = (lambda: _apply("running", directory), _virsh, _raw)
    try:
        _apply("stopped", directory)
        _start(contenders[0])  # the first guest of a libvirtd waits until QEMU is asked what it can do
        ours, virsh, raw = alternate(ROUNDS, *(lambda contender=contender: _start(contender) for contender in contenders))
    finally:
        _for_all(_remove)
    facts = (f"vms={VMS}", f"spread={spread(ours)}", f"cpus={os.cpu_count()}")
    yield line("start", median(ours), median(virsh), *facts, f"peer_spread={spread(virsh)}", "wanted>=1.4")
    yield line("start-raw", median(ours), median(raw), *facts, f"peer_spread={spread(raw)}", f"threads={WORKERS}", "wanted>=0.9")


def _start(contender: Callable[[], Any]) -> float:
    """How many seconds a contender takes; then the guests are killed."""
    began = time.perf_counter()
    contender()
    seconds = time.perf_counter() - began
    with closing(libvirt.open(SYSTEM)) as connection:
        running = {domain.name() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)}
    _for_all(lambda domain: domain.isActive() and domain.destroy())
    if not running.issuperset(NAMES):
        raise RuntimeError(f"{len(set(NAMES) - running)} guests do not run")
    return seconds


def _apply(state: str, directory: Path) -> Report:
    vms = [{"name": name, "state": state, **SMALL} for name in NAMES]
    with closing(open_driver(SYSTEM, str(directory / "state"))) as driver:
        report = apply(parse_document({"servers": [{"name": "localhost", "virtualization": "qemu"}], "vms": vms}), driver)
    if report.errors:
        raise report.errors[0]
    return report


def _virsh() -> None:
    for name in NAMES:
        subprocess.run(["virsh", "--quiet", "--connect", SYSTEM, "start", name], check=True, stdout=subprocess.DEVNULL)


def _raw() -> None:
    _for_all(lambda domain: domain.create())


def _for_all(act: Callable[[Any], Any]) -> None:
    with closing(libvirt.open(SYSTEM)) as connection, ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda name: act(connection.lookupByName(name)), NAMES))


def _remove(domain: Any) -> None:
    if domain.isActive():
        domain.destroy()
    domain.undefine()
