"""Objects on tags: a server that gets the tag later shows what it misses, until the next apply makes it there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from domus_controller.store import objects, requests

from tests.support.manager_room import Room

DOCUMENT = {"networks": [{"name": "lan", "mode": "isolated", "servers": ["tag:dmz"]}]}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2"))
    made.hear()
    made.tell("srv1", "server", {"name": "srv1", "tags": ["dmz"]})
    yield made
    made.close()


def missing(room: Room) -> list[tuple[str, str]]:
    return [(one["name"], one["server"]) for one in objects.drift(room.store)["items"]]


def applied(room: Room) -> list[str]:
    """Apply the document; the servers that got it now."""
    before = len(room.agents.submitted)
    assert room.ended(room.jobs.apply(DOCUMENT, by="ann"))["state"] == "succeeded"
    names = {id: name for name, id in room.servers.items()}
    return [names[server] for server, dummy in room.agents.submitted[before:]]


def test_a_server_that_gets_the_tag_later_misses_the_network_until_the_next_apply(room: Room) -> None:
    assert applied(room) == ["srv1"]
    room.tell("srv1", "network", {"name": "lan", "mode": "isolated"})
    assert missing(room) == []
    room.tell("srv2", "server", {"name": "srv2", "tags": ["dmz", "ssd"]})
    assert missing(room) == [("lan", "srv2")]
    assert {(one["server_id"], one["state"], tuple(one["asked"]["servers"])) for one in requests.page(room.store)["items"]} == {
        (room.servers["srv1"], "effective", ("tag:dmz",)),
        (room.servers["srv2"], "pending", ("tag:dmz",)),
    }
    assert sorted(applied(room)) == ["srv1", "srv2"]
    room.tell("srv2", "network", {"name": "lan", "mode": "isolated"})
    assert missing(room) == []
    assert {one["server"]: one["request"]["state"] for one in objects.page(room.store, "network")["items"]} == {"srv1": "effective", "srv2": "effective"}


def test_a_server_that_loses_the_tag_is_asked_for_it_no_more(room: Room) -> None:
    assert applied(room) == ["srv1"]
    room.tell("srv2", "server", {"name": "srv2", "tags": ["dmz"]})
    room.tell("srv2", "server", {"name": "srv2"})
    assert missing(room) == []
    assert [one["server_id"] for one in requests.page(room.store)["items"]] == [room.servers["srv1"]]


def test_what_is_there_already_is_not_missed(room: Room) -> None:
    applied(room)
    room.tell("srv2", "network", {"name": "lan", "mode": "isolated"})
    room.tell("srv2", "server", {"name": "srv2", "tags": ["dmz"]})
    assert missing(room) == []


def test_what_is_described_under_another_name_is_not_this_server(room: Room) -> None:
    applied(room)
    room.tell("srv2", "server", {"name": "other", "tags": ["dmz"]})
    assert missing(room) == []
