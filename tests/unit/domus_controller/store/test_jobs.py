"""Jobs end once, and what they did can not be changed unseen."""

from __future__ import annotations

from typing import Any

import pytest
from domus_controller.store import audit, jobs
from domus_controller.store.database import Store
from domus_core.errors import Conflict, InvalidSpec, NotFound

from .described import FIRST, Clock


def create(store: Store, id: str = "one", **rest: Any) -> dict[str, Any]:
    told = {"id": id, "kind": "apply", "created_by": "ann", "reason": "why", "objects": [{"kind": "vm", "name": "web"}], "servers": [FIRST], **rest}
    return store.write(lambda connection: jobs.create(connection, told))


def test_the_life_of_a_job(store: Store, clock: Clock) -> None:
    made = create(store, options={"wait": 5}, sealed=b"secret", check=True)
    assert made == jobs.find(store, "one")
    assert (made["state"], made["check"], made["changed"], made["cancel_requested"], made["reason"]) == ("queued", True, None, False, "why")
    jobs.set_waiting(store, "one", "other")
    assert jobs.find(store, "one")["waiting_for"] == "other"
    clock.at += 1
    assert jobs.start(store, "one")["state"] == "running"
    jobs.start(store, "one", {"serial": "ab"})
    clock.at += 1
    started = jobs.start(store, "one", {"pid": 5, "started": 7})
    assert started["started_at"] == "2027-01-15T08:00:01.000Z" and started["waiting_for"] is None
    assert jobs.details(store, "one")["process"] == {"pid": 5, "started": 7, "serial": "ab"}
    assert jobs.details(store, "one")["options"] == {"wait": 5} and jobs.details(store, "one")["servers"] == [FIRST]
    assert [job["id"] for job in jobs.unfinished(store)] == ["one"]
    jobs.finish(store, "one", "succeeded", True, None, {"objects": 1})
    ended = jobs.find(store, "one")
    assert (ended["state"], ended["changed"], ended["result"], ended["finished_at"]) == ("succeeded", True, {"objects": 1}, "2027-01-15T08:00:02.000Z")
    assert jobs.sealed(store, "one") is None and jobs.unfinished(store) == []


def test_a_job_ends_once(store: Store) -> None:
    create(store, sealed=b"secret")
    jobs.finish(store, "one", "cancelled", False, {"code": "conflict", "message": "cancelled"})
    ended = jobs.find(store, "one")
    jobs.finish(store, "one", "succeeded", True, None, {})
    assert ended == jobs.start(store, "one") == jobs.request_cancel(store, "one", "bob") == jobs.find(store, "one")
    assert jobs.find(store, "one")["state"] == "cancelled" and jobs.find(store, "one")["cancel_requested"] is False
    assert jobs.sealed(store, "one") == b"secret"


def test_who_cancelled_first_counts(store: Store) -> None:
    create(store)
    jobs.request_cancel(store, "one", "bob")
    assert jobs.request_cancel(store, "one", "eve")["cancel_requested"] is True
    assert jobs.details(store, "one")["cancelled_by"] == "bob"


def test_what_is_not_there_is_not_found_and_an_id_is_used_once(store: Store) -> None:
    for function in (jobs.find, jobs.details, jobs.sealed, jobs.start):
        with pytest.raises(NotFound):
            function(store, "none")
    with pytest.raises(NotFound):
        jobs.add_events(store, "none", [])
    create(store)
    with pytest.raises(Conflict):
        create(store)


def test_events_are_numbered_from_one(store: Store) -> None:
    create(store)
    assert jobs.add_events(store, "one", [{"at": 1.5, "kind": "line", "data": {"text": "a"}}, {"at": 2, "kind": "line"}]) == 2
    assert jobs.add_events(store, "one", [{"at": 3, "kind": "end", "data": {}}]) == 3
    assert jobs.events(store, "one", 0, 1) == [{"number": 1, "at": "1970-01-01T00:00:01.500Z", "kind": "line", "data": {"text": "a"}}]
    assert [event["number"] for event in jobs.events(store, "one", 1)] == [2, 3]


def test_pages_are_newest_first_whatever_the_clock_says(store: Store, clock: Clock) -> None:
    for number in range(5):
        create(store, str(number), kind="start" if number % 2 else "apply")
        clock.at -= 3600
    jobs.finish(store, "3", "failed", False)
    assert [job["id"] for job in jobs.page(store)["items"]] == ["4", "3", "2", "1", "0"]
    first = jobs.page(store, 2)
    assert [job["id"] for job in jobs.page(store, 2, first["next"])["items"]] == ["2", "1"]
    assert [job["id"] for job in jobs.page(store, filters={"kind": "start"})["items"]] == ["3", "1"]
    assert [job["id"] for job in jobs.page(store, filters={"state": "failed", "kind": "start"})["items"]] == ["3"]
    with pytest.raises(InvalidSpec):
        jobs.page(store, filters={"owner": "x"})


def test_old_jobs_are_forgotten_and_the_chain_holds(store: Store, clock: Clock) -> None:
    for number in range(5):
        create(store, str(number))
        jobs.add_events(store, str(number), [{"at": 1, "kind": "x"}])
        jobs.finish(store, str(number), "failed", False)
    create(store, "running")
    clock.at += 100
    create(store, "new")
    jobs.finish(store, "new", "succeeded", False)
    assert jobs.forget(store, store.now() - 50, most=2) == 5
    assert sorted(job["id"] for job in jobs.page(store)["items"]) == ["new", "running"]
    assert store.rows("SELECT * FROM job_events") == []
    verified = audit.verify(store)
    assert verified["problems"] == [] and verified["jobs"] == 6


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE jobs SET created_by = 'eve' WHERE id = '1'", "job 1 is not what it was"),
        ("UPDATE jobs SET result = '{}' WHERE id = '1'", "job 1 is not what it was"),
        ("DELETE FROM jobs WHERE id = '1'", "job 1 is missing"),
        ("DELETE FROM audit WHERE job_id = '1'", "the chain is broken"),
        ("DELETE FROM audit WHERE job_id = '2'", "job 2 ended and is not in the chain"),
        ("UPDATE audit SET content = 'x' WHERE job_id = '0'", "the chain is broken at number 1"),
        ("UPDATE audit SET job_id = 'x' WHERE job_id = '0'", "job x is missing"),
    ],
)
def test_a_change_of_the_past_shows(store: Store, statement: str, problem: str) -> None:
    for number in range(3):
        create(store, str(number))
        jobs.finish(store, str(number), "succeeded", True, None, {"n": number})
    assert audit.verify(store)["problems"] == []
    store.write(lambda connection: connection.execute(statement))
    assert problem in " ".join(audit.verify(store)["problems"])


def test_the_head_proves_that_the_end_was_not_cut_off(store: Store) -> None:
    create(store)
    before = audit.verify(store)["head"]
    jobs.finish(store, "one", "succeeded", True)
    head = audit.verify(store)["head"]
    assert head != before
    store.write(lambda connection: connection.execute("DELETE FROM audit"))
    store.write(lambda connection: connection.execute("DELETE FROM jobs"))
    assert audit.verify(store) == {"jobs": 0, "head": before, "problems": []}
