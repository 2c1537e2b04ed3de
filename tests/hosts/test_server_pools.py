"""From a document to a clustered pool, by the manager and the agents of real hosts; servers come and go, and no VM notices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from domus_core.errors import DomusError

from tests.hosts.conftest import Hosts
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PowerService
from tests.hosts.managed_pool import MEMBERS, ManagedPool

SECRETS = "/etc/domus/fencing/power.password"


@pytest.fixture(scope="module")
def pools(lab: Lab, module_hosts: Hosts) -> Iterator[ManagedPool]:
    with PowerService(lab) as power, contextlib.closing(ManagedPool(lab, module_hosts(4, disk="3G"), power)) as made:
        yield made


@pytest.fixture(autouse=True)
def untouched(pools: ManagedPool) -> Iterator[None]:
    """Whatever a test does: the VM runs on, in the same process, and nobody's power was cut."""
    pools.power.asked.clear()
    yield
    assert pools.vm_process() == pools.process
    assert [asked for asked in pools.power.asked if asked[0] not in ("status", "monitor", "metadata", "list")] == []


def test_a_document_forms_a_pool(pools: ManagedPool) -> None:
    three = pools.hosts[:3]
    plan = pools.fleet.client.post("/api/v1/plans", {"site": "default", **pools.pool(three)})
    assert plan["changed"] and not plan["errors"]
    assert pools.succeeds(pools.pool(three))["changed"]
    pools.wait(lambda: pools.is_whole(three), "a whole pool")
    assert {host.run("sha256sum", "/etc/corosync/authkey") for host in three} == {three[0].run("sha256sum", "/etc/corosync/authkey")}
    assert {host.run("stat", "-c", "%a:%U", SECRETS).strip() for host in three} == {"700:root"}
    cib = three[0].run("cibadmin", "--query")
    assert f'value="{PASSWORD}"' not in cib and f'value="{SECRETS}"' in cib
    pools.wait(lambda: pools.shown()["state"] == "healthy", "a healthy pool at the manager")
    assert {one["server"]: one["state"] for one in pools.shown()["servers"]} == {host.name: "present" for host in three}


def test_each_member_can_cut_the_others(pools: ManagedPool) -> None:
    told = pools.fleet.client.post("/api/v1/server-pools/rack1/fence-test", {})
    assert told["passed"], told
    assert len(told["tests"]) == 6


def test_applying_again_changes_nothing_and_starts_nothing(pools: ManagedPool) -> None:
    three = pools.hosts[:3]
    before = pools.services(three)
    plan = pools.fleet.client.post("/api/v1/plans", {"site": "default", **pools.pool(three)})
    assert not plan["changed"], plan["objects"]
    job = pools.succeeds(pools.pool(three))
    assert not job["changed"], job["result"]
    assert pools.services(three) == before


def test_a_change_is_taken_over_while_all_runs_on(pools: ManagedPool) -> None:
    three = pools.hosts[:3]
    before = pools.services(three)
    assert pools.succeeds(pools.pool(three, token=4000))["changed"]
    for host in three:
        assert "totem.token (u32) = 4000" in host.run("corosync-cmapctl", "totem.token")
    assert pools.services(three) == before and pools.is_whole(three)
    assert not pools.succeeds(pools.pool(three))["changed"], "what is left out stays"


def test_what_somebody_has_changed_by_hand_is_shown_and_mended(pools: ManagedPool) -> None:
    host = pools.hosts[1]
    host.run("sh", "-c", f"printf '#!/bin/sh\\necho other\\n' >{SECRETS}")
    host.run("systemctl", "stop", "pacemaker.service", timeout=120)
    plan = pools.fleet.client.post("/api/v1/plans", {"site": "default", **pools.pool(pools.hosts[:3])})
    changes = [change["before"] for entry in plan["objects"] if entry["server"] == host.name for change in entry["changes"]]
    assert changes == [f"{SECRETS} does not hold the secret", "pacemaker.service does not run"]
    assert pools.succeeds(pools.pool(pools.hosts[:3]))["changed"]
    pools.wait(lambda: pools.is_whole(pools.hosts[:3]), "a whole pool")


def test_a_fourth_server_joins(pools: ManagedPool) -> None:
    three = pools.hosts[:3]
    before = pools.services(three)
    assert pools.succeeds(pools.pool(pools.hosts))["changed"]
    pools.wait(lambda: pools.is_whole(pools.hosts), "four members")
    assert pools.services(three) == before
    ids = [line.split()[-1] for line in three[0].run("sh", "-c", "grep nodeid: /etc/corosync/corosync.conf").splitlines()]
    assert ids == ["1", "2", "3", "4"]
    assert not pools.succeeds(pools.pool(pools.hosts))["changed"]


def test_who_is_not_heard_keeps_others_from_coming_and_going(pools: ManagedPool) -> None:
    silent = pools.hosts[2]
    silent.run("systemctl", "stop", "domus-agent")
    pools.wait(lambda: {one["name"]: one["state"] for one in pools.fleet.servers()}[silent.name] != "running", "the manager missing the agent")
    with pytest.raises(DomusError, match=f"{silent.name} is not heard"):
        pools.fleet.client.post("/api/v1/apply", {"site": "default", **pools.pool(pools.hosts[:3])})
    silent.run("systemctl", "start", "domus-agent")
    pools.wait(lambda: all(one["state"] == "running" for one in pools.fleet.servers()), "all agents")
    assert pools.is_whole(pools.hosts)


def test_the_fourth_server_leaves(pools: ManagedPool) -> None:
    three, fourth = pools.hosts[:3], pools.hosts[3]
    before = pools.services(three)
    assert pools.succeeds(pools.pool(three))["changed"]
    pools.wait(lambda: pools.is_whole(three), "three members")
    assert pools.services(three) == before
    assert fourth.attempt("systemctl", "is-active", *MEMBERS).output.split() == ["inactive", "inactive"]
    assert fourth.attempt("ls", "/etc/corosync/corosync.conf", "/etc/corosync/authkey", SECRETS).output == ""
    assert not pools.succeeds(pools.pool(three))["changed"]
    trust = {one["name"]: one["pool"] for one in pools.fleet.servers()}
    assert trust == {**{host.name: "rack1" for host in three}, fourth.name: "default"}


def test_a_member_that_goes_on_with_ha_vms_does_not_leave(pools: ManagedPool) -> None:
    """Pacemaker keeps something like an HA VM up: a resource with such a name."""
    three = pools.hosts[:3]
    resource = '<primitive id="domus-vm-web" class="ocf" provider="pacemaker" type="Dummy"/>'
    three[0].run("cibadmin", "--create", "--scope", "resources", "--xml-text", resource)
    try:
        pools.wait(lambda: any(pools.status(three[0])["vms"].values()), "the resource running")
        (place,) = pools.status(three[0])["vms"]["web"]
        stay = [host for host in three if host.name != place]
        pools.wait(lambda: pools.shown()["vms"] == {"web": [place]}, "the manager knowing it")
        with pytest.raises(DomusError, match=f"HA VMs run on {place}"):
            pools.fleet.client.post("/api/v1/apply", {"site": "default", **pools.pool(stay)})
        assert pools.is_whole(three)
    finally:
        web = ("crm_resource", "--resource", "domus-vm-web")
        three[0].run(*web, "--meta", "--set-parameter", "target-role", "--parameter-value", "Stopped")
        pools.wait(lambda: not pools.status(three[0])["vms"].get("web"), "the resource stopped")
        three[0].run("cibadmin", "--delete", "--scope", "resources", "--xml-text", resource)
        three[0].run(*web, "--refresh", "--force")
        pools.wait(lambda: not any(pools.shown()["vms"].values()), "the manager knowing it")


def test_the_pool_ends(pools: ManagedPool) -> None:
    pools.succeeds({"server_pools": [{"name": "rack1", "state": "absent"}]})
    for host in pools.hosts:
        assert host.attempt("systemctl", "is-active", *MEMBERS).output.split() == ["inactive", "inactive"]
    assert {one["pool"] for one in pools.fleet.servers()} == {"default"}
    pools.wait(lambda: pools.fleet.client.get("/api/v1/server-pools")["items"] == [], "its members' last word")
