"""Objects: lists, items, and changes as documents of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from domus_controller.store import objects, server_states

from tests.unit.domus_controller.api.fakes import OTHER_SERVER, SERVER, Manager


def names(page: Any) -> list[str]:
    return [item["name"] for item in page["items"]]


def test_a_vm_has_what_the_contract_names(manager: Manager) -> None:
    identity = manager.report("vm", "web1", cpus=2)
    item = manager.get("/api/v1/vms/web1")
    assert item == manager.get(f"/api/v1/vms/{identity}")
    wanted = {"id", "name", "state", "server", "addresses", "spec", "generation", "restart_required", "etag", "drift", "asked", "recorded", "running"}
    assert wanted <= set(item)
    assert (item["server"], item["spec"]["cpus"], item["addresses"]) == ("srv1", 2, ["192.0.2.50"])


def test_pages_follow_each_other_and_filters_choose(manager: Manager) -> None:
    for number in range(5):
        manager.report("vm", f"vm{number}", OTHER_SERVER if number % 2 else "5ca7e5f0-0000-4000-8000-000000000001", tags=["odd"] if number % 2 else [])
    first = manager.get("/api/v1/vms?limit=3")
    rest = manager.get(f"/api/v1/vms?limit=3&cursor={first['next']}")
    assert (names(first), names(rest), rest["next"]) == (["vm0", "vm1", "vm2"], ["vm3", "vm4"], None)
    assert names(manager.get("/api/v1/vms?server=srv2")) == names(manager.get("/api/v1/vms?tag=odd")) == ["vm1", "vm3"]
    assert names(manager.get("/api/v1/vms?name=vm3")) == ["vm3"]


def test_fields_choose_what_is_shown(manager: Manager) -> None:
    manager.report("vm", "web1", cpus=2, memory=1 << 30)
    assert manager.get("/api/v1/vms?fields=name,spec.cpus")["items"] == [{"name": "web1", "spec": {"cpus": 2}}]
    assert manager.get("/api/v1/vms/web1?fields=spec.memory,spec.cpus") == {"spec": {"cpus": 2, "memory": 1 << 30}}
    assert "memory" in manager.get("/api/v1/vms/web1?fields=spec.cpus,spec")["spec"]


def test_an_item_that_the_caller_has_is_not_sent_again(manager: Manager) -> None:
    manager.report("vm", "web1", cpus=2)
    etag = manager.call("GET", "/api/v1/vms/web1").headers["ETag"]
    again = manager.call("GET", "/api/v1/vms/web1", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    manager.report("vm", "web1", cpus=4)
    assert manager.call("GET", "/api/v1/vms/web1", headers={"If-None-Match": etag}).status_code == 200


def test_the_change_feed_tells_what_is_new_and_what_is_gone(manager: Manager) -> None:
    manager.report("vm", "web1")
    identity = manager.report("vm", "web2")
    since = manager.get("/api/v1/vms")["since"]
    assert manager.get(f"/api/v1/vms?since={since}")["items"] == []
    manager.report("vm", "web1", cpus=3)
    manager.store.write(lambda connection: objects.put(connection, "5ca7e5f0-0000-4000-8000-000000000001", None, "vm", "web2", 1.0))
    changed = manager.get(f"/api/v1/vms?since={since}")
    assert [item["name"] for item in changed["items"]] == ["web1", "web2"]
    assert changed["items"][1] == {"id": identity, "name": "web2", "deleted": True}


def test_creating_applies_a_document_of_one(manager: Manager) -> None:
    answer = manager.call("POST", "/api/v1/vms?reason=because", json={"name": "web1", "cpus": 2})
    assert (answer.status_code, answer.json["state"], answer.json["reason"]) == (202, "queued", "because")
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json['id']}"
    assert manager.jobs.documents == [{"site": "default", "vms": [{"name": "web1", "cpus": 2}]}]


def test_creating_what_exists_is_refused(manager: Manager) -> None:
    manager.report("vm", "web1")
    manager.report("virtual_disk", "data1", repository="main")
    assert manager.call("POST", "/api/v1/vms", json={"name": "web1"}).json["code"] == "conflict"
    assert manager.call("POST", "/api/v1/vms", json={"name": "web1", "server": "srv1"}).status_code == 409
    assert manager.call("POST", "/api/v1/vms", json={"name": "web1", "server": "srv2"}).status_code == 202
    assert manager.call("POST", "/api/v1/virtual-disks", json={"name": "data1", "repository": "main"}).status_code == 409
    assert manager.call("POST", "/api/v1/virtual-disks", json={"name": "data1", "repository": "other", "size": "1GiB"}).status_code == 202


def test_replacing_keeps_the_name_and_takes_unmentioned_devices_away(manager: Manager) -> None:
    manager.report("vm", "web1", cpus=2)
    assert manager.call("PUT", "/api/v1/vms/web1", json={"cpus": 4}).status_code == 202
    assert manager.jobs.documents[-1]["vms"] == [{"name": "web1", "cpus": 4, "exact": True, "server": "srv1"}]
    renamed = manager.call("PUT", "/api/v1/vms/web1", json={"name": "web2"})
    assert (renamed.status_code, renamed.json["field"]) == (400, "name")
    assert manager.call("PUT", "/api/v1/vms/nothing", json={}).status_code == 404


def test_replacing_what_has_changed_is_refused_and_the_generation_travels_along(manager: Manager) -> None:
    manager.report("vm", "web1", cpus=2)
    etag = manager.call("GET", "/api/v1/vms/web1").headers["ETag"]
    assert manager.call("PUT", "/api/v1/vms/web1", json={"cpus": 4}, headers={"If-Match": etag}).status_code == 202
    assert manager.jobs.documents[-1]["vms"][0]["generation"] == 3
    manager.report("vm", "web1", cpus=8)
    stale = manager.call("PUT", "/api/v1/vms/web1", json={"cpus": 4}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json["code"]) == (412, "precondition_failed")
    assert manager.call("DELETE", "/api/v1/vms/web1", headers={"If-Match": etag}).status_code == 412
    assert len(manager.jobs.documents) == 1


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("/api/v1/vms/web1?delete_disks=true", {"name": "web1", "state": "absent", "delete_disks": True, "server": "srv1"}),
        ("/api/v1/vms/web1", {"name": "web1", "state": "absent", "server": "srv1"}),
        ("/api/v1/networks/lan", {"name": "lan", "state": "absent", "servers": ["srv1"]}),
        ("/api/v1/virtual-disks/main/data1", {"name": "data1", "repository": "main", "state": "absent", "servers": ["srv1"]}),
    ],
)
def test_deleting_applies_a_document_of_one(manager: Manager, path: str, entry: dict[str, Any]) -> None:
    manager.report("vm", "web1")
    manager.report("network", "lan")
    manager.report("virtual_disk", "data1", repository="main")
    assert manager.call("DELETE", path).status_code == 202
    document = manager.jobs.documents[-1]
    assert [section for section in document if section != "site"] == [path.split("/")[3].replace("-", "_")]
    assert next(entries for section, entries in document.items() if section != "site") == [entry]


def test_a_name_on_two_servers_is_told_apart_by_the_server(manager: Manager) -> None:
    manager.report("network", "lan", mode="nat")
    manager.report("network", "lan", OTHER_SERVER, mode="isolated")
    assert manager.call("GET", "/api/v1/networks/lan").json["code"] == "conflict"
    assert manager.get("/api/v1/networks/lan?server=srv2")["spec"]["mode"] == "isolated"
    manager.call("DELETE", "/api/v1/networks/lan?server=srv2")
    assert manager.jobs.documents[-1]["networks"][0]["servers"] == ["srv2"]


def test_drift_is_listed(manager: Manager) -> None:
    manager.report("vm", "web1", cpus=2)
    assert manager.get("/api/v1/drift")["items"] == []
    wrong = {"name": "web1", "cpus": 2}
    description = json.loads(objects.find_text(manager.store, "vm", "web1"))
    manager.store.write(
        lambda connection: objects.put(
            connection, description["server_id"], {**description, "spec": wrong, "recorded": {**wrong, "cpus": 3}}, "vm", "web1", 1.0
        )
    )
    [item] = manager.get("/api/v1/drift?kind=vm")["items"]
    assert (item["name"], item["drift"][0]["field"], item["drift"][0]["recorded"], item["drift"][0]["defined"]) == ("web1", "cpus", 3, 2)


def test_a_copy_that_turns_stale_is_another_answer(manager: Manager) -> None:
    manager.report("vm", "web1")
    path = "/api/v1/vms/web1"
    first = manager.call("GET", path)
    assert first.json["stale"] is True and manager.get("/api/v1/vms")["items"][0]["stale"] is True
    assert manager.call("GET", path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    manager.parts.store.write(lambda connection: server_states.heard(connection, SERVER, manager.parts.store.now(), "1", "up"))
    second = manager.call("GET", path, headers={"If-None-Match": first.headers["ETag"]})
    assert (second.status_code, second.json["stale"]) == (200, False)
    assert manager.call("PUT", path, json={"cpus": 4}, headers={"If-Match": first.headers["ETag"]}).status_code == 202
