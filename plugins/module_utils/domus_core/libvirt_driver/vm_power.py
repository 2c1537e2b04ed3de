"""Run states of a domain: start, stop, kill, pause, resume, suspend to disk."""

from __future__ import annotations

import time
from typing import Any, Callable

from ..cancelling import require_not_cancelled
from ..errors import Unreachable
from ..model.vm import VmSpec
from ..planning.steps import KILL, PAUSE, RESUME, START, STOP, SUSPEND
from .connection import code_of, libvirt

POLL = 0.1
ASK_AGAIN = 5.0
DEFAULT_STOP_TIMEOUT = 120
KILL_ATTEMPTS = 4
# https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainState
STATES = {1: "running", 2: "running", 3: "paused", 4: "running", 5: "stopped", 6: "stopped", 7: "running"}


def run_state(domain: Any) -> str:
    """The run state of a domain, in Domus's words."""
    number, reason = domain.state()
    if (number, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP):
        return "running"  # in a moment, whoever asked for it
    state = STATES.get(number, "stopped")
    return "suspended" if state == "stopped" and domain.hasManagedSaveImage() else state


def patience_of(spec: VmSpec) -> int:
    """How many seconds the guest gets to shut down by itself."""
    return DEFAULT_STOP_TIMEOUT if spec.stop_timeout is None else spec.stop_timeout


def stop(domain: Any, spec: VmSpec) -> None:
    """Ask the guest to shut down, again every few seconds: one that is still booting does not hear. Raises Unreachable when it does not, Cancelled."""
    deadline = time.monotonic() + patience_of(spec)
    ask = 0.0
    while domain.isActive():
        now = time.monotonic()
        if now >= deadline:
            _did_not_stop(domain, spec)
            return
        if now >= ask:
            _ask(domain)
            ask = now + ASK_AGAIN
        require_not_cancelled()
        time.sleep(POLL)


def _ask(domain: Any) -> None:
    try:
        domain.shutdown()
    except libvirt.libvirtError as error:
        if code_of(error) != libvirt.VIR_ERR_OPERATION_INVALID:  # it has stopped meanwhile
            raise


def _did_not_stop(domain: Any, spec: VmSpec) -> None:
    if not spec.force_stop:
        raise Unreachable(
            f"its guest did not shut down within {patience_of(spec)} s",
            field="state",
            value="stopped",
            remedy="Look at its console; force_stop: true powers it off",
        )
    kill(domain)


def kill(domain: Any) -> None:
    """Power the domain off; one that is off already is fine."""
    if domain.hasManagedSaveImage():
        domain.managedSaveRemove()
    for attempt in range(1, KILL_ATTEMPTS + 1):
        try:
            if domain.isActive():
                domain.destroy()
            return
        except libvirt.libvirtError as error:
            # Somebody's question waits for this QEMU, which hung on its storage: it ends once that is given up, and libvirt had only 30 seconds.
            if code_of(error) != libvirt.VIR_ERR_OPERATION_TIMEOUT or attempt == KILL_ATTEMPTS:
                raise


def start(domain: Any, spec: VmSpec) -> None:
    """Start the domain, or let it go on from its saved state; one that runs is fine."""
    if domain.isActive():
        return
    saved = domain.hasManagedSaveImage()
    domain.create()
    if saved:
        _catch_up(domain, spec)


def _catch_up(domain: Any, spec: VmSpec) -> None:
    """It may have been paused when it was saved, and with another amount of memory than is wanted now."""
    if run_state(domain) == "paused":
        domain.resume()
    if spec.memory and spec.memory // 1024 <= domain.maxMemory():
        domain.setMemoryFlags(spec.memory // 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)


ACTIONS: dict[str, Callable[[Any, VmSpec], Any]] = {
    START: start,
    STOP: stop,
    KILL: lambda domain, spec: kill(domain),
    PAUSE: lambda domain, spec: domain.suspend(),
    RESUME: lambda domain, spec: run_state(domain) == "paused" and domain.resume(),
    SUSPEND: lambda domain, spec: domain.managedSave(),
}
