"""Verbs, on memory, on libvirt's test driver and on real QEMU: what they do, what they write down, and what they leave alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_core.driver import Driver
from domus_core.engine import apply
from domus_core.errors import Cancelled, Conflict, DomusError, InvalidSpec, NotFound
from domus_core.fake_driver.file_driver import open_file_driver
from domus_core.libvirt_driver.driver import LibvirtDriver, open_driver
from domus_core.model.document import parse_document
from domus_core.model.vm import VmSpec
from domus_core.planning.steps import START, Step
from domus_core.verbs import VERBS, carry_out_verb

from tests.contract.servers import SERVERS, FakeServer
from tests.integration.server_under_test import PREFIX, SMALL

VM = f"{PREFIX}-verb"
INACTIVE = 2  # VIR_DOMAIN_XML_INACTIVE
ARCHITECTURES = {"test": "i686", "qemu": "x86_64"}
Foreign = tuple[LibvirtDriver, Any]
STATES = {"stopped": (), "running": ("start",), "suspended": ("start", "suspend")}
# What each verb does to a VM in a state: the steps, or None for a refusal. The VM is asked for as stopped.
WANTED: dict[tuple[str, str], Any] = {
    ("start", "stopped"): ["start"],
    ("start", "running"): [],
    ("start", "suspended"): ["start"],
    ("stop", "stopped"): [],
    ("stop", "running"): ["stop"],
    ("stop", "suspended"): ["start", "stop"],
    ("kill", "stopped"): [],
    ("kill", "running"): ["kill"],
    ("kill", "suspended"): ["kill"],
    ("restart", "stopped"): ["start"],
    ("restart", "running"): ["stop", "start"],
    ("restart", "suspended"): ["start", "stop", "start"],
    ("suspend", "stopped"): None,
    ("suspend", "running"): ["suspend"],
    ("suspend", "suspended"): [],
    ("resume", "stopped"): None,
    ("resume", "running"): [],
    ("resume", "suspended"): ["start"],
}


@pytest.fixture(params=["fake", "libvirt-test", pytest.param("libvirt-qemu", marks=pytest.mark.libvirt)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server that is reached directly."""
    made = SERVERS[request.param](tmp_path)
    yield made
    made.close()


def open_for(server: Any) -> Driver:
    """The engine's driver for the server."""
    if isinstance(server, FakeServer):
        return open_file_driver(server.parameters["uri"])
    return open_driver(server.parameters["uri"], server.parameters["state_directory"])


@pytest.fixture
def driver(server: Any) -> Iterator[Driver]:
    """A driver for the server, with one VM that is asked for as stopped."""
    opened = open_for(server)
    (result,) = apply(parse_document({"site": "paris", "vms": [{"name": VM, **SMALL, "state": "stopped"}]}), opened).results
    assert result.error is None
    yield opened
    opened.close()


@pytest.fixture(params=["libvirt-test", pytest.param("libvirt-qemu", marks=pytest.mark.libvirt)])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Foreign]:
    """A driver for a libvirt, with one stopped domain there that Domus did not make."""
    made = SERVERS[request.param](tmp_path)
    opened = open_for(made)
    kind = "test" if request.param == "libvirt-test" else "qemu"
    text = f"<domain type='{kind}'><name>{VM}</name><memory unit='MiB'>16</memory><os><type arch='{ARCHITECTURES[kind]}'>hvm</type></os></domain>"
    yield opened, opened.connection.defineXML(text)
    opened.close()
    made.close()


def act(driver: Driver, verb: str, vm: str = VM, **rest: Any) -> Any:
    """Carry out a verb without patience for a guest that has no operating system; nothing may fail."""
    result = carry_out_verb(driver, vm, verb, site="paris", force=True, timeout=0, **rest)
    assert result.error is None, str(result.error)
    return result


def test_every_verb_and_state_is_tried() -> None:
    assert WANTED.keys() == {(verb, state) for verb in VERBS for state in STATES}


@pytest.mark.parametrize("state", STATES)
def test_verbs(driver: Driver, server: Any, state: str) -> None:
    for verb in VERBS:
        act(driver, "kill")
        for before in STATES[state]:
            act(driver, before)
        found, written, steps = driver.find_vm(VM), server.written(), WANTED[(verb, state)]
        assert found is not None and found.state.state == state
        if steps is None:
            with pytest.raises(Conflict) as raised:
                act(driver, verb)
            assert raised.value.remedy and server.written() == written
            continue
        result = act(driver, verb)
        assert [step.action for step in result.steps] == steps, verb
        after = result.found
        assert after.state.state == VERBS[verb].state and after.recorded.state == VERBS[verb].state
        assert after.state.generation == found.state.generation + (found.recorded.state != VERBS[verb].state)
        assert after.spec == driver.read_one("vm", VM).spec
        if verb != "restart":
            written = server.written()
            again = act(driver, verb)
            assert not again.changed and server.written() == written, f"{verb} twice"


def test_what_was_asked_for_stays_written_down(driver: Driver) -> None:
    before = driver.read_one("vm", VM)
    result = act(driver, "start")
    assert before is not None and {**vars(before.recorded), "state": "running"} == vars(result.found.recorded)
    assert result.found.state.site == "paris" and result.found.spec == before.spec and result.restart_required == ()
    (unchanged,) = apply(parse_document({"site": "paris", "vms": [{"name": VM, **SMALL, "state": "running"}]}), driver).results
    assert not unchanged.changed


def take(driver: Driver, step: Step) -> None:
    """Take one step, and nothing else."""
    with driver.locked([("vm", VM)], [], patience=0):
        driver.carry_out(step, "paris")


def start_by_hand(driver: Driver) -> None:
    """Start the VM without Domus's verbs: its record goes on saying that it is to be stopped."""
    take(driver, Step(START, "vm", VM, VmSpec(VM)))
    found = driver.find_vm(VM)
    assert found is not None and (found.state.state, found.recorded.state) == ("running", "stopped")


def apply_state(driver: Driver, state: str, check: bool = False, **rest: Any) -> Any:
    """Apply a document that says only the run state; nothing may fail."""
    vm = {"name": VM, "state": state, "force_stop": True, "stop_timeout": 0, **rest}
    (result,) = apply(parse_document({"site": "paris", "vms": [vm]}), driver, check=check).results
    assert result.error is None, str(result.error)
    return result


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_apply_of_the_run_state_alone_writes_it_down_as_verbs_do(driver: Driver, server: Any, by_hand: bool) -> None:
    if by_hand:
        start_by_hand(driver)
    before, written = driver.read_one("vm", VM), server.written()
    predicted = apply_state(driver, "running", check=True)
    assert server.written() == written
    done = apply_state(driver, "running")
    assert done.steps == predicted.steps and [change.field for change in done.changes] == ["state"]
    assert [step.action for step in done.steps] == (["update"] if by_hand else ["start"])
    assert before is not None and (done.found.spec, done.found.state.generation) == (before.spec, before.state.generation + 1)
    assert {**vars(before.recorded), "state": "running"} == vars(done.found.recorded) and done.restart_required == predicted.restart_required == ()
    written = server.written()
    assert not apply_state(driver, "running").changed and server.written() == written


def test_a_run_state_that_was_only_written_down_is_reached_by_the_next_apply(driver: Driver) -> None:
    first, *others = apply_state(driver, "running", check=True).steps
    assert first.record.state == "running" and not others
    take(driver, dataclasses.replace(first, action="update", changes=()))
    found = driver.find_vm(VM)
    assert found is not None and (found.state.state, found.recorded.state) == ("stopped", "running")
    result = apply_state(driver, "running", generation=found.state.generation - 1)
    assert [step.action for step in result.steps] == ["start"] and result.found.state.generation == found.state.generation


def test_a_generation_that_was_overtaken_by_a_verb_is_refused(driver: Driver) -> None:
    found = driver.find_vm(VM)
    assert found is not None and act(driver, "start").changed
    with pytest.raises(Conflict) as raised:
        apply_state(driver, "stopped", generation=found.state.generation)
    assert raised.value.field == "generation"


def test_a_vm_that_is_not_managed_is_acted_on_and_gets_no_record(foreign: Foreign) -> None:
    driver, domain = foreign
    before = driver.find_vm(VM)
    assert before is not None and before.recorded is None and not before.state.managed
    text = domain.XMLDesc(INACTIVE)
    for verb, actions in (("start", ["start"]), ("start", []), ("suspend", ["suspend"]), ("kill", ["kill"]), ("kill", []), ("restart", ["start"])):
        result = act(driver, verb)
        assert [step.action for step in result.steps] == actions
        assert result.found.recorded is None and (result.found.state.managed, result.found.state.generation) == (False, 0)
    assert domain.XMLDesc(INACTIVE) == text


@pytest.mark.parametrize("verb", VERBS)
def test_a_transient_vm_is_left_alone(foreign: Foreign, verb: str) -> None:
    driver, domain = foreign
    domain.create()
    domain.undefine()
    text = domain.XMLDesc()
    with pytest.raises(Conflict) as raised:
        act(driver, verb)
    assert "transient" in raised.value.message and raised.value.object == f"vm {VM}" and raised.value.remedy
    assert domain.isActive() and domain.XMLDesc() == text


def test_a_wish_that_is_already_true_is_written_down_when_another_was(driver: Driver) -> None:
    start_by_hand(driver)
    result = act(driver, "start")
    assert [step.action for step in result.steps] == ["update"] and result.found.recorded.state == "running" and not act(driver, "start").changed
    assert [change.as_dict() for change in result.changes] == [{"field": "state", "before": "stopped", "after": "running", "effect": "live"}]


def test_a_run_state_that_nobody_asked_for_is_taken_charge_of_by_acting_only(driver: Driver) -> None:
    name = f"{VM}-2"
    apply(parse_document({"vms": [{"name": name, **SMALL}]}), driver)
    assert not act(driver, "stop", name).changed and act(driver, "stop", name).found.recorded.state is None
    assert act(driver, "start", name).found.recorded.state == "running"


def test_by_uuid_and_unknown(driver: Driver) -> None:
    found = driver.find_vm(VM)
    assert found is not None
    result = act(driver, "start", found.state.uuid)
    assert result.key == VM and result.found.state.state == "running"
    for name in ("no-such-vm", "6f7c1f0a-6d1e-4d0c-9f55-8d5b6a3f4c21", ""):
        with pytest.raises(NotFound) as raised:
            act(driver, "start", name)
        assert raised.value.remedy


@pytest.mark.parametrize("wrong", [{"verb": "explode"}, {"verb": ["start"]}, {"timeout": -1}, {"timeout": "5"}, {"timeout": True}, {"timeout": 10**6}])
def test_what_is_asked_is_checked(driver: Driver, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as raised:
        carry_out_verb(driver, VM, site="paris", **{"verb": "start", **wrong})
    assert raised.value.field and isinstance(raised.value.as_dict(), dict)


def test_only_the_vm_is_held_and_looked_at(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    locked = driver.locked
    monkeypatch.setattr(driver, "locked", lambda changing, using, **rest: held.append((list(changing), list(using))) or locked(changing, using, **rest))
    monkeypatch.setattr(driver, "read", lambda site: pytest.fail("the whole server was read"))
    lines: list[str] = []
    act(driver, "restart", progress=lines.append)
    assert held == [([("vm", VM)], [])] and lines == [f"start vm {VM}"]


def test_a_cancelled_verb_begins_no_step(driver: Driver) -> None:
    result = carry_out_verb(driver, VM, "start", site="paris", cancelled=lambda: True)
    assert result.error is not None and result.error.code == "cancelled" and not result.changed
    assert result.found is not None and result.found.state.state == "stopped"


def test_waiting_for_another_apply_ends_when_cancelled(driver: Driver, server: Any) -> None:
    other = open_for(server)
    with other.locked([("vm", VM)], [], patience=0), pytest.raises(Cancelled) as raised:
        carry_out_verb(driver, VM, "start", site="paris", cancelled=lambda: True, patience=3600)
    other.close()
    assert raised.value.remedy


def test_errors_of_the_server_are_in_the_result(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: Any, site: str) -> None:
        raise DomusError("no memory left")

    monkeypatch.setattr(driver, "carry_out", fail)
    result = carry_out_verb(driver, VM, "start", site="paris")
    assert result.error is not None and result.error.object == f"vm {VM}" and not result.changed


@pytest.mark.libvirt
def test_a_long_wait_for_a_guest_ends_when_cancelled(tmp_path: Path) -> None:
    server = SERVERS["libvirt-qemu"](tmp_path)
    opened = open_driver(server.parameters["uri"], server.parameters["state_directory"])
    try:
        apply(parse_document({"vms": [{"name": VM, **SMALL, "state": "running"}]}), opened)
        asked: list[bool] = []
        result = carry_out_verb(opened, VM, "stop", site="paris", timeout=3600, cancelled=lambda: asked.append(True) or len(asked) > 5)
        assert result.error is not None and result.error.code == "cancelled" and result.error.object == f"vm {VM}" and not result.changed
        assert result.found is not None and result.found.state.state == "running"
    finally:
        opened.close()
        server.close()
