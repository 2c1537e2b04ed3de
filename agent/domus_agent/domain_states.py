"""The run states of all domains, asked for in one call, and what must have happened between two such looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from domus_core.libvirt_driver.connection import libvirt, told
from domus_core.libvirt_driver.vm_power import STATES

from .libvirt_events import Seen

# https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainShutoffReason: crashed, failed
_SHUT_OFF, _CRASHED, _NO_STATE = 5, (3, 6), 0
_WORDS = {("stopped", "running"): "vm.started", ("stopped", "paused"): "vm.started", ("running", "paused"): "vm.suspended", ("paused", "running"): "vm.resumed"}


@dataclasses.dataclass(frozen=True)
class Domain:
    """A domain as far as one look at all tells: running, paused or stopped, and whether it crashed."""

    uuid: str
    state: str
    crashed: bool = False


def list_domains(connection: Any) -> dict[str, Domain]:
    """All domains by name; does not wait for a QEMU that hangs. Raises DomusError."""
    with told("listing the domains"):
        answer = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    domains = {}
    for domain, values in answer:
        number = values.get("state.state", _NO_STATE)
        crashed = number == _SHUT_OFF and values.get("state.reason") in _CRASHED
        domains[domain.name()] = Domain(domain.UUIDString(), STATES.get(number, "stopped"), crashed)
    return domains


def differences(known: Mapping[str, Domain], listed: Mapping[str, Domain]) -> dict[str, tuple[Seen, ...]]:
    """What must have happened to each domain since it was last known, as events marked `meanwhile`."""
    happened = {}
    for name in sorted(known.keys() | listed.keys()):
        events = _between(name, known.get(name), listed.get(name))
        if events:
            happened[name] = events
    return happened


def _between(name: str, before: Domain | None, now: Domain | None) -> tuple[Seen, ...]:
    if before is not None and (now is None or now.uuid != before.uuid):
        gone = Domain(before.uuid, "stopped")
        return (*_moved(name, before, gone), _seen("vm.undefined", "gone", name, before.uuid), *(_between(name, None, now)))
    if before is None:
        return () if now is None else (_seen("vm.defined", "", name, now.uuid), *_moved(name, Domain(now.uuid, "stopped"), now))
    return _moved(name, before, now) if now is not None else ()


def _moved(name: str, before: Domain, now: Domain) -> tuple[Seen, ...]:
    if before.state == now.state:
        return ()
    kind = _WORDS.get((before.state, now.state), "vm.crashed" if now.crashed else "vm.stopped")
    return (_seen(kind, now.state, name, now.uuid),)


def _seen(kind: str, state: str, name: str, uuid: str) -> Seen:
    return Seen(kind, state, "vm", name, uuid, "error" if kind == "vm.crashed" else "info", {"meanwhile": True})
