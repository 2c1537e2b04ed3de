"""`verb`, `event`: how long a person waits for a verb through the manager, and how long the manager does not know what happened."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Callable

import libvirt
from domus_core.clients.manager import ManagerClient
from domus_core.libvirt_driver.driver import SYSTEM

from tests.support.stack import Stack

from .measuring import alternate, format_seconds, line, median, spread
from .start import SMALL

ROUNDS, DEATHS = 15, 100
PATIENCE = 20.0
NAME = f"domus-bench-{os.getpid()}-verb"


@contextmanager
def _vm(uri: str = SYSTEM) -> Iterator[tuple[Stack, dict[str, Any], Any]]:
    """A whole Domus on the machine's libvirt, a VM of it that is off, and that VM as libvirt knows it."""
    stack = Stack([uri])
    try:
        stack.up()
        document = {"servers": [{"name": "s0", "virtualization": "qemu"}], "vms": [{"name": NAME, "server": "s0", "state": "stopped", **SMALL}]}
        job = stack.client.apply_and_wait(document)
        if job["state"] != "succeeded":
            raise RuntimeError(str(job["error"]))
        with closing(libvirt.open(uri)) as connection:
            domain = connection.lookupByName(NAME)
            try:
                yield stack, stack.client.get(f"/api/v1/vms/{NAME}"), domain
            finally:
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
    finally:
        stack.close()


def measure_verb(directory: Path) -> Iterator[str]:
    """From the request, its TLS connection included, or the start of `virsh`, until libvirt says that the domain runs."""
    with _vm() as (stack, vm, domain):
        command = ["virsh", "--quiet", "--connect", SYSTEM, "start", NAME]

        def post() -> Callable[[], Any]:
            job = stack.client.post(f"/api/v1/vms/{vm['id']}/start", {})
            return lambda: stack.client.follow(job["id"])

        def by_manager() -> float:
            return _until_running(domain, post)

        def by_virsh() -> float:
            return _until_running(domain, lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL).wait)

        by_virsh()  # the first guest of a libvirtd waits until QEMU is asked what it can do
        ours, virsh = alternate(ROUNDS, by_manager, by_virsh)
    added = max(0.0, median(ours) - median(virsh))
    yield line(
        "verb", median(ours), median(virsh), f"added={format_seconds(added)}", f"spread={spread(ours)}", f"peer_spread={spread(virsh)}", "wanted=added<=100ms"
    )


def _until_running(domain: Any, start: Callable[[], Callable[[], Any]]) -> float:
    """Seconds until libvirt says that it runs; what `start` returns waits for its end."""
    _off(domain)
    began = time.perf_counter()
    wait = start()
    while domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:  # it is active before QEMU runs
        if time.perf_counter() - began > PATIENCE:
            raise RuntimeError("the VM does not start")
        time.sleep(0.002)
    seconds = time.perf_counter() - began
    wait()
    return seconds


def _off(domain: Any) -> None:
    if domain.isActive():
        domain.destroy()
    time.sleep(1.0)  # what the manager and the agent do about it is not part of the next round


def measure_event(directory: Path) -> Iterator[str]:
    """From when `virsh destroy` has done its work until the API shows that the VM is off."""
    with _vm() as (stack, vm, domain):
        seconds = sorted(_death(stack.client, vm["id"], domain) for dummy in range(DEATHS))
    p99 = seconds[int(len(seconds) * 0.99) - 1]
    facts = (f"median={format_seconds(median(seconds))}", f"spread={spread(seconds)}", f"deaths={DEATHS}", "wanted=p99<=250ms")
    yield line("event", p99, None, *facts)


def _death(manager: ManagerClient, vm: str, domain: Any) -> float:
    domain.create()
    _wait_for_state(manager, vm, "running")
    domain.destroy()  # waits for the end of QEMU, a second and more
    began = time.perf_counter()
    _wait_for_state(manager, vm, "stopped")
    return time.perf_counter() - began


def _wait_for_state(manager: ManagerClient, vm: str, state: str) -> None:
    deadline = time.perf_counter() + PATIENCE
    while manager.get(f"/api/v1/vms/{vm}", fields="state")["state"] != state:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"the API does not show that the VM is {state}")
        time.sleep(0.005)
