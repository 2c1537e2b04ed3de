"""What the manager answers is told as if the engine had run here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from plugins.module_utils import module_manager, module_results
from plugins.module_utils.domus_core.model.secrets import MASK

VM = {"kind": "vm", "name": "web1", "server": "srv1", "changed": True, "actions": ["create"]}
NET = {"kind": "network", "name": "lan", "changed": False}
WRONG = {"code": "conflict", "message": "is in use", "object": "vm web1"}


class Client:
    """A manager whose job has this end."""

    def __init__(self, answer: dict[str, Any], **lists: list[dict[str, Any]]) -> None:
        self.answer, self.lists = answer, lists
        self.asked: list[tuple[str, Any]] = []

    def apply(self, document: Any, **options: Any) -> dict[str, Any]:
        return {"id": "j1", "state": "queued"} if not options["check"] else self.answer

    def follow(self, job_id: str, **dummy: Any) -> dict[str, Any]:
        return {"id": job_id, **self.answer}

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        self.asked.append((path, query["name"]))
        return (item for item in self.lists.get(path.rsplit("/", 1)[1], []) if query["name"] in (None, item["name"]))


def carried_out(answer: dict[str, Any], *, check: bool = False, **lists: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Objects and errors of an apply that has this answer."""
    client: Any = Client(answer, **lists)
    return module_manager.apply_through(client, {}, check=check, wait_for_address=0, patience=5)


def job(state: str, *objects: Any, error: Any = None) -> dict[str, Any]:
    """A job that has ended so."""
    return {"state": state, "error": error, "result": {"objects": list(objects)}}


def test_what_is_measured_comes_from_the_lists_of_the_right_server() -> None:
    items = [{"name": "web1", "key": "web1", "server": server, "measured": {"state": "running", "uuid": server}} for server in ("srv2", "srv1")]
    gone = {**VM, "name": "web2", "actions": ["delete"]}
    objects, errors = carried_out(job("succeeded", VM, gone), vms=items)
    assert errors == [] and [one["state"] for one in objects] == [{"state": "running", "uuid": "srv1"}, None]
    told = module_results.told_of_object(objects, errors, "vm", "web1", diff=False)
    assert told == {
        "changed": True,
        "actions": ["create vm web1", "delete vm web2"],
        "object": {"kind": "vm", "name": "web1", "state": "running", "uuid": "srv1"},
        "restart_required": [],
    }


@pytest.mark.parametrize(("number", "asked"), [(20, 20), (21, 1)])
def test_many_objects_are_looked_up_at_once(number: int, asked: int) -> None:
    items = [{"name": f"vm{one}", "key": f"vm{one}", "server": "srv1", "measured": {"state": str(one)}} for one in range(30)]
    client: Any = Client(job("succeeded", *({**VM, "name": f"vm{one}"} for one in range(number))), vms=items)
    objects, dummy = module_manager.apply_through(client, {}, check=False, wait_for_address=0, patience=5)
    assert [one["state"]["state"] for one in objects] == [str(one) for one in range(number)]
    assert len(client.asked) == asked


def test_an_object_on_several_servers_is_shown_where_it_has_changed() -> None:
    copies = [{**NET, "server": "srv1", "restart_required": ["mtu"]}, {**NET, "server": "srv2", "changed": True, "restart_required": ["mtu", "dns"]}]
    items = [{"name": "lan", "key": "lan", "server": f"srv{one}", "measured": {"active": one == 2}} for one in (1, 2)]
    objects, errors = carried_out(job("succeeded", *copies), networks=items)
    told = module_results.told_of_object(objects, errors, "network", "lan", diff=False)
    assert told["object"]["state"] == "active" and told["restart_required"] == ["mtu", "dns"] and told["changed"] is True


@pytest.mark.parametrize(
    ("answer", "messages"),
    [
        (job("failed", {**VM, "error": WRONG}, error=WRONG), ["is in use"]),
        (
            job("failed", {**VM, "error": WRONG}, error={**WRONG, "errors": [WRONG, {**WRONG, "object": "server srv2", "message": "is away"}]}),
            ["is in use", "is away"],
        ),
        (job("failed", error={"code": "unreachable", "message": "is away"}), ["is away"]),
        (job("failed"), ["the job has failed"]),
        (job("cancelled", VM), ["the job was cancelled"]),
        ({"state": "failed", "error": None, "result": None}, ["the job has failed"]),
    ],
)
def test_every_error_is_told_once_and_no_failure_passes_for_a_success(answer: dict[str, Any], messages: list[str]) -> None:
    objects, errors = carried_out(answer)
    assert [error["message"] for error in errors] == messages
    told = module_results.told_of_document(objects, errors, diff=False)
    assert all(message in told["msg"] for message in messages) and "nothing was touched" not in told["msg"]


def test_a_plan_with_errors_fails_the_check() -> None:
    objects, errors = carried_out({"id": "p1", "state": "open", "objects": [VM], "errors": [WRONG]}, check=True)
    assert errors == [WRONG] and objects[0]["changed"] is True


def test_a_changed_secret_is_told_as_such_and_not_shown() -> None:
    changes = [
        {"field": "vnc.password", "before": MASK, "after": MASK, "effect": "live"},
        {"field": "memory", "before": None, "after": 1 << 30, "effect": "live"},
    ]
    told = module_results.told([{**VM, "changes": changes}], [], diff=True)
    (diff,) = told["diff"]
    assert diff["before"] == f"vnc.password: {MASK}\n" and diff["after"] == f"vnc.password: {MASK} (another)\nmemory: 1GiB\n"
    assert diff["before_header"] == diff["after_header"] == "vm web1"
