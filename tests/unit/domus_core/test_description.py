"""What agents tell of objects: the contract's keys, JSON-able, no secret in it, the same for the same object."""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import Any

import pytest
from domus_core.description import describe, identity
from domus_core.engine import apply
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.document import parse_document
from domus_core.model.server import ServerState
from domus_core.model.snapshot import Found, ImageFile, Snapshot

SERVER = "11111111-1111-4111-8111-111111111111"
KEYS = {
    "kind",
    "key",
    "id",
    "name",
    "site",
    "generation",
    "state",
    "spec",
    "recorded",
    "running",
    "measured",
    "fingerprint",
    "restart_required",
}
DOCUMENT: dict[str, Any] = {
    "site": "paris",
    "servers": [{"name": "srv1"}],
    "networks": [{"name": "lan", "subnet": "192.0.2.0/24"}, {"name": "back", "mode": "isolated", "state": "inactive"}],
    "repositories": [{"name": "main", "path": "/srv/main"}],
    "templates": [{"name": "debian", "image": "main/debian.qcow2"}],
    "vms": [
        {
            "name": "web1",
            "state": "running",
            "disks": [{"name": "root", "template": "debian"}],
            "vnc": {"enabled": True, "password": "hunter22"},
            "cloud_init": {"user_data": "#cloud-config\npassword: hunter22\n"},
        },
        {"name": "web2"},
    ],
}


@pytest.fixture
def driver() -> FakeDriver:
    """A server with one object of nearly every kind."""
    made = FakeDriver(Snapshot(ServerState(), {}, {"main/Templates/debian.qcow2": ImageFile("qcow2", 1 << 30)}))
    assert not apply(parse_document(DOCUMENT), made).errors
    return made


def described(driver: FakeDriver, kind: str, key: str) -> dict[str, Any]:
    """The description of an object that is there."""
    found = driver.read_one(kind, key)
    assert found is not None
    return describe(kind, key, found, SERVER)


def test_every_kind_has_the_same_keys_and_survives_json(driver: FakeDriver) -> None:
    told = [describe(kind, key, found, SERVER) for kind, entries in driver.snapshot.objects.items() for key, found in entries.items()]
    assert {one["kind"] for one in told} == {"server", "network", "repository", "template", "virtual_disk", "vm"}
    for one in told:
        assert one.keys() == KEYS and json.loads(json.dumps(one, allow_nan=False)) == one
        assert str(uuid.UUID(one["id"])) == one["id"]
    assert len({one["id"] for one in told}) == len(told)
    assert "hunter22" not in json.dumps(told)


def test_a_vm(driver: FakeDriver) -> None:
    web1, web2 = described(driver, "vm", "web1"), described(driver, "vm", "web2")
    found = driver.read_one("vm", "web1")
    assert found is not None and web1["id"] == found.state.uuid == web1["measured"]["uuid"] and web1["fingerprint"] == found.fingerprint
    assert (web1["name"], web1["site"], web1["generation"], web1["state"], web1["running"]) == ("web1", "paris", 1, "running", True)
    assert web1["recorded"]["state"] == "running" and "state" not in web1["spec"] and web1["spec"]["disks"][0]["name"] == "root"
    assert (web2["state"], web2["running"], web2["restart_required"]) == ("stopped", None, [])
    apply(parse_document({"site": "paris", "vms": [{"name": "web1", "clock": "localtime"}]}), driver)
    changed = described(driver, "vm", "web1")
    assert changed["running"]["clock"] == "utc" and changed["spec"]["clock"] == "localtime" and changed["restart_required"] == ["clock"]
    assert changed["generation"] == 2 and changed["id"] == web1["id"]


def test_other_kinds(driver: FakeDriver) -> None:
    lan, back, disk = described(driver, "network", "lan"), described(driver, "network", "back"), described(driver, "virtual_disk", "main/web1-root")
    assert (lan["state"], lan["running"], back["state"], back["running"]) == ("active", True, "inactive", None)
    assert (disk["state"], disk["key"], disk["name"], disk["generation"], disk["recorded"]) == ("present", "main/web1-root", "web1-root", 0, None)
    assert disk["id"] == str(uuid.uuid5(uuid.UUID(SERVER), "virtual_disk/main/web1-root")) == identity("virtual_disk", "main/web1-root", None, SERVER)
    assert lan["id"] != lan["measured"]["uuid"], "two servers may have the same network"


def test_tuples_are_lists() -> None:
    found = FakeDriver().read_one("vm", "x")
    assert found is None
    state = ServerState(domain_types=("qemu", "kvm"), facts={"memory": 1})
    spec = parse_document({"servers": [{"name": "srv1"}]}).wanted("server")["srv1"]
    told = describe("server", "srv1", Found(spec, state), SERVER)
    assert told["measured"] == {**dataclasses.asdict(state), "domain_types": ["qemu", "kvm"], "machines": []} and told["state"] == "present"
