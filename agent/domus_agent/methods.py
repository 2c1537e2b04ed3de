"""The methods that can be called, who may call them, and which parameters they take: one table."""

from __future__ import annotations

import dataclasses
import platform
import re
import threading
from collections.abc import Mapping
from typing import Any, Callable, Optional

from domus_core import engine
from domus_core.clients.wire import PROTOCOLS
from domus_core.cluster.fence_tests import ask_devices, cut_power
from domus_core.cluster.member_sight import membership
from domus_core.cluster.outside import has_systemd, pool_action
from domus_core.errors import DomusError, Forbidden, InvalidSpec, NotFound
from domus_core.libvirt_driver.adoption import adopt
from domus_core.libvirt_driver.server import describe_server
from domus_core.model.document import DEFAULT_SITE, parse_document
from domus_core.model.fields import parse_spec, plain
from domus_core.model.vm_devices import CpuBaselineSpec

from .connections import Connections
from .libvirt_tls import LibvirtTls
from .migrations import Migrations
from .operations import Operations, told_report
from .ownership import FREE, JOB, MANAGER, Caller, Ownership
from .power import Power
from .store import AgentStore

LONGEST_WAIT, SHORT_WAIT = 20.0, 0.5
# Each holds a thread of the door; beyond that they wait shortly, so that other calls find one.
MOST_WAITING = 32
FENCE_SECONDS = 70.0
MOST_SOUGHT = 10_000
MOST_CPUS = 512
MOST_MACS = 256
_NUMBER = (int, float)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter: its types, and its value when it is left out. A number is checked against `most`."""

    types: tuple[type, ...]
    default: Any = _REQUIRED
    most: float = 86400.0


_TEXT, _MAYBE_TEXT = Parameter((str,)), Parameter((str, type(None)), None)
_DOCUMENT = {"document": Parameter((dict,)), "server": _MAYBE_TEXT, "expected": _MAYBE_TEXT, "existing": Parameter((dict, type(None)), None)}
_SECONDS = Parameter(_NUMBER, 0.0)
_PATIENCE = Parameter(_NUMBER, engine.PATIENCE)
SUBMIT: dict[str, dict[str, Parameter]] = {
    "apply": {**_DOCUMENT, "check": Parameter((bool,), False), "wait_for_address": _SECONDS, "patience": _PATIENCE},
    "verb": {
        **{"vm": _TEXT, "verb": _TEXT, "force": Parameter((bool,), False), "timeout": Parameter((int, type(None)), None)},
        **{"site": _MAYBE_TEXT, "patience": _PATIENCE},
    },
    "migrate": {
        **{"vm": _TEXT, "options": Parameter((dict,)), "destination": Parameter((dict,)), "plan": Parameter((dict,)), "probes": Parameter((dict,))},
        **{"address": _TEXT, "tls_name": _MAYBE_TEXT, "source_name": _MAYBE_TEXT, "patience": _PATIENCE},
    },
}


class Methods:
    """What the door offers; `call` is all it needs to know."""

    def __init__(
        self, ownership: Ownership, store: AgentStore, operations: Operations, connections: Connections, version: str, libvirt_tls: LibvirtTls
    ) -> None:
        self.resync: Callable[[], None] = lambda: None
        self.migrations: Optional[Migrations] = None
        self.power = Power(connections, self._under_way)
        self.facts: Callable[[], Optional[Mapping[str, Any]]] = lambda: None
        self._libvirt_tls = libvirt_tls
        self._ownership = ownership
        self._store = store
        self._operations = operations
        self._connections = connections
        self._version = version
        self._waiting = threading.Semaphore(MOST_WAITING)

    def call(self, method: str, parameters: Mapping[str, Any], caller: Caller) -> Any:
        """The method's result. Raises NotFound, Forbidden, InvalidSpec, and what the method raises."""
        known = METHODS.get(method)
        if known is None:
            raise NotFound("there is no such method", object=f"method {method[:60]}", remedy=f"Known: {', '.join(METHODS)}")
        if caller.role not in known.roles:
            raise Forbidden(f"may not be called by {_called(caller)}", object=f"method {method}")
        if method == "submit":
            return self._submit(parameters, caller)
        return known.work(self, checked(known.parameters, parameters), caller)

    def _hello(self, dummy: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        own = self._ownership
        told: dict[str, Any] = {"server": own.server_id, "name": platform.node(), "version": self._version, "protocols": list(PROTOCOLS)}
        told.update(owned=own.owned, manager=own.manager, csr=own.certificate_request(), problem=self._store.problem)
        told.update(host_uuid=(self.facts() or {}).get("uuid"), libvirt_csr=None if told["csr"] is None else self._libvirt_tls.requests())
        if caller.role == MANAGER or (own.owned and own.inviting):
            told.update(known_as=own.name, url=own.url, notes=own.notes)
        return told

    def _take_over(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        papers = {name: value for name, value in parameters.items() if name != "libvirt"}
        credentials = parameters["libvirt"] and self._libvirt_tls.check(parameters["libvirt"])
        taken = self._ownership.take_over(**papers)
        if credentials:
            self._libvirt_tls.install(credentials)
        return taken

    def _readdress(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return self._ownership.readdress(**parameters)

    def _believe(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return self._ownership.believe(parameters["authority"])

    def _remember(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        self._ownership.remember(parameters["notes"])
        return {}

    def _release(self, dummy: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        released = self._ownership.release()
        self._libvirt_tls.remove()
        return released

    def _renewal(self, dummy: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return {"csr": self._ownership.renewal_request(), "serial": self._ownership.serial(), "libvirt_csr": self._libvirt_tls.requests()}

    def _renew(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        credentials = parameters["libvirt"] and self._libvirt_tls.check(parameters["libvirt"])
        if parameters["certificate"]:
            self._ownership.renew(parameters["certificate"])
        if credentials:
            self._libvirt_tls.install(credentials)
        return {}

    def _revoke_libvirt(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        self._libvirt_tls.take_crl(parameters["crl"], parameters["gone"])
        return {}

    def _revoke(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        self._operations.cancel_all_of(self._ownership.revoke(parameters["serial"], parameters["until"]))
        return {}

    def _submit(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        self.power.refuse_work()
        kind = parameters.get("kind")
        if not isinstance(kind, str) or kind not in SUBMIT:
            raise InvalidSpec("is not a kind of operation", field="kind", value=kind, remedy=f"Known: {', '.join(SUBMIT)}")
        asked = {"operation": _TEXT, "kind": _TEXT, **SUBMIT[kind]}
        others = {name for one in SUBMIT.values() for name in one if name not in asked}
        given = {name: value for name, value in parameters.items() if name not in others or value is not None}
        content = checked(asked, given)
        operation, dummy = content.pop("operation"), content.pop("kind")
        if not _ID.fullmatch(operation):
            raise InvalidSpec("is not an operation's id", field="operation", value=operation, remedy="Use a UUID")
        return self._operations.submit(operation, kind, content, _who(caller), caller.serial)

    def _status(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        asked = (parameters["operation"], _only(caller))
        if self._waiting.acquire(blocking=False):
            try:
                return self._operations.status(*asked, parameters["wait"], parameters["since"])
            finally:
                self._waiting.release()
        return self._operations.status(*asked, min(parameters["wait"], SHORT_WAIT), parameters["since"])

    def _cancel(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return self._operations.cancel(parameters["operation"], _only(caller))

    def _plan(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        site = parse_document(parameters["document"], server=parameters["server"])
        with self._connections.driver() as driver:
            report = engine.apply(site, driver, check=True, expected=parameters["expected"], existing=parameters["existing"])
        return told_report(report)

    def _inventory(self, dummy: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        with self._connections.connection() as connection:
            facts = describe_server(connection, virtualization_setting="auto", state_directory=self._connections.state_directory)
        return {"objects": self._store.objects(), "server": facts}

    def _find_vms(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        if len(parameters["vms"]) > MOST_SOUGHT or not all(isinstance(one, str) for one in parameters["vms"]):
            raise InvalidSpec(f"is not a list of at most {MOST_SOUGHT} UUIDs", field="vms")
        with self._connections.driver() as driver:
            found = {uuid: driver.find_vm(uuid) for uuid in dict.fromkeys(parameters["vms"])}
        states = {uuid: one.state for uuid, one in found.items() if one is not None}
        return {"vms": {uuid: {"state": state.state, "persistent": state.persistent} for uuid, state in states.items()}}

    def _baseline_cpu(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        if not 0 < len(parameters["cpus"]) <= MOST_CPUS:
            raise InvalidSpec(f"is not a list of 1 to {MOST_CPUS} CPUs", field="cpus")
        problems: list[DomusError] = []
        cpus = [parse_spec(CpuBaselineSpec, cpu, problems, "cpus") for cpu in parameters["cpus"]]
        if problems:
            raise problems[0]
        with self._connections.driver() as driver:
            return {"cpu": plain(driver.baseline_cpu([cpu for cpu in cpus if cpu is not None]))}

    def _resync(self, dummy: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        mark = self._store.announce_all()
        self.resync()
        return {"mark": mark}

    def _adopt(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        if not all(isinstance(name, str) for name in parameters["vms"] or ()):
            raise InvalidSpec("is not a list of names", field="vms")
        with self._connections.driver() as driver:
            return adopt(driver, parameters["vms"], parameters["site"])

    def _fence_test(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        directory, own, server = self._connections.state_directory, platform.node(), parameters["cut"]
        if has_systemd():  # as Pacemaker runs them: a fence agent may need what this unit has not got
            asked = ["--cut", server] if server else []
            return pool_action("fence-test", "--report", *asked, timeout=FENCE_SECONDS)
        tests = cut_power(directory, own, server) if server else ask_devices(directory, own)
        return {"tests": [dataclasses.asdict(test) for test in tests]}

    def _pool_membership(self, dummy: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return membership()

    def _migration_facts(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return self._migrations_of().facts(parameters["vm"], parameters["contents"])

    def _migration_offer(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        self.power.refuse_work()
        return self._migrations_of().offer(parameters["vm"])

    def _receive_migration(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        self.power.refuse_work()
        return self._migrations_of().receive(**parameters)

    def _settle_migration(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return self._migrations_of().settle(**parameters)

    def _power_off(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        return self.power.off(parameters["reason"])

    def _power_on(self, parameters: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        if not all(isinstance(one, str) for one in parameters["macs"]) or len(parameters["macs"]) > MOST_MACS:
            raise InvalidSpec(f"is not a list of at most {MOST_MACS} MAC addresses", field="macs")
        return self.power.on(parameters)

    def _under_way(self) -> str:
        """What is at work here; empty: nothing."""
        number = self._operations.unfinished()
        coming = self.migrations.coming() if self.migrations is not None else ()
        told = ([f"the arrival of vm {', '.join(coming)}"] if coming else []) + ([f"work of {number} operations"] if number else [])
        return " and ".join(told)

    def _migrations_of(self) -> Migrations:
        if self.migrations is None:
            raise NotFound("this agent moves no VMs", object="method")
        return self.migrations


@dataclasses.dataclass(frozen=True)
class Method:
    """One method: who may call it, and its parameters."""

    work: Callable[[Methods, Mapping[str, Any], Caller], dict[str, Any]]
    roles: tuple[str, ...] = (MANAGER,)
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)


_ANYBODY, _WORKERS = (FREE, JOB, MANAGER), (JOB, MANAGER)
_OPERATION = {"operation": _TEXT}
_TAKE_OVER = dict.fromkeys(("secret", "manager", "url", "authority", "callback_authority", "certificate", "name"), _TEXT)
_PAPERS = Parameter((dict, type(None)), None)
_RECEIVE = {"vm": Parameter((dict,)), "options": Parameter((dict,)), "source": _TEXT, "contents": Parameter((dict,), {})}
METHODS: dict[str, Method] = {
    "hello": Method(Methods._hello, _ANYBODY),
    "take_over": Method(Methods._take_over, (FREE,), {**_TAKE_OVER, "libvirt": _PAPERS}),
    "renewal": Method(Methods._renewal),
    "renew": Method(Methods._renew, parameters={"certificate": _MAYBE_TEXT, "libvirt": _PAPERS}),
    "revoke_libvirt": Method(Methods._revoke_libvirt, parameters={"crl": _TEXT, "gone": Parameter((list,), [])}),
    "readdress": Method(Methods._readdress, parameters={"url": _TEXT, "callback_authority": _TEXT}),
    "believe": Method(Methods._believe, parameters={"authority": _TEXT}),
    "remember": Method(Methods._remember, parameters={"notes": Parameter((dict,))}),
    "release": Method(Methods._release),
    "revoke": Method(Methods._revoke, parameters={"serial": _TEXT, "until": Parameter(_NUMBER, most=1e11)}),
    "submit": Method(Methods._submit, _WORKERS),
    "status": Method(Methods._status, _WORKERS, {**_OPERATION, "wait": Parameter(_NUMBER, 0.0, LONGEST_WAIT), "since": Parameter((int,), 0, 1e9)}),
    "cancel": Method(Methods._cancel, _WORKERS, _OPERATION),
    "plan": Method(Methods._plan, _WORKERS, _DOCUMENT),
    "inventory": Method(Methods._inventory),
    "find_vms": Method(Methods._find_vms, parameters={"vms": Parameter((list,))}),
    "baseline_cpu": Method(Methods._baseline_cpu, parameters={"cpus": Parameter((list,))}),
    "fence_test": Method(Methods._fence_test, parameters={"cut": _MAYBE_TEXT}),
    "power_off": Method(Methods._power_off, parameters={"reason": _TEXT}),
    "power_on": Method(Methods._power_on, parameters={"server": _MAYBE_TEXT, "macs": Parameter((list,), [])}),
    "pool_membership": Method(Methods._pool_membership),
    "resync": Method(Methods._resync),
    "migration_facts": Method(Methods._migration_facts, parameters={"vm": _TEXT, "contents": Parameter((bool,), False)}),
    "migration_offer": Method(Methods._migration_offer, parameters={"vm": Parameter((dict,))}),
    "receive_migration": Method(Methods._receive_migration, parameters={**_OPERATION, **_RECEIVE}),
    "settle_migration": Method(
        Methods._settle_migration,
        parameters={"uuid": _TEXT, "discard": Parameter((bool,), False), "wait": Parameter(_NUMBER, 0.0, LONGEST_WAIT), "there": _MAYBE_TEXT},
    ),
    "adopt": Method(Methods._adopt, parameters={"vms": Parameter((list, type(None)), None), "site": Parameter((str,), DEFAULT_SITE)}),
}


def checked(known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with their defaults. Raises InvalidSpec for one that is unknown, missing or of another type."""
    for name in given:
        if name not in known:
            raise InvalidSpec("is not a parameter of this method", field=str(name)[:60], remedy=f"Known: {', '.join(known) or 'none'}")
    return {name: _checked(name, parameter, given) for name, parameter in known.items()}


def _checked(name: str, parameter: Parameter, given: Mapping[str, Any]) -> Any:
    if name not in given:
        if parameter.default is _REQUIRED:
            raise InvalidSpec("is missing", field=name)
        return parameter.default
    value = given[name]
    if not isinstance(value, parameter.types) or (isinstance(value, bool) and bool not in parameter.types):
        wanted = " or ".join("null" if one is type(None) else one.__name__ for one in parameter.types)
        raise InvalidSpec(f"must be of type {wanted}, not {type(value).__name__}", field=name)
    if isinstance(value, _NUMBER) and not 0 <= value <= parameter.most:
        raise InvalidSpec(f"must be between 0 and {parameter.most:g}", field=name, value=value)
    return value


def _who(caller: Caller) -> str:
    return f"{caller.role}:{caller.name}"


def _only(caller: Caller) -> Optional[str]:
    """A job sees its own operations; the manager sees all."""
    return None if caller.role == MANAGER else _who(caller)


def _called(caller: Caller) -> str:
    return {
        FREE: "anybody: it takes the certificate of a manager that has taken this server over",
        JOB: "a job",
        MANAGER: "the manager: it has taken this server over already",
    }[caller.role]
