"""A VM that its pool can not keep up is refused before anything is touched, with what would have to be mended."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from domus_core.engine import apply
from domus_core.errors import DomusError
from domus_core.fake_driver.driver import FakeDriver
from domus_core.model.document import parse_document

ABLE: dict[str, Any] = {"refusal": None, "servers": ("srv1", "srv2"), "unprotected": ()}
SHARED: dict[str, Any] = {"name": "main", "path": "/srv/main", "shared": True}
NFS3 = {"name": "main", "nfs": {"server": "nas1", "export": "/main", "version": "3"}}


def server(**ha: Any) -> FakeDriver:
    """A member whose pool keeps VMs up, but for what is said."""
    driver = FakeDriver()
    state = dataclasses.replace(driver.snapshot.server, facts={**(driver.snapshot.server.facts or {}), "ha": {**ABLE, **ha}})
    driver.snapshot = dataclasses.replace(driver.snapshot, server=state)
    return driver


def document(repository: dict[str, Any] = SHARED, enabled: bool = True, **ha: Any) -> Any:
    disks = [{"name": "root", "repository": "main", "size": "1GiB"}]
    vm = {"name": "web1", "memory": "64MiB", "disks": disks, "state": "running", "ha": {"enabled": enabled, **ha}}
    return parse_document({"repositories": [repository], "vms": [vm]})


def refusal(driver: FakeDriver, wanted: Any) -> str:
    with pytest.raises(DomusError) as told:
        apply(wanted, driver)
    assert driver.taken == []
    return str(told.value)


def test_a_pool_that_can_keeps_it_up_and_a_second_apply_changes_nothing() -> None:
    driver = server()
    wanted = document(preferred_servers=["srv2"])
    assert apply(wanted, driver).errors == [] and not apply(wanted, driver).changed


@pytest.mark.parametrize(
    ("ha", "told"),
    [
        ({"refusal": "these fence devices have not passed a test: bmc for srv2"}, "bmc for srv2"),
        ({"refusal": "this server has no quorum"}, "no quorum"),
    ],
)
def test_what_would_be_hope_is_refused(ha: dict[str, Any], told: str) -> None:
    assert told in refusal(server(**ha), document())


def test_a_server_without_a_clustered_pool_keeps_nothing_up() -> None:
    assert "in no clustered pool" in refusal(FakeDriver(), document())
    assert apply(document(enabled=False), FakeDriver()).errors == []


@pytest.mark.parametrize(("repository", "told"), [({**SHARED, "shared": False}, "which only this server has"), (NFS3, "NFS version 3")])
def test_files_must_be_where_every_server_has_them(repository: dict[str, Any], told: str) -> None:
    assert told in refusal(server(), document(repository))


def test_a_preferred_server_is_one_of_the_pool() -> None:
    assert "preferred_servers: is not a server of the pool (value: 'srv9')" in refusal(server(), document(preferred_servers=["srv2", "srv9"]))


def test_a_vm_without_locks_gets_no_ha_and_one_that_has_it_keeps_it() -> None:
    driver = server(unprotected=("web1",))
    assert apply(document(enabled=False), driver).errors == []
    driver.taken.clear()
    assert "not locked" in refusal(driver, document())
    kept = server()
    apply(document(), kept)
    state = dataclasses.replace(kept.snapshot.server, facts={"ha": {**ABLE, "refusal": "no quorum", "unprotected": ("web1",)}})
    kept.snapshot = dataclasses.replace(kept.snapshot, server=state)
    assert apply(document(priority=3), kept).errors == [], "what is kept up already may be changed"
