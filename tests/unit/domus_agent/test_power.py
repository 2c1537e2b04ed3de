"""A server is switched off only when nothing can be lost by it, and leaves its pool in order; others are woken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from domus_agent import power as module
from domus_agent.power import GIVE_UP_SECONDS, Power, require_quorum_without
from domus_core.cluster import pool_state
from domus_core.cluster.corosync_state import Votes
from domus_core.errors import Busy, Conflict, DomusError, Forbidden


class Domain:
    """One that runs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name


class Server:
    """A server whose pool, VMs and power are the test's."""

    def __init__(self) -> None:
        self.vms: list[str] = []
        self.busy, self.time, self.member = "", 0.0, False
        self.votes, self.starts_meanwhile = (3, 3, 2), ""
        self.done: list[str] = []

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        yield self

    def listAllDomains(self, flags: int) -> list[Domain]:
        return [Domain(name) for name in self.vms]

    def rest(self) -> list[str]:
        self.done.append("left")
        self.vms += [self.starts_meanwhile] if self.starts_meanwhile else []
        return ["left"]

    def say(self, *dummy: Any, **more: Any) -> tuple[int, str]:
        expected, total, quorum = self.votes
        return 0, f"Expected votes:   {expected}\nTotal votes:      {total}\nQuorum:           {quorum}\nQuorate:          Yes\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(module, "DELAY", 0.0)
    monkeypatch.setattr(module, "is_active", lambda unit: made.member)
    monkeypatch.setattr(module, "rest_member", made.rest)
    monkeypatch.setattr(module, "start_member", lambda: made.done.append("joined"))
    monkeypatch.setattr(pool_state, "ask", made.say)
    monkeypatch.setattr(module, "_power_off", lambda: made.done.append("off"))
    return made


@pytest.fixture
def power(server: Server) -> Power:
    made = Power(server, lambda: server.busy, lambda: server.time)  # type: ignore[arg-type]
    made.is_allowed = True
    return made


def wait_for(server: Server, what: str) -> None:
    for thread in [one for one in module.threading.enumerate() if isinstance(one, module.threading.Timer)]:
        thread.join(5)
    assert server.done[-1] == what


def test_a_server_on_which_nothing_runs_is_switched_off_and_takes_no_work_from_then_on(server: Server, power: Power) -> None:
    power.refuse_work()
    assert power.off("holidays") == {"off": True}
    wait_for(server, "off")
    with pytest.raises(Conflict, match="is being switched off"):
        power.refuse_work()
    server.time += GIVE_UP_SECONDS + 1
    power.refuse_work()


def test_a_server_whose_settings_forbid_it_stays_on(server: Server, power: Power) -> None:
    power.is_allowed = False
    with pytest.raises(Forbidden, match="for nobody"):
        power.off("")
    power.refuse_work()
    assert server.done == []


def test_it_stays_on_while_vms_run_or_something_is_under_way(server: Server, power: Power) -> None:
    server.vms = ["web", "db"]
    with pytest.raises(Conflict, match="VMs run here: db, web"):
        power.off("")
    server.vms, server.busy = [], "the arrival of vm web"
    with pytest.raises(Busy, match="the arrival of vm web is under way"):
        power.off("")
    power.refuse_work()
    assert server.done == []


def test_a_member_leaves_its_pool_first(server: Server, power: Power) -> None:
    server.member = True
    power.off("")
    wait_for(server, "off")
    assert server.done == ["left", "off"]


def test_a_member_without_which_the_pool_has_no_quorum_stays(server: Server, power: Power) -> None:
    server.member, server.votes = True, (5, 3, 3)
    with pytest.raises(Conflict, match="it has 3 votes, and needs 3"):
        power.off("")
    assert server.done == []


def test_a_vm_that_its_pool_started_meanwhile_keeps_it_on(server: Server, power: Power) -> None:
    server.member, server.starts_meanwhile = True, "ha1"
    with pytest.raises(Conflict, match="VMs run here: ha1"):
        power.off("")
    assert server.done == ["left", "joined"] and not power.is_ending


@pytest.mark.parametrize(
    ("votes", "may"), [(Votes(3, 3, 2, True), True), (Votes(3, 2, 2, True), False), (Votes(2, 2, 1, True), True), (Votes(4, 1, 3, False), False)]
)
def test_who_may_leave(votes: Votes, may: bool) -> None:
    with contextlib.nullcontext() if may else pytest.raises(DomusError):
        require_quorum_without(votes)
