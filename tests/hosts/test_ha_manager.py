"""HA VMs through the manager: made by a document, changed, started, stopped, moved, evacuated, lost with their server, and deleted."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.managed_pool import ManagedPool, guest

HA = {"enabled": True, "priority": 3}
# Policies are carried out soon after the manager's start.
SETTINGS = {"policy_start_seconds": 1, "disconnected_seconds": 10}
# Servers promise so much memory to guests of 192 MiB each, so that one with two of them is far from one with none.
ROOM = 1500


@pytest.fixture(scope="module")
def pools(lab: Lab, module_hosts: Hosts) -> Iterator[ManagedPool]:
    with PowerService(lab) as power, contextlib.closing(ManagedPool(lab, module_hosts(3, disk="3G"), power, **SETTINGS)) as made:
        made.succeeds(made.pool(made.hosts))
        made.wait(lambda: made.is_whole(made.hosts), "a whole pool")
        refused = made.fleet.apply({"site": "default", "vms": [guest("web1", pool="rack1", ha=HA)]})
        assert refused["state"] == "failed" and "have not passed a test" in str(refused["error"]), refused
        assert made.fleet.client.post("/api/v1/server-pools/rack1/fence-test", {})["passed"]
        made.succeeds({"vms": [guest("web1", pool="rack1", ha=HA)]})
        yield made


def verb(pools: ManagedPool, vm: str, name: str, **options: Any) -> dict[str, Any]:
    job = pools.fleet.ended(pools.fleet.client.post(f"/api/v1/vms/{vm}/{name}", options))
    assert job["state"] == "succeeded", job
    return job


def place(pools: ManagedPool, vm: str = "web1") -> Host:
    """Where libvirt runs it, which is where the manager has it, too."""
    running = [host for host in pools.hosts if host.is_running and vm in host.attempt("virsh", "list", "--name", timeout=20).output.split()]
    assert len(running) == 1, running
    pools.wait(
        lambda: pools.fleet.vm(vm)["server"] == running[0].name and pools.fleet.vm(vm)["state"] == "running", f"the manager knowing that {vm} runs there"
    )
    return running[0]


def arrived_alive(pools: ManagedPool, vm: str) -> bool:
    """Was its QEMU made to take it over from another one, and not to boot it?"""
    return "-incoming" in place(pools, vm).run("sh", "-c", f"tr '\\0' '\\n' </proc/$(pgrep -f '[g]uest={vm},')/cmdline").split("\n")


def conflicts(pools: ManagedPool) -> list[Any]:
    return list(pools.fleet.client.pages("/api/v1/events", kind="vm.conflict"))


def test_it_is_kept_up_and_applying_again_changes_nothing(pools: ManagedPool) -> None:
    place(pools)
    pools.wait(lambda: pools.shown()["vms"].keys() == {"web1"}, "the pool telling of it")
    assert not pools.succeeds({"vms": [guest("web1", pool="rack1", ha=HA)]})["changed"]
    assert pools.fleet.vm("web1")["spec"]["ha"] == HA


def test_every_verb(pools: ManagedPool) -> None:
    for name, options in (("stop", {"timeout": 1, "force": True}), ("kill", {}), ("suspend", {})):
        verb(pools, "web1", name, **options)
        pools.wait(lambda name=name: pools.fleet.vm("web1")["state"] == ("suspended" if name == "suspend" else "stopped"), f"the end of {name}")
        verb(pools, "web1", "start")
        place(pools)
    verb(pools, "web1", "restart", timeout=1, force=True)
    place(pools)


def test_it_is_moved_and_changed(pools: ManagedPool) -> None:
    source = place(pools)
    target = next(host for host in pools.hosts if host is not source)
    job = pools.fleet.ended(pools.fleet.migrate("web1", target))
    assert job["state"] == "succeeded", job
    assert place(pools) is target
    assert pools.succeeds({"vms": [guest("web1", ha={"priority": 9}, description="moved")]})["changed"]
    assert place(pools) is target and pools.fleet.vm("web1")["spec"]["ha"] == {**HA, "priority": 9}


def test_a_server_is_emptied_and_gets_none(pools: ManagedPool) -> None:
    source = place(pools)
    maintenance = f"/api/v1/servers/{source.name}/maintenance"
    job = pools.fleet.ended(pools.fleet.client.put(maintenance, {"enabled": True, "evacuate": True}), 300)
    assert job["state"] == "succeeded", job
    assert place(pools) is not source
    closed = f"crm_attribute --query --quiet --node {source.name} --name domus-closed"
    pools.wait(lambda: pools.hosts[0].shell(closed).strip() == "1", "Pacemaker knowing of the maintenance")
    pools.fleet.client.put(maintenance, {"enabled": False})
    pools.wait(lambda: pools.hosts[0].shell(closed).strip() == "0", "the end of it")


def test_a_stopped_vm_stays_where_it_was_moved(pools: ManagedPool) -> None:
    """Its definition there is no leftover, though nothing of it runs: the agents look several times meanwhile."""
    source = place(pools, "plain")
    target = next(host for host in pools.hosts if host is not source)
    verb(pools, "plain", "stop", timeout=1, force=True)
    assert pools.fleet.ended(pools.fleet.migrate("plain", target))["state"] == "succeeded"
    time.sleep(50)
    defined = [host.name for host in pools.hosts if "plain" in host.run("virsh", "list", "--all", "--name").split()]
    assert defined == [target.name] and pools.fleet.vm("plain")["server"] == target.name
    verb(pools, "plain", "start")
    assert place(pools, "plain") is target


def test_its_server_dies_and_the_manager_follows(pools: ManagedPool) -> None:
    lost = place(pools)
    lost.power_off()
    pools.wait(lambda: place(pools) is not lost, "web1 elsewhere", 180)
    assert conflicts(pools) == []
    pools.wait(lambda: lost.is_running and pools.is_whole(pools.hosts), "the server being back", 180)
    pools.wait(lambda: "web1" not in lost.run("virsh", "list", "--all", "--name").split() or place(pools) is lost, "the leftover going", 90)
    assert not pools.succeeds({"vms": [guest("web1", ha={"priority": 9}, description="moved")]})["changed"]
    assert conflicts(pools) == []


def test_a_policy_spreads_ha_vms_and_pacemaker_keeps_them_there(pools: ManagedPool) -> None:
    crowded = place(pools)
    vms = [guest("web2", pool="rack1", ha=HA, firmware="uefi"), guest("web3", pool="rack1", ha=HA)]
    servers = [{"name": one["name"], "memory_reserve": one["facts"]["memory"] - ROOM * 2**20} for one in pools.fleet.servers()]
    pools.succeeds({"servers": servers, "vms": vms})
    variables = pools.lab.shared / "pool" / "VirtualDisks" / f"{pools.fleet.vm('web2')['id']}_VARS.fd"
    assert variables.exists(), "UEFI variables lie where every member sees them"
    for name in ("plain", "web2", "web3"):
        if place(pools, name) is not crowded:
            assert pools.fleet.ended(pools.fleet.migrate(name, crowded))["state"] == "succeeded"
    names = ("plain", "web1", "web2", "web3")
    alive = {name for name in names if arrived_alive(pools, name)}
    pools.succeeds(pools.pool(pools.hosts, policy={"mode": "drs", "period": 1, "tolerance": 1, "most_moves": 2}))
    pools.wait(lambda: sorted(collections.Counter(place(pools, name).name for name in names).values()) == [1, 1, 2], "the VMs being spread", 240)
    pools.succeeds(pools.pool(pools.hosts, policy={"mode": "off"}))
    jobs = [pools.fleet.ended(job) for job in pools.fleet.client.get("/api/v1/jobs", kind="balance")["items"]]
    assert jobs and all(job["state"] == "succeeded" for job in jobs), jobs
    assert not pools.succeeds({"vms": vms})["changed"]
    spread = {name: place(pools, name).name for name in names}
    time.sleep(30)
    assert {name: place(pools, name).name for name in names} == spread, "Pacemaker leaves them there"
    assert all(arrived_alive(pools, name) for name in names if name in alive or spread[name] != crowded.name), "each has moved, and none was started anew"
    assert conflicts(pools) == []
    assert variables.exists()
    pools.succeeds({"vms": [{"name": name, "state": "absent", "delete_disks": True} for name in ("web2", "web3")]})
    assert not variables.exists()


def test_it_is_deleted_with_all_that_the_pool_has_of_it(pools: ManagedPool) -> None:
    pools.succeeds({"vms": [{"name": "web1", "state": "absent", "delete_disks": True}]})
    pools.wait(lambda: pools.shown()["vms"] == {}, "the pool forgetting it")
    assert "domus-vm-web1" not in pools.hosts[0].run("cibadmin", "--query")
