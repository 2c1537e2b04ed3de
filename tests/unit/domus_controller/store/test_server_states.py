"""The state of a server is a pure decision; hosts of the same UUID are told."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from domus_controller.store import events, server_states, servers
from domus_controller.store.database import Store
from domus_controller.store.fleet import read_fleet
from domus_controller.store.server_states import Heard, Limits, state_of
from domus_controller.store.servers import CONNECTED, STATES
from hypothesis import given
from hypothesis import strategies as some

from .described import FIRST, SECOND, START

LIMITS = Limits(30, 120)
BEFORE = some.sampled_from(STATES)
SECONDS = some.floats(0, 1000)


@pytest.mark.parametrize(
    ("before", "silent", "listening", "maintenance", "distrusted", "state"),
    [
        ("running", 29, 1000, False, False, "running"),
        ("running", 30, 1000, False, False, "disconnected"),
        ("running", 120, 1000, False, False, "offline"),
        ("running", 120, 29, False, False, "running"),
        ("running", 1000, 31, False, False, "disconnected"),
        ("running", 1, 1000, False, True, "running"),
        ("running", 31, 1000, False, True, "unknown"),
        ("running", 1, 1000, True, False, "maintenance"),
        ("maintenance", 31, 1000, True, False, "disconnected"),
        ("disconnected", 1000, 1, False, False, "disconnected"),
        ("offline", 1000, 60, False, False, "offline"),
        ("unknown", 60, 1000, False, False, "disconnected"),
        ("unknown", None, 1000, True, False, "unknown"),
    ],
)
def test_the_state(before: str, silent: Optional[float], listening: float, maintenance: bool, distrusted: bool, state: str) -> None:
    heard = Heard(before, None if silent is None else START - silent, maintenance, distrusted)
    assert state_of(heard, START, START - listening, LIMITS) == state


@given(BEFORE, SECONDS, SECONDS, some.booleans(), some.booleans())
def test_silence_never_makes_it_better_and_judging_twice_changes_nothing(before: str, silent: float, listening: float, maintenance: bool, lost: bool) -> None:
    state = state_of(Heard(before, START - silent, maintenance, lost), START, START - listening, LIMITS)
    assert state in CONNECTED <= frozenset(STATES) if before in CONNECTED and silent < 30 else True
    assert before in CONNECTED or state not in CONNECTED
    assert state_of(Heard(state, START - silent, maintenance, lost), START, START - listening, LIMITS) == state


def hear(store: Store, id: str, facts: Optional[dict[str, Any]] = None) -> None:
    store.write(lambda connection: server_states.heard(connection, id, store.now(), "0.0.9", "up", facts))


def kinds(store: Store) -> list[str]:
    return [one["kind"] for one in events.page(store, since=0)["items"]]


def test_two_hosts_of_one_uuid_are_told_once_and_shown_on_both(store: Store) -> None:
    hear(store, FIRST, {"uuid": "u"})
    assert servers.find(store, FIRST)["problems"] == []
    for dummy in range(2):
        hear(store, SECOND, {"uuid": "u", "cpus": dummy})
    assert kinds(store) == ["server.running", "server.same_host_uuid", "server.running"]
    assert "same host UUID as second" in servers.find(store, FIRST)["problems"][0]
    assert "same host UUID as first" in servers.find(store, SECOND)["problems"][0]
    hear(store, SECOND, {"uuid": "v"})
    assert servers.find(store, FIRST)["problems"] == servers.find(store, SECOND)["problems"] == []


def test_facts_stay_until_others_are_told_and_an_old_agent_is_marked(store: Store) -> None:
    hear(store, FIRST, {"cpus": 8})
    hear(store, FIRST)
    found = servers.find(store, FIRST)
    assert (found["facts"], found["behind"], found["tags"]) == ({"cpus": 8}, True, [])


@given(BEFORE, SECONDS, SECONDS, some.booleans())
def test_who_was_switched_off_on_purpose_alarms_nobody(before: str, silent: float, listening: float, lost: bool) -> None:
    state = state_of(Heard(before, START - silent, False, lost, True), START, START - listening, LIMITS)
    assert state == "off" or state == before or (before in CONNECTED and state == "running")
    if min(silent, listening) >= 30:
        assert state == "off"
    assert state_of(Heard(state, START - silent, False, lost, True), START, START - listening, LIMITS) == state


def test_off_on_purpose_is_told_with_its_reason_and_is_over_when_it_is_heard_again(store: Store, clock: Any) -> None:
    hear(store, FIRST, {"memory": 8 << 30, "cpus": 4})
    server_states.set_powered_off(store, FIRST, {"by": "ann", "reason": "holidays", "policy": False})
    (one,) = [one for one in read_fleet(store) if one.id == FIRST]
    assert one.closed == "is being switched off" and servers.find(store, FIRST)["state"] == "running"
    clock.at += 40
    server_states.judge(store, 0.0, LIMITS)
    found = servers.find(store, FIRST)
    assert (found["state"], found["powered_off"]["by"], found["problems"]) == ("off", "ann", [])
    told = [one for one in events.page(store, since=0)["items"] if one["kind"] == "server.off"]
    assert [(one["severity"], one["data"]) for one in told] == [("info", {"before": "running", "by": "ann", "reason": "holidays", "policy": False})]
    assert [one.closed for one in read_fleet(store) if one.id == FIRST] == ["is switched off"]
    hear(store, FIRST)
    found = servers.find(store, FIRST)
    assert (found["state"], found["powered_off"]) == ("running", None)


def test_a_server_that_was_released_is_not_judged(store: Store) -> None:
    hear(store, FIRST)
    servers.remove(store, FIRST)
    hear(store, FIRST)
    assert server_states.judge(store, 0, LIMITS).keys() == {SECOND}
