"""How a job ended, from what became of it on each server."""

from __future__ import annotations

from typing import Any

from domus_controller.jobs.outcome import Interrupted, TimeIsOver, failure, outcome_of
from domus_core.errors import Cancelled, DriverError, error_from_dict

NAMES = {"s1": "one", "s2": "two"}


def status(state: str, *objects: dict[str, Any], error: dict[str, Any] | None = None, mark: int | None = None) -> dict[str, Any]:
    return {"state": state, "result": {"objects": list(objects)} if objects else None, "error": error, "mark": mark}


def entry(name: str, error: DriverError | Cancelled | None = None) -> dict[str, Any]:
    made = {"kind": "vm", "name": name, "changed": error is None, "object": {"secret": "no"}, "state": {}}
    return {**made, "error": error.as_dict()} if error else made


def test_all_succeeded() -> None:
    found = outcome_of({"s1": status("succeeded", entry("a"), mark=7)}, NAMES, [("vm", "a", "s1")])
    assert (found.state, found.changed, found.error, found.marks) == ("succeeded", True, None, {"s1": 7})
    assert found.requests == {("vm", "a", "s1"): "effective"}
    assert found.result == {"objects": [{"kind": "vm", "name": "a", "changed": True, "server": "one"}], "servers": {"one": "succeeded"}}


def test_one_object_failed_and_the_others_have_taken_effect() -> None:
    targets = [("vm", "a", "s1"), ("vm", "b", "s1"), ("vm", "c", "s2")]
    statuses = {"s1": status("failed", entry("a"), entry("b", DriverError("no"))), "s2": status("succeeded", entry("c"))}
    found = outcome_of(statuses, NAMES, targets)
    assert (found.state, found.changed, found.error) == ("failed", True, DriverError("no").on("one").as_dict())
    assert list(found.requests.values()) == ["effective", "failed", "effective"]
    assert found.reasons == {("vm", "b", "s1"): "no"}


def test_several_errors_are_told_together() -> None:
    error = outcome_of({"s1": status("failed", entry("a", DriverError("x")), entry("b", DriverError("y")))}, NAMES, []).error
    assert error is not None and error["message"] == "x" and [one["message"] for one in error["errors"]] == ["x", "y"]


def test_the_same_error_of_two_servers_names_both() -> None:
    statuses = {server: status("failed", entry("a", DriverError("no", object="vm a"))) for server in ("s1", "s2")}
    found = outcome_of(statuses, NAMES, [])
    assert found.error is not None and found.result is not None
    assert [str(error_from_dict(one)) for one in found.error["errors"]] == ["vm a on server one: no", "vm a on server two: no"]
    assert [one["error"]["server"] for one in found.result["objects"]] == ["one", "two"]


def test_a_server_without_an_answer_fails_what_was_asked_of_it() -> None:
    found = outcome_of({"s1": status("unreachable", error={"code": "unreachable", "message": "gone"})}, NAMES, [("vm", "a", "s1")])
    assert found.state == "failed" and found.error == {"code": "unreachable", "message": "gone", "object": "server one", "server": "one"}
    assert found.requests == {("vm", "a", "s1"): "untouched"} and found.reasons == {("vm", "a", "s1"): "server one: gone"}


def test_a_failure_that_nobody_explains_is_a_failure() -> None:
    found = outcome_of({"s1": status("failed")}, NAMES, [])
    assert found.state == "failed" and found.error is not None and found.error["object"] == "server one"


def test_a_cancellation_that_came_too_late_changes_nothing() -> None:
    assert outcome_of({"s1": status("succeeded", entry("a"))}, NAMES, [], Cancelled("by ann")).state == "succeeded"


def test_a_cancelled_job_says_by_whom() -> None:
    found = outcome_of({"s1": status("cancelled", entry("a", Cancelled("left off")))}, NAMES, [], Cancelled("by ann"))
    assert found.state == "cancelled" and found.error is not None and found.error["message"] == "by ann"


def test_operations_cancelled_on_the_server_cancel_the_job() -> None:
    assert outcome_of({"s1": status("cancelled", entry("a", Cancelled("left off")))}, NAMES, []).state == "cancelled"


def test_time_and_restart_are_failures() -> None:
    for reason in (TimeIsOver("1 h"), Interrupted("restart")):
        found = outcome_of({"s1": status("cancelled", entry("a", Cancelled("left off")))}, NAMES, [], reason)
        assert found.state == "failed" and found.error is not None and found.error["code"] == reason.code


def test_a_job_that_did_nothing_fails_all_its_requests() -> None:
    found = failure(DriverError("no"), [("vm", "a", "s1")])
    assert found.requests == {("vm", "a", "s1"): "untouched"} and found.reasons == {("vm", "a", "s1"): "no"}


def test_a_cancelled_job_says_what_had_been_done() -> None:
    done, left = {**entry("a"), "actions": ["create", "start"]}, {**entry("b", Cancelled("left off")), "actions": []}
    found = outcome_of({"s1": status("cancelled", done, left)}, NAMES, [("vm", "a", "s1"), ("vm", "b", "s1")], Cancelled("by ann"))
    assert found.result is not None and found.result["done"] == [{"server": "one", "kind": "vm", "name": "a", "actions": ["create", "start"]}]
    assert found.error is not None and found.error["message"] == "by ann; done before that: vm a (create, start)"
    assert list(found.requests.values()) == ["effective", "untouched"]


def test_what_only_an_older_agent_does_not_know_is_said_so() -> None:
    error = {"code": "invalid_spec", "message": "is not a known key", "object": "repository nas", "field": "nfs", "remedy": "Known keys: name"}
    told = outcome_of({"s1": {"state": "failed", "result": None, "error": error, "mark": None}}, {"s1": "srv1"}, []).error
    assert told is not None and (told["code"], told["object"], told["field"]) == ("unsupported", "repository nas", "nfs")
    assert "srv1" in told["message"] and "Upgrade the agent" in told["remedy"]
