"""What agents report when the manager is away or killed, when reports come twice or in disorder, and when clocks jump."""

from __future__ import annotations

import datetime
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.made_up import MadeUpAgent, description, enrol
from tests.support.stack import Stack
from tests.support.stack_faults import items, outbox, worker

MANY = 5_000
HOUR = 3600.0
# Written as the agent itself would write them, by its own store, on the server.
GATHER = """
import sys
from domus_agent.store import AgentStore
store = AgentStore(sys.argv[1])
with store.transaction():
    for number in range(int(sys.argv[2])):
        store.add_event("vm.changed", {"kind": "vm", "key": "busy", "id": "x"}, data={"number": number})
store.close()
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack()
    try:
        yield made.up()
    finally:
        made.close()


@pytest.fixture(scope="module")
def agents(stack: Stack) -> list[MadeUpAgent]:
    return enrol(stack, 8)


def event(number: int, **more: Any) -> dict[str, Any]:
    """A record with this number."""
    told = {"kind": "vm.changed", "severity": "info", "object": None, "data": {"number": number}, "operation": None}
    return {"seq": number, "at": time.time(), "type": "event", **told, **more}


def numbers(stack: Stack, server: str) -> list[int]:
    """The numbers in the events of a server, in the order in which they are stored."""
    found: list[dict[str, Any]] = []
    while page := stack.client.get("/api/v1/events", since=found[-1]["id"] if found else 0, server=server, limit=1000)["items"]:
        found += page
    return [one["data"]["number"] for one in found if "number" in one["data"]]


def test_5000_events_that_gather_while_the_manager_is_away_are_stored_once_and_in_order(stack: Stack) -> None:
    stack.end("manager", signal.SIGKILL)
    stack.end("agent0", signal.SIGTERM)
    environment = {"PYTHONPATH": str(stack.install / "agent"), "PATH": "/usr/bin:/bin"}
    subprocess.run(["/usr/bin/python3", "-c", GATHER, str(stack.directory / "agent0"), str(MANY)], env=environment, cwd="/", check=True)
    start_agent_without_manager(stack)
    assert outbox(stack, 0) >= MANY
    stack.start("manager")
    stack.wait_until_up()
    # Killed once more while it takes them in.
    stack.wait_for(lambda: outbox(stack, 0) < MANY, "the first acknowledgement")
    os.kill(worker(stack), signal.SIGKILL)
    stack.wait_for(lambda: outbox(stack, 0) == 0, "the last acknowledgement")
    stack.wait_until_up()
    assert numbers(stack, "s0") == list(range(MANY))
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["state"] == "running", "the server")


def start_agent_without_manager(stack: Stack) -> None:
    """Start it, and see that it works on its own."""
    stack.start("agent0")
    stack.wait_for(lambda: "test" in stack.agent_command(0, "list"), "the agent")


def test_reports_that_come_twice_and_in_disorder_are_stored_once(stack: Stack, agents: list[MadeUpAgent]) -> None:
    agent, chance = agents[0], random.Random(4711)
    batches = [[event(number) for number in range(first, first + 20)] for first in range(1, 401, 20)]
    sent = batches * 3
    chance.shuffle(sent)
    acknowledged: list[int] = []

    def send(mine: list[list[dict[str, Any]]]) -> None:
        connection = agent.connect()
        acknowledged.extend(agent.call_back(connection, batch)["acknowledged"] for batch in mine)
        connection.close()

    threads = [threading.Thread(target=send, args=(sent[one::4],)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(acknowledged) == len(sent) and max(acknowledged) == 400
    assert sorted(numbers(stack, agent.id)) == list(range(1, 401))


def test_an_older_report_of_an_object_does_not_replace_a_newer_one(stack: Stack, agents: list[MadeUpAgent]) -> None:
    agent = agents[1]
    states = {1: "stopped", 3: "running", 2: "paused"}
    connection = agent.connect()
    for seq, state in states.items():
        agent.call_back(connection, [told_object(agent, seq, state)])
        agent.call_back(connection, [told_object(agent, 1, "stopped")])
    connection.close()
    assert stack.client.get("/api/v1/vms/vm00001")["state"] == "running"


# Each made-up agent has a VM of its own.
NUMBERS: dict[str, int] = {}


def told_object(agent: MadeUpAgent, seq: int, state: str, at: float = 0.0) -> dict[str, Any]:
    """A record of a VM in a state."""
    told = {**description(agent.id, NUMBERS.setdefault(agent.id, len(NUMBERS) + 1)), "state": state}
    return {"seq": seq, "at": at or time.time(), "type": "object", "kind": "vm", "key": told["key"], "id": told["id"], "description": told}


def test_a_new_database_of_an_agent_begins_anew(stack: Stack, agents: list[MadeUpAgent]) -> None:
    agent = agents[2]
    connection = agent.connect()
    assert agent.call_back(connection, [event(1), event(2)])["acknowledged"] == 2
    agent.epoch = "ab" * 16
    assert agent.call_back(connection, [event(1, data={"number": 101})])["acknowledged"] == 1
    connection.close()
    assert numbers(stack, agent.id) == [1, 2, 101]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_an_agents_clock_that_jumps_by_an_hour_changes_nothing(stack: Stack, agents: list[MadeUpAgent], jump: float) -> None:
    agent = agents[3 if jump > 0 else 4]
    connection = agent.connect()
    before, there = time.time(), time.time() + jump
    agent.call_back(connection, [event(1), told_object(agent, 2, "stopped")])
    answer = agent.call_back(connection, [event(3, at=there), told_object(agent, 4, "running", there)], sent_at=there)
    assert answer["acknowledged"] == 4 and abs(answer["time"] - before) < HOUR / 2
    agent.call_back(connection, [event(5), told_object(agent, 6, "paused")])
    connection.close()
    assert numbers(stack, agent.id) == [1, 3, 5]
    vm = next(one for one in items(stack, "vms", server=agent.id))
    assert vm["state"] == "paused" and abs(seconds(vm["changed_at"]) - before) < HOUR / 2
    server = stack.client.get(f"/api/v1/servers/{agent.id}")
    assert server["state"] == "running" and abs(seconds(server["last_seen"]) - before) < HOUR / 2
    found = {one["data"].get("number"): one for one in stack.client.get("/api/v1/events", server=agent.id)["items"]}
    assert abs(seconds(found[3]["at"]) - there) < 1 and abs(seconds(found[3]["received_at"]) - before) < HOUR / 2


def seconds(text: str) -> float:
    """A time of the API in seconds since 1970."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_the_agent_works_on_while_the_manager_is_away(stack: Stack) -> None:
    stack.end("manager", signal.SIGKILL)
    for word in ("stop", "kill"):  # the command has a test driver of its own, in which the VM runs again
        stack.agent_command(0, word, "test")
    stack.wait_for(lambda: outbox(stack, 0) >= 2, "what it tells of that")
    stack.end("agent0", signal.SIGKILL)
    start_agent_without_manager(stack)
    stack.start("manager")
    stack.wait_until_up()
    stack.wait_for(lambda: outbox(stack, 0) == 0, "the last acknowledgement")
    forced = stack.client.get("/api/v1/events", server="s0", since=0, limit=1000, kind="server.forced_local_change")["items"]
    assert [one["data"]["actions"] for one in forced] == ["stop vm test", "kill vm test"]
