"""Jobs with the real store and fake agents: each ends, truthfully, whoever dies on the way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from domus_controller.jobs import output
from domus_controller.store import audit, jobs, objects, plans, requests, servers
from domus_core.errors import Conflict, DomusError, DriverError, InvalidSpec, NotFound

from tests.support.manager_room import Room

SECRET = "swordfish-4711"


def vm(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "server": "srv1", **more}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path, ("srv1", "srv2"))
    yield made
    made.close()


def test_an_apply_brings_each_server_its_document(pair: Room) -> None:
    job = pair.jobs.apply({"vms": [vm("a"), {"name": "b", "server": "srv2"}]}, by="ann", reason="new")
    assert (job["state"], job["kind"], job["created_by"], job["reason"]) == ("queued", "apply", "ann", "new")
    ended = pair.ended(job)
    assert (ended["state"], ended["changed"], ended["error"]) == ("succeeded", True, None)
    assert sorted((one["server"], one["name"]) for one in ended["result"]["objects"]) == [("srv1", "a"), ("srv2", "b")]
    assert {server: [one["name"] for one in sent["document"]["vms"]] for server, sent in pair.agents.submitted} == {
        pair.servers["srv1"]: ["a"],
        pair.servers["srv2"]: ["b"],
    }
    assert {sent["operation"] for _, sent in pair.agents.submitted} == {f"{job['id']}-{server}" for server in pair.servers.values()}
    assert not pair.agents.revoked


def test_a_wrong_document_is_refused_before_anything_is_stored(room: Room) -> None:
    for wrong in ({"vms": [{"name": "a", "cpus": "x"}]}, {"nonsense": []}, [], {}, {"vms": [{"name": "a", "server": "elsewhere"}]}):
        with pytest.raises(DomusError):
            room.jobs.apply(wrong, by="ann")
    assert jobs.page(room.store)["items"] == [] and requests.page(room.store)["items"] == []


def test_requests_are_pending_then_settled_one_by_one(room: Room) -> None:
    room.agents.holding = True
    room.agents.fails = {"bad": DriverError("no", object="vm bad")}
    job = room.jobs.apply({"vms": [vm("good"), vm("bad")]}, by="ann")
    assert {one["state"] for one in requests.page(room.store)["items"]} == {"pending"}
    room.until(lambda: room.agents.operations)
    room.agents.finish(f"{job['id']}-{room.servers['srv1']}")
    ended = room.ended(job)
    assert (ended["state"], ended["changed"], ended["error"]["message"]) == ("failed", True, "no")
    assert {one["key"]: one["state"] for one in requests.page(room.store)["items"]} == {"good": "effective", "bad": "failed"}


def test_a_check_asks_for_nothing(room: Room) -> None:
    ended = room.ended(room.jobs.apply({"vms": [vm("a")]}, by="ann", check=True))
    assert ended["state"] == "succeeded" and ended["check"] is True and room.agents.submitted[0][1]["check"] is True
    assert requests.page(room.store)["items"] == []


def test_no_secret_is_left_in_any_file(room: Room) -> None:
    document = {"vms": [vm("a", cloud_init={"user_data": SECRET})]}
    room.agents.fails = {"a": DriverError("no")}
    failed = room.ended(room.jobs.apply(document, by="ann"))
    room.agents.fails = {}
    succeeded = room.ended(room.jobs.apply(document, by="ann"))
    assert SECRET in json.dumps(room.runner.requests[0]["files"]["document-1.json"])
    assert jobs.sealed(room.store, failed["id"]) and jobs.sealed(room.store, succeeded["id"]) is None
    room.store.write(lambda connection: None)
    for path in room.directory.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_jobs_on_the_same_object_wait_and_say_for_whom(room: Room) -> None:
    room.agents.holding = True
    first = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    room.until(lambda: room.agents.operations)
    second = room.jobs.apply({"vms": [vm("a", memory="1GiB")]}, by="bob")
    other = room.jobs.apply({"vms": [vm("b")]}, by="bob")
    room.until(lambda: len(room.agents.operations) == 2)
    assert jobs.find(room.store, second["id"])["waiting_for"] == first["id"]
    assert room.state(second) == "queued" and room.state(other) == "running"
    assert {"state": "queued", "waiting_for": first["id"]} in [one["data"] for one in jobs.events(room.store, second["id"])]
    for operation in list(room.agents.operations):
        room.agents.finish(operation)
    room.until(lambda: len(room.agents.operations) == 3)
    room.agents.finish(f"{second['id']}-{room.servers['srv1']}")
    ended = room.ended(second)
    assert ended["state"] == "succeeded" and ended["waiting_for"] is None


def test_cancelling_a_running_job_ends_its_operations_and_its_certificate(pair: Room) -> None:
    pair.agents.holding = True
    job = pair.jobs.apply({"vms": [vm("a"), {"name": "b", "server": "srv2"}]}, by="ann")
    pair.until(lambda: len(pair.agents.operations) == 2)
    pair.jobs.cancel(job["id"], by="bob")
    ended = pair.ended(job)
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled") and "bob" in ended["error"]["message"]
    assert {one["state"] for one in pair.agents.operations.values()} == {"cancelled"}
    assert {server for server, _ in pair.agents.revoked} == set(pair.servers.values())
    assert all(servers.revoked(pair.store, server) for server in pair.servers.values())
    assert pair.jobs.cancel(job["id"], by="bob")["state"] == "cancelled"


def test_a_server_that_is_away_gets_the_revocation_later(room: Room) -> None:
    room.agents.holding = True
    job = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    room.until(lambda: room.agents.operations)
    room.agents.unreachable = {room.servers["srv1"]}
    room.jobs.cancel(job["id"], by="bob")
    room.jobs._tools.stopping.wait(0.3)
    room.agents.unreachable = set()
    assert room.ended(job)["state"] == "cancelled"
    assert servers.revoked(room.store, room.servers["srv1"])


def test_cancelling_a_queued_job_leaves_the_running_one(room: Room) -> None:
    room.agents.holding = True
    first = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    room.until(lambda: room.agents.operations)
    second = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    assert room.jobs.cancel(second["id"], by="ann")["state"] == "cancelled"
    room.agents.finish(f"{first['id']}-{room.servers['srv1']}")
    assert room.ended(first)["state"] == "succeeded"
    assert len(room.agents.operations) == 1


def test_a_runner_that_is_away_fails_the_job(room: Room) -> None:
    room.runner.close()
    ended = room.ended(room.jobs.apply({"vms": [vm("a")]}, by="ann"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unreachable")


def test_a_runner_that_dies_is_no_reason_to_lie(room: Room) -> None:
    """Its operation had succeeded already: so has the job."""
    room.runner.dies = True
    assert room.ended(room.jobs.apply({"vms": [vm("a")]}, by="ann"))["state"] == "succeeded"
    room.agents.holding = True
    ended = room.ended(room.jobs.apply({"vms": [vm("b")]}, by="ann"))
    assert (ended["state"], ended["error"]["code"]) == ("failed", "interrupted")
    assert {one["state"] for one in room.agents.operations.values()} == {"succeeded", "cancelled"}


def test_output_is_kept_up_to_its_limit(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LARGEST", 500)
    room.runner.says = "x" * 1000
    job = room.ended(room.jobs.apply({"vms": [vm("a")]}, by="ann"))
    told = jobs.events(room.store, job["id"])
    assert [one["kind"] for one in told] == ["state", "progress", "output"]
    assert told[1]["data"] == {"line": "srv1: begun"} and told[2]["data"] == {"text": output.CUT}


def test_the_end_waits_for_what_the_agent_reports(room: Room) -> None:
    room.agents.marks = {room.servers["srv1"]: 1}
    job = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    room.until(lambda: room.agents.operations)
    assert room.jobs.wait(job["id"], 0.3)["state"] == "running"
    room.add_vm("a")
    assert room.jobs.wait(job["id"], 3)["state"] == "succeeded"


def test_a_verb_is_one_operation_with_the_id_of_its_job(room: Room) -> None:
    vm_id = room.add_vm()
    job = room.jobs.verb(vm_id, "start", by="ann", timeout=5)
    assert job["objects"] == [{"kind": "vm", "name": "web1"}]
    ended = room.ended(job)
    assert (ended["state"], ended["changed"], ended["kind"]) == ("succeeded", True, "start")
    sent = room.agents.submitted[0][1]
    assert (sent["operation"], sent["verb"], sent["vm"], sent["timeout"], sent["site"]) == (job["id"], "start", vm_id, 5, "default")
    item = objects.find(room.store, "vm", vm_id)
    assert item["asked"]["state"] == "running" and item["request"]["state"] == "effective"


def test_the_vm_that_the_manager_runs_in_is_not_ended(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    vm_id = room.add_vm("web1")
    monkeypatch.setitem(vars(room.jobs._tools), "config", dataclasses.replace(room.jobs._tools.config, own_vm="web1"))
    with pytest.raises(Conflict, match="would end itself"):
        room.jobs.verb(vm_id, "stop", by="ann")
    with pytest.raises(Conflict, match="would end itself"):
        room.jobs.apply({"vms": [{"name": "web1", "state": "absent"}]}, by="ann")
    assert room.ended(room.jobs.verb(vm_id, "start", by="ann"))["state"] == "succeeded"


def test_an_unknown_verb_or_vm_is_refused(room: Room) -> None:
    with pytest.raises(NotFound):
        room.jobs.verb("nobody", "start", by="ann")
    with pytest.raises(InvalidSpec):
        room.jobs.verb(room.add_vm(), "explode", by="ann")


def test_verbs_on_one_vm_go_one_after_another(room: Room) -> None:
    first_vm, other_vm = room.add_vm(), room.add_vm("web2")
    room.agents.holding = True
    first = room.jobs.verb(first_vm, "start", by="ann")
    room.until(lambda: room.agents.operations)
    second = room.jobs.verb(first_vm, "stop", by="ann")
    third = room.jobs.verb(other_vm, "start", by="ann")
    room.until(lambda: third["id"] in room.agents.operations)
    assert second["id"] not in room.agents.operations
    room.agents.finish(first["id"])
    room.until(lambda: second["id"] in room.agents.operations)
    assert [sent["verb"] for _, sent in room.agents.submitted] == ["start", "start", "stop"]
    room.agents.finish(second["id"])
    room.agents.finish(third["id"])
    assert {room.ended(job)["state"] for job in (first, second, third)} == {"succeeded"}


def test_a_verb_can_be_cancelled(room: Room) -> None:
    room.agents.holding = True
    job = room.jobs.verb(room.add_vm(), "stop", by="ann")
    room.until(lambda: room.agents.operations)
    room.jobs.cancel(job["id"], by="bob")
    assert room.ended(job)["state"] == "cancelled"


def test_a_verb_survives_the_restart_of_the_manager(room: Room) -> None:
    room.agents.holding = True
    job = room.jobs.verb(room.add_vm(), "stop", by="ann")
    room.until(lambda: room.state(job) == "running")
    room.restart()
    room.agents.finish(job["id"])
    assert room.ended(job)["state"] == "succeeded"
    assert len(room.agents.submitted) == 1


def test_after_a_restart_the_end_waits_longer_for_agents_which_try_again_late(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domus_controller.jobs.jobs.PATIENCE", 0.1)
    room.agents.holding, room.agents.marks = True, {room.servers["srv1"]: 2}
    job = room.jobs.verb(room.add_vm(), "stop", by="ann")
    room.until(lambda: room.state(job) == "running")
    room.restart()
    room.agents.finish(job["id"], room.servers["srv1"])
    assert room.jobs.wait(job["id"], 1)["state"] == "running"
    room.add_vm("b")
    assert room.jobs.wait(job["id"], 5)["state"] == "succeeded"


def test_a_verb_that_its_agent_does_not_know_is_lost(room: Room) -> None:
    room.agents.holding = True
    job = room.jobs.verb(room.add_vm(), "stop", by="ann")
    room.until(lambda: room.state(job) == "running")
    room.jobs.stop()
    room.agents.operations.clear()
    room.restart()
    assert room.ended(job)["error"]["code"] == "lost"


def test_an_apply_that_ended_while_the_manager_was_away_is_settled_truthfully(room: Room) -> None:
    room.agents.holding = True
    job = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    room.until(lambda: room.agents.operations)
    room.jobs.stop()
    room.agents.finish(f"{job['id']}-{room.servers['srv1']}")
    room.restart()
    ended = room.ended(job)
    assert (ended["state"], ended["error"]) == ("succeeded", None) and ended["result"]["objects"][0]["name"] == "a"
    assert requests.page(room.store)["items"][0]["state"] == "effective"


def test_an_apply_that_still_worked_is_interrupted_on_its_servers(pair: Room) -> None:
    pair.agents.holding = True
    job = pair.jobs.apply({"vms": [vm("a"), {"name": "b", "server": "srv2"}]}, by="ann")
    pair.until(lambda: len(pair.agents.operations) == 2)
    pair.jobs.stop()
    pair.agents.finish(f"{job['id']}-{pair.servers['srv1']}")
    pair.restart()
    ended = pair.ended(job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "interrupted") and "Relaunch" in ended["error"]["remedy"]
    assert pair.agents.operations[f"{job['id']}-{pair.servers['srv2']}"]["state"] == "cancelled"
    assert {one["key"]: one["state"] for one in requests.page(pair.store)["items"]} == {"a": "effective", "b": "failed"}


def test_queued_jobs_are_carried_out_after_a_restart(room: Room) -> None:
    room.agents.holding = True
    first = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    room.until(lambda: room.agents.operations)
    second = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    third = room.jobs.apply({"vms": [vm("a")]}, by="ann")
    jobs.request_cancel(room.store, third["id"], "bob")
    room.jobs.stop()
    room.agents.holding = False
    room.restart()
    assert [room.ended(job)["state"] for job in (first, second, third)] == ["failed", "succeeded", "cancelled"]
    assert jobs.unfinished(room.store) == [] and not audit.verify(room.store)["problems"]


def test_relaunch_does_the_same_again_until_it_has_succeeded(room: Room) -> None:
    room.agents.fails = {"a": DriverError("no")}
    failed = room.ended(room.jobs.apply({"vms": [vm("a", memory="1GiB")]}, by="ann", wait_for_address=7))
    room.agents.fails = {}
    again = room.jobs.relaunch(failed["id"], by="bob")
    ended = room.ended(again)
    assert (ended["state"], ended["relaunch_of"], ended["created_by"]) == ("succeeded", failed["id"], "bob")
    assert room.agents.submitted[0][1]["document"] == room.agents.submitted[1][1]["document"]
    assert json.loads(room.runner.requests[1]["files"]["targets.json"])["wait_for_address"] == 7
    with pytest.raises(Conflict) as refused:
        room.jobs.relaunch(again["id"], by="bob")
    assert refused.value.remedy


def test_an_unfinished_job_is_not_relaunched(room: Room) -> None:
    room.agents.holding = True
    job = room.jobs.verb(room.add_vm(), "stop", by="ann")
    with pytest.raises(Conflict):
        room.jobs.relaunch(job["id"], by="ann")
    room.until(lambda: room.agents.operations)
    room.agents.finish(job["id"])
    room.ended(job)
    again = room.jobs.relaunch(job["id"], by="ann")
    room.until(lambda: again["id"] in room.agents.operations)
    room.agents.finish(again["id"])
    assert room.ended(again)["relaunch_of"] == job["id"]


def test_a_plan_is_applied_as_it_was_or_not_at_all(pair: Room) -> None:
    document = {"vms": [vm("a"), {"name": "b", "server": "srv2"}]}
    first, second = pair.jobs.plan(document, by="ann"), pair.jobs.plan(document, by="ann")
    assert first["changed"] and not first["errors"] and len(first["objects"]) == 2 and set(first["fingerprints"]) == set(pair.servers.values())
    assert not pair.agents.submitted
    assert pair.ended(pair.jobs.apply_plan(first["id"], by="bob"))["state"] == "succeeded"
    with pytest.raises(Conflict):
        pair.jobs.apply_plan(first["id"], by="bob")
    pair.agents.fingerprints = dict.fromkeys(pair.servers.values(), "other")
    refused = pair.ended(pair.jobs.apply_plan(second["id"], by="bob"))
    assert (refused["state"], refused["error"]["code"]) == ("failed", "conflict")
    assert plans.find(pair.store, second["id"])["state"] == "stale"


def test_a_plan_tells_which_server_did_not_answer(pair: Room) -> None:
    pair.agents.unreachable = {pair.servers["srv2"]}
    plan = pair.jobs.plan({"vms": [vm("a"), {"name": "b", "server": "srv2"}]}, by="ann")
    assert [error["code"] for error in plan["errors"]] == ["unreachable"]
    with pytest.raises(Conflict):
        pair.jobs.apply_plan(plan["id"], by="ann")


def test_waiting_for_an_unknown_job_is_refused(room: Room) -> None:
    with pytest.raises(NotFound):
        room.jobs.wait("nobody", 1)


def test_an_empty_document_is_called_empty(room: Room) -> None:
    with pytest.raises(InvalidSpec, match="document: is empty"):
        room.jobs.apply(None, by="ann")
