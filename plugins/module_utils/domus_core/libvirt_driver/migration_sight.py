"""What is seen of a VM that moves, on this server and through the libvirt of the other one."""

from __future__ import annotations

import contextlib
from typing import Any

from ..errors import DomusError
from ..planning import migration as planning
from .bounded import bounded
from .connection import code_of, connect, libvirt, translate

PEER_SECONDS, KEEPALIVE = 10.0, (5, 3)


def look(connection: Any, uuid: str, *, arriving: bool) -> str:
    """The VM on a server, in the words of planning.migration; `arriving` when it is the destination. Raises Unreachable."""
    try:
        domain = connection.lookupByUUIDString(uuid)
        if not domain.isActive():
            return planning.DEFINED
        state, reason = domain.state()
        persistent = bool(domain.isPersistent())
        # While it comes its QEMU is not to be asked: libvirt has the last steps to take in it, and the guest stands still meanwhile.
        coming = arriving and not persistent and (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
        busy = coming or _is_busy(domain)
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
            return planning.ABSENT
        if code_of(error) == libvirt.VIR_ERR_OPERATION_INVALID:  # it ended between two questions
            return look(connection, uuid, arriving=arriving)
        raise translate(error, "looking at the VM") from None
    return _word(state, reason, busy, persistent, arriving)


def _is_busy(domain: Any) -> bool:
    """Is libvirt at it? What comes in has no statistics while the source's are the ones that count."""
    try:
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return True
        raise


def _word(state: int, reason: int, busy: bool, persistent: bool, arriving: bool) -> str:
    paused = state == libvirt.VIR_DOMAIN_PAUSED
    broken = libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED if paused else getattr(libvirt, "VIR_DOMAIN_RUNNING_POSTCOPY_FAILED", -1)
    if reason == broken and state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_RUNNING):
        return planning.SPLIT
    if paused and arriving and not persistent:
        return planning.ARRIVING
    if busy:
        return planning.MOVING
    return planning.HALTED if paused else planning.RUNS


def look_there(uri: str, uuid: str, *, arriving: bool) -> str:
    """The same on another server, through its libvirt; `silent` when that does not answer."""

    def ask() -> str:
        connection = connect(uri)
        try:
            with contextlib.suppress(libvirt.libvirtError):
                connection.setKeepAlive(*KEEPALIVE)
            return look(connection, uuid, arriving=arriving)
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    try:
        return str(bounded(ask, PEER_SECONDS, "asking the other server"))
    except DomusError:
        return planning.SILENT
