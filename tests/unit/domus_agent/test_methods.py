"""The table of methods: who may call what, with which parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_agent.config import AgentConfig
from domus_agent.connections import Connections
from domus_agent.libvirt_tls import LibvirtTls
from domus_agent.methods import METHODS, SUBMIT, Methods, Parameter, checked
from domus_agent.operations import Operations
from domus_agent.ownership import FREE, JOB, MANAGER, Caller, Ownership
from domus_agent.store import AgentStore
from domus_core.errors import Conflict, Forbidden, InvalidSpec, NotFound
from domus_core.fake_driver.driver import FakeDriver

FOR_JOBS = {"hello", "submit", "status", "cancel", "plan"}
FOR_ANYBODY = {"hello", "take_over"}


@pytest.fixture
def methods(tmp_path: Path) -> Methods:
    store, connections = AgentStore(str(tmp_path)), Connections("test:///default", str(tmp_path / "state"))
    ownership = Ownership(str(tmp_path), str(tmp_path / "state"), store)
    operations, libvirt_tls = Operations(store, connections, lambda: ownership.server_id), LibvirtTls(AgentConfig(directory=str(tmp_path)), store)
    return Methods(ownership, store, operations, connections, "1.2.3", libvirt_tls)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_for_those_whom_the_contract_names(methods: Methods, name: str) -> None:
    allowed = {FREE: name in FOR_ANYBODY, JOB: name in FOR_JOBS, MANAGER: name != "take_over"}
    assert {role: role in METHODS[name].roles for role in allowed} == allowed
    for role, may in allowed.items():
        if not may:
            with pytest.raises(Forbidden):
                methods.call(name, {}, Caller(role))


@pytest.mark.parametrize("name", ["", "shell", "__class__", "_hello", "x" * 1000])
def test_no_other_method_is_there(methods: Methods, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        methods.call(name, {}, Caller(MANAGER))
    assert len(caught.value.object) < 80


def test_hello_tells_who_the_server_is(methods: Methods) -> None:
    told = methods.call("hello", {}, Caller(FREE))
    assert set(told) == {"server", "name", "version", "protocols", "owned", "manager", "csr", "problem", "host_uuid", "libvirt_csr"}
    assert (told["version"], told["owned"]) == ("1.2.3", False)


@pytest.mark.parametrize("kind", SUBMIT)
def test_an_operation_may_name_what_belongs_to_the_other_kind_as_null(methods: Methods, kind: str) -> None:
    given: dict[str, Any] = {"operation": "a", "kind": kind, **dict.fromkeys({name for one in SUBMIT.values() for name in one} - set(SUBMIT[kind]))}
    with pytest.raises(InvalidSpec) as caught:
        methods.call("submit", given, Caller(MANAGER, "1", "ab"))
    assert "missing" in caught.value.message


@pytest.mark.parametrize("operation", ["", "../x", "a b", "a" * 101, "-", "ä"])
def test_an_operation_id_is_a_plain_word(methods: Methods, operation: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        methods.call("submit", {"operation": operation, "kind": "apply", "document": {}}, Caller(MANAGER, "1", "ab"))
    assert caught.value.field == "operation"


def test_parameters_are_checked_and_filled_in() -> None:
    known = {
        "text": Parameter((str,)),
        "seconds": Parameter((int, float), 0.0, 20.0),
        "flag": Parameter((bool,), False),
        "maybe": Parameter((str, type(None)), None),
    }
    assert checked(known, {"text": "a", "seconds": 20}) == {"text": "a", "seconds": 20, "flag": False, "maybe": None}
    wrong: list[dict[str, Any]] = [
        *({}, {"text": 1}, {"text": None}, {"text": "a", "other": 1}, {"text": "a", "seconds": True}, {"text": "a", "seconds": 20.1}),
        *({"text": "a", "seconds": -1}, {"text": "a", "seconds": float("nan")}, {"text": "a", "flag": 1}, {"text": "a", "maybe": []}),
    ]
    for given in wrong:
        with pytest.raises(InvalidSpec):
            checked(known, given)


def test_names_to_adopt_are_texts(methods: Methods) -> None:
    with pytest.raises(InvalidSpec):
        methods.call("adopt", {"vms": [{}]}, Caller(MANAGER))


def test_the_baseline_of_cpus_is_asked_of_the_driver(methods: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def driver(self: Connections) -> Iterator[FakeDriver]:
        yield FakeDriver()

    monkeypatch.setattr(Connections, "driver", driver)

    def asked(*cpus: Any) -> Any:
        return methods.call("baseline_cpu", {"cpus": list(cpus)}, Caller(MANAGER))["cpu"]

    epyc, rome = {"model": "EPYC", "vendor": "AMD", "disable": ["vme"]}, {"model": "EPYC-Rome", "vendor": None}
    assert asked(rome, epyc) == {"model": "EPYC", "vendor": "AMD", "require": [], "disable": ["vme"]}
    with pytest.raises(Conflict):
        asked(epyc, {"model": "Nehalem"})
    for wrong in ({}, {"model": "<cpu/>"}, {"model": "EPYC", "xml": "x"}, "EPYC", None):
        with pytest.raises(InvalidSpec):
            asked(epyc, wrong)
    with pytest.raises(InvalidSpec):
        asked()
