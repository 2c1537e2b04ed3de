"""Server pools on one server: made, changed to the last option of a fence device, mended, ended; what a member lacks is refused with what mends it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from domus_core.engine import Report, apply
from domus_core.errors import DomusError
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.document import parse_document
from domus_core.model.server_pool import ServerPoolSpec
from domus_core.planning.reconcile import plan
from hypothesis import given
from hypothesis import strategies as st

DEVICE: dict[str, Any] = {
    "name": "bmc",
    "agent": "fence_ipmilan",
    "servers": [{"name": "srv1"}, {"name": "srv2"}],
    "options": [{"name": "ip", "value": "192.0.2.9"}, {"name": "lanplus", "value": "1"}, {"name": "password", "secret": "s3cret"}],
}
MEMBERS = [{"name": f"srv{number}", "host": f"h{number}", "node_id": number, "addresses": [f"192.0.2.{number}"], "memory": "8GiB"} for number in (1, 2, 3)]
POOL: dict[str, Any] = {
    "name": "rack1",
    "servers": ["srv1", "srv2"],
    "file_system": "fs",
    "fencing": [DEVICE],
    "cluster": {"members": MEMBERS[:2], "authkey": "a2V5"},
}
FILE_SYSTEM: dict[str, Any] = {"name": "fs", "nfs": {"server": "nas1", "export": "/fs", "lookup_cache": "none"}}


def document(*pools: dict[str, Any], **file_system: Any) -> Any:
    return parse_document({"repositories": [{**FILE_SYSTEM, **file_system}], "server_pools": list(pools)})


def done(driver: FakeDriver, *pools: dict[str, Any], check: bool = False) -> list[str]:
    """What an apply changed of the pools."""
    report: Report = apply(document(*pools), driver, check=check)
    assert report.errors == []
    return [change.field for result in report.results if result.kind == "server_pool" for change in result.changes]


def refusal(*pools: dict[str, Any], driver: FakeDriver | None = None, **file_system: Any) -> dict[str, Any]:
    with pytest.raises(DomusError) as told:
        apply(document(*pools, **file_system), driver or FakeDriver())
    return told.value.as_dict()


@pytest.fixture
def member() -> FakeDriver:
    """A server that is in the pool."""
    driver = FakeDriver()
    assert "servers" in done(driver, POOL)
    return driver


def with_state(driver: FakeDriver, **state: Any) -> FakeDriver:
    found = driver.snapshot.find("server_pool", "rack1")
    assert found is not None
    pools = {"rack1": dataclasses.replace(found, state=dataclasses.replace(found.state, **state))}
    driver.snapshot = dataclasses.replace(driver.snapshot, objects={**driver.snapshot.objects, "server_pool": pools})
    return driver


def test_check_apply_apply_check() -> None:
    driver = FakeDriver()
    foretold = apply(document(POOL), driver, check=True)
    assert driver.taken == [] and foretold.changed
    made = apply(document(POOL), driver)
    assert [result.as_dict()["changes"] for result in made.results] == [result.as_dict()["changes"] for result in foretold.results]
    assert not apply(document(POOL), driver).changed and not apply(document(POOL), driver, check=True).changed
    assert {step.kind for step in driver.taken} == {"repository", "server_pool"}, "VMs are none of its business"


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"token": 5000}, ["token"]),
        ({"fencing": []}, ["fencing[bmc]"]),
        ({"fencing": [{**DEVICE, "options": DEVICE["options"][:1]}]}, ["fencing[bmc].options[lanplus]", "fencing[bmc].options[password]"]),
        ({"fencing": [{**DEVICE, "options": [*DEVICE["options"][:2], {"name": "password", "secret": "other"}]}]}, ["fencing[bmc].options[password].secret"]),
        ({"fencing": [{**DEVICE, "servers": DEVICE["servers"][:1]}]}, ["fencing[bmc].servers[srv2]"]),
        ({"heartbeat": [{"name": "lan", "subnet": "192.0.2.0/24"}]}, ["heartbeat[lan]"]),
        ({"servers": ["srv1", "srv2", "srv3"], "cluster": {"members": MEMBERS}}, ["servers", "cluster.members[srv3]"]),
        ({"servers": ["srv1"], "cluster": {"members": MEMBERS[:1]}, "fencing": []}, ["servers", "fencing[bmc]", "cluster.members[srv2]"]),
        ({"cluster": {"members": MEMBERS[:2], "authkey": "b3RoZXI="}}, ["cluster.authkey"]),
        ({"quorum_device": {"host": "quorum.example.org"}}, ["quorum_device"]),
        ({"watchdog": {"timeout": 10}}, ["watchdog"]),
    ],
)
def test_what_is_changed_is_told_to_the_last_option(member: FakeDriver, changed: dict[str, Any], fields: list[str]) -> None:
    wanted = {**POOL, **changed}
    assert done(member, wanted, check=True) == done(member, wanted) == fields
    assert done(member, wanted) == []


def test_what_is_left_out_stays(member: FakeDriver) -> None:
    assert done(member, {"name": "rack1"}) == []
    assert done(member, {"name": "rack1", "description": "x"}) == ["description"]
    found = member.snapshot.find("server_pool", "rack1")
    assert found is not None and [device.name for device in found.spec.fencing] == ["bmc"]


def test_room_and_tags_of_members_are_no_difference(member: FakeDriver) -> None:
    told = {"members": [{**one, "memory": "1GiB", "cpus": 7, "tags": ["new"], "cpu_group": "x"} for one in MEMBERS[:2]]}
    assert done(member, {**POOL, "cluster": told}) == []


def test_a_quorum_device_goes_when_it_is_to_be_absent(member: FakeDriver) -> None:
    device = {"host": "quorum.example.org"}
    done(member, {**POOL, "quorum_device": device})
    assert done(member, {**POOL, "quorum_device": {**device, "state": "absent"}}) == ["quorum_device"]
    assert done(member, {**POOL, "quorum_device": {**device, "state": "absent"}}) == []


def test_a_watchdog_goes_and_its_timeout_is_not_changed_while_it_is_trusted(member: FakeDriver) -> None:
    done(member, {**POOL, "watchdog": {"timeout": 10}})
    assert refusal({**POOL, "watchdog": {"timeout": 20}}, driver=member)["field"] == "watchdog.timeout"
    assert done(member, {**POOL, "watchdog": {"state": "absent"}}) == ["watchdog"]
    assert done(member, {**POOL, "watchdog": {"state": "absent"}}) == []
    assert done(member, {**POOL, "watchdog": {"timeout": 20}}) == ["watchdog"]


def test_what_a_part_leaves_out_stays(member: FakeDriver) -> None:
    done(member, {**POOL, "quorum_device": {"host": "quorum.example.org", "algorithm": "lms"}})
    assert done(member, {**POOL, "quorum_device": {"host": "quorum.example.org"}}) == []
    found = member.snapshot.find("server_pool", "rack1")
    assert found is not None and found.spec.quorum_device.algorithm == "lms"


def test_what_is_not_as_it_was_written_is_mended(member: FakeDriver) -> None:
    with_state(member, amiss=("corosync.service does not run",))
    assert done(member, POOL, check=True) == done(member, POOL) == ["cluster"]
    assert done(member, POOL) == []


def test_a_server_leaves_and_not_while_ha_vms_run_there(member: FakeDriver) -> None:
    absent = {"name": "rack1", "state": "absent"}
    told = refusal(absent, driver=with_state(member, vms=("web1",)))
    assert "web1" in told["message"] and "evacuate" in told["remedy"]
    with_state(member, vms=())
    assert done(member, absent) == ["state"]
    assert done(member, absent) == [] and member.snapshot.find("server_pool", "rack1") is None


def test_a_server_is_in_one_pool_and_goes_to_another_in_one_document(member: FakeDriver) -> None:
    other = {**POOL, "name": "rack2"}
    assert "rack1" in refusal(other, driver=member)["message"]
    assert done(member, other, {"name": "rack1", "state": "absent"})
    assert [step.name for step in member.taken[-2:]] == ["server_pool rack1", "server_pool rack2"]


@pytest.mark.parametrize(
    ("changed", "file_system", "field", "word"),
    [
        ({"file_system": None}, {}, "file_system", "is missing"),
        ({"file_system": "other"}, {}, "file_system", "there is no repository"),
        ({}, {"nfs": {**FILE_SYSTEM["nfs"], "version": "3"}}, "file_system", "NFSv3"),
        ({}, {"nfs": {"server": "nas1", "export": "/fs"}}, "file_system", "seen late"),
        ({}, {"nfs": {**FILE_SYSTEM["nfs"], "soft": True}}, "file_system", "lost"),
        ({}, {"nfs": None, "path": "/srv/fs"}, "file_system", "not the same file system"),
        ({"cluster": None}, {}, None, "only a manager"),
    ],
)
def test_what_a_clustered_pool_needs(changed: dict[str, Any], file_system: dict[str, Any], field: str | None, word: str) -> None:
    told = refusal({**POOL, **changed}, **file_system)
    assert told.get("field") == field and word in told["message"] and told["remedy"]


def test_what_the_server_lacks_is_refused_with_the_command_that_mends_it() -> None:
    driver = FakeDriver()
    driver.snapshot = dataclasses.replace(driver.snapshot, lacks={"rack1": ("the program corosync", "the program fence_ipmilan")})
    told = refusal(POOL, driver=driver)
    assert "corosync, the program fence_ipmilan" in told["message"] and "ansible-playbook domus.virt.server_pools" in told["remedy"]
    assert driver.taken == []


def test_a_cluster_that_a_role_has_made_is_written_down_where_no_manager_tells(member: FakeDriver) -> None:
    with_state(member, registered=False)
    assert done(member, {"name": "rack1", "servers": ["srv1", "srv2"]}) == ["registered"]


def test_a_pool_without_a_cluster_needs_nothing() -> None:
    driver = FakeDriver()
    wanted = {"name": "lab", "servers": ["srv1"], "clustered": False}
    assert done(driver, wanted) == ["name", "servers", "clustered"] and done(driver, wanted) == []
    assert refusal({**wanted, "clustered": True}, driver=driver)["field"] == "clustered"


@given(st.permutations(MEMBERS), st.integers(1, 3), st.permutations(MEMBERS), st.integers(1, 3))
def test_whoever_comes_and_goes_the_plan_leads_there_at_once(before: list[Any], first: int, after: list[Any], second: int) -> None:
    driver = FakeDriver()
    for members in (before[:first], after[:second]):
        wanted = {**POOL, "servers": [one["name"] for one in members], "fencing": [], "cluster": {"members": members}}
        done(driver, wanted)
        found = driver.snapshot.find("server_pool", "rack1")
        assert found is not None and isinstance(found.spec, ServerPoolSpec)
        assert {one.name for one in found.spec.cluster.members} == set(found.spec.servers)  # type: ignore[union-attr,arg-type]
        assert plan(document(wanted), driver.snapshot).steps == ()


def test_a_server_is_in_one_pool_also_when_a_document_makes_both_at_once() -> None:
    one, two = {"name": "a", "clustered": False, "servers": ["srv1"]}, {"name": "b", "clustered": False, "servers": ["srv1"]}
    with pytest.raises(DomusError, match="is in server pool"):
        apply(document(one, two), FakeDriver())
    driver = FakeDriver()
    done(driver, one)
    assert not driver.snapshot.find("server_pool", "b")
    done(driver, {**one, "state": "absent"}, two)
    assert driver.snapshot.find("server_pool", "b") and not driver.snapshot.find("server_pool", "a")
