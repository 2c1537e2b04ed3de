"""Evacuation of a server with real live migrations; the manager is killed in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.lab import Lab
from tests.hosts.migration_site import MigrationSite

NAMES = ("evac1", "evac2", "evac3", "evac4")


@pytest.fixture(scope="module")
def site(lab: Lab, module_hosts: Hosts) -> Iterator[MigrationSite]:
    with closing(MigrationSite(lab, module_hosts(2))) as made:
        for name in NAMES:
            made.make(name, fill=16)
        yield made


def _evacuate(site: MigrationSite, server: str, check: bool = False, **body: Any) -> dict[str, Any]:
    return dict(site.fleet.client.post(f"/api/v1/servers/{server}/evacuate{'?check=true' if check else ''}", body))


def test_one_vm_that_can_not_move_is_told_before_anything_moves(site: MigrationSite) -> None:
    one = site.one.name
    network = {"name": "only-here", "mode": "isolated", "servers": [one]}
    assert site.fleet.apply({"site": "default", "networks": [network]})["state"] == "succeeded"
    site.make("stuck", fill=16, nics=[{"name": "eth0", "network": "only-here"}])
    plan = _evacuate(site, one, check=True)
    assert not plan["possible"]
    assert {move["vm"]: move["possible"] for move in plan["moves"]} == {**dict.fromkeys(NAMES, True), "stuck": False}
    with pytest.raises(Exception, match="only-here"):
        _evacuate(site, one)
    assert [site.state(site.one, name) for name in NAMES] == ["running"] * 4
    absent = {"vms": [{"name": "stuck", "state": "absent", "delete_disks": True}], "networks": [{**network, "state": "absent"}]}
    job = site.fleet.apply({"site": "default", **absent})
    assert job["state"] == "succeeded", job["error"]


def test_the_manager_is_killed_during_an_evacuation(site: MigrationSite) -> None:
    """What is under way goes on without it, what is left is moved once it is back, and each VM runs once throughout."""
    plan = _evacuate(site, site.one.name, check=True)
    assert plan["possible"] and {move["server"] for move in plan["moves"]} == {site.two.name}
    job = _evacuate(site, site.one.name, at_once=1, bandwidth=20)
    site.fleet.stack.wait_for(lambda: _arrived(site) or False, "the first VM's arrival", 60)
    site.fleet.stack.end("manager", 9)
    assert len(_arrived(site)) < 4, "nothing was left to do after the manager was killed"
    _each_runs_once(site)
    site.fleet.stack.start("manager")
    site.fleet.stack.wait_until_up()
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    for name in NAMES:
        site.runs_once(name, site.two)
        site.goes_on(site.two, name)
        site.fleet.stack.wait_for(lambda name=name: site.is_told(name, site.two), f"the manager's view of {name}", 30)


def test_maintenance_with_evacuation_empties_the_server_and_takes_no_new_vm(site: MigrationSite) -> None:
    two = site.two.name
    job = site.fleet.client.put(f"/api/v1/servers/{two}/maintenance", {"enabled": True, "evacuate": True, "reason": "new memory"})
    ended = site.fleet.ended(job)
    assert ended["state"] == "succeeded", ended["error"]
    for name in NAMES:
        site.runs_once(name, site.one)
    assert {server["name"]: server["state"] for server in site.fleet.servers()}[two] == "maintenance"
    refused = site.fleet.client.post("/api/v1/vms/evac1/migrate?check=true", {"server": two})
    assert not refused["possible"] and "maintenance" in str(refused["errors"])
    site.fleet.client.put(f"/api/v1/servers/{two}/maintenance", {"enabled": False})


def _arrived(site: MigrationSite) -> list[str]:
    return [name for name in NAMES if site.state(site.two, name) == "running"]


def _each_runs_once(site: MigrationSite) -> None:
    """A VM on its way is paused at one side while it runs at the other."""
    for name in NAMES:
        assert [site.state(host, name) for host in (site.one, site.two)].count("running") <= 1, name
