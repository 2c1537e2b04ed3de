"""From a document to a clustered pool, by the manager and the agents of real hosts; servers come and go, and no VM notices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from domus_core.errors import DomusError

from tests.hosts import tiny_guest
from tests.hosts.conftest import Hosts
from tests.hosts.fleet import Fleet
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PORT, PowerService

FOLDER = "/srv/shared/pool"
MEMBERS = {"corosync.service", "pacemaker.service"}
SECRETS = "/etc/domus/fencing/power.password"


class Pools:
    """A manager and four servers, of which three are to be a pool; a plain VM runs on the first of them."""

    def __init__(self, lab: Lab, hosts: list[Host], power: PowerService) -> None:
        self.lab, self.hosts, self.power = lab, hosts, power
        (lab.shared / "pool").mkdir(exist_ok=True)
        for host in hosts:
            power.install(host)
            host.write("/etc/libvirt/qemu-lockd.conf", f'auto_disk_leases = 1\nfile_lockspace_dir = "{FOLDER}/lockspace"\n')
            host.shell("grep -q ^lock_manager /etc/libvirt/qemu.conf || echo 'lock_manager = \"lockd\"' >>/etc/libvirt/qemu.conf")
            host.shell("systemctl enable --quiet virtlockd.socket; systemctl start virtlockd.socket")
        self.fleet = Fleet(lab, hosts)
        names = [host.name for host in hosts]
        self.repository = {"name": "pool", "path": FOLDER, "shared": True, "servers": names}
        self.succeeds({"repositories": [self.repository]})
        tiny_guest.build(lab.shared / "pool" / "Templates")
        kernel = {"kernel": "pool/vmlinuz", "initrd": "pool/initrd.img", "arguments": "console=ttyS0 quiet disk=1"}
        disk = {"name": "root", "repository": "pool", "size": "32MiB", "format": "raw"}
        vm = {"name": "plain", "server": names[0], "memory": "192MiB", "virtualization": "qemu", "kernel": kernel, "disks": [disk]}
        self.succeeds({"vms": [{**vm, "state": "running"}]})
        self.process = self.vm_process()

    def vm_process(self) -> tuple[str, str]:
        """The process of the VM, and since when it runs."""
        told = self.hosts[0].run("sh", "-c", "ps -o pid=,lstart= -p $(pgrep -f '[g]uest=plain')").split(maxsplit=1)
        return told[0], told[1].strip()

    def pool(self, hosts: Sequence[Host], **more: Any) -> dict[str, Any]:
        """The document of a pool of these hosts."""
        options = [{"name": "ip", "value": self.lab.network.gateway}, {"name": "ipport", "value": str(PORT)}, {"name": "password", "secret": PASSWORD}]
        device = {"name": "power", "agent": "fence_domus_test", "servers": [{"name": host.name} for host in hosts], "options": options}
        subnet = ".".join(self.lab.network.gateway.split(".")[:3]) + ".0/24"
        whole = {"name": "rack1", "servers": [host.name for host in hosts], "file_system": "pool", "heartbeat": [{"name": "lan", "subnet": subnet}]}
        return {"server_pools": [{**whole, "fencing": [device], **more}]}

    def succeeds(self, document: dict[str, Any]) -> dict[str, Any]:
        """Apply a document; the job, with whether something was changed."""
        job = self.fleet.apply({"site": "default", **document})
        assert job["state"] == "succeeded", (job["error"], {host.name: host.journal("domus-agent")[-1500:] for host in self.hosts if host.is_running})
        return job

    def status(self, host: Host) -> dict[str, Any]:
        """How the pool is, as a host sees it."""
        told: dict[str, Any] = json.loads(host.attempt("domus-agent", "pool", "status", "-o", "json", timeout=60).output)
        return told

    def is_whole(self, hosts: Sequence[Host]) -> bool:
        """Does each of these see exactly these, all of them online, with quorum, without a problem?"""
        wanted = dict.fromkeys((host.name for host in hosts), "online")
        seen = [self.status(host) for host in hosts]
        return all(one["members"] == wanted and one["quorate"] and not one["problems"] for one in seen)

    def services(self, hosts: Sequence[Host]) -> dict[str, str]:
        """The processes of the cluster on each host: they change when one is started anew."""
        return {host.name: host.run("systemctl", "show", "-P", "MainPID,ActiveEnterTimestampMonotonic", *MEMBERS) for host in hosts}

    def shown(self) -> dict[str, Any]:
        """The pool as the manager shows it."""
        return dict(self.fleet.client.get("/api/v1/server-pools/rack1"))

    def close(self) -> None:
        """End the manager; the hosts are the lab's."""
        self.fleet.close()


@pytest.fixture(scope="module")
def pools(lab: Lab, module_hosts: Hosts) -> Iterator[Pools]:
    with PowerService(lab) as power, contextlib.closing(Pools(lab, module_hosts(4, disk="3G"), power)) as made:
        yield made


@pytest.fixture(autouse=True)
def untouched(pools: Pools) -> Iterator[None]:
    """Whatever a test does: the VM runs on, in the same process, and nobody's power was cut."""
    pools.power.asked.clear()
    yield
    assert pools.vm_process() == pools.process
    assert [asked for asked in pools.power.asked if asked[0] not in ("status", "monitor", "metadata", "list")] == []


def wait(pools: Pools, true: Any, what: str, seconds: float = 90) -> None:
    def look() -> bool:
        assert true()
        return True

    pools.fleet.stack.wait_for(look, what, seconds)


def test_a_document_forms_a_pool(pools: Pools) -> None:
    three = pools.hosts[:3]
    plan = pools.fleet.client.post("/api/v1/plans", {"site": "default", **pools.pool(three)})
    assert plan["changed"] and not plan["errors"]
    assert pools.succeeds(pools.pool(three))["changed"]
    wait(pools, lambda: pools.is_whole(three), "a whole pool")
    assert {host.run("sha256sum", "/etc/corosync/authkey") for host in three} == {three[0].run("sha256sum", "/etc/corosync/authkey")}
    assert {host.run("stat", "-c", "%a:%U", SECRETS).strip() for host in three} == {"700:root"}
    cib = three[0].run("cibadmin", "--query")
    assert f'value="{PASSWORD}"' not in cib and f'value="{SECRETS}"' in cib
    wait(pools, lambda: pools.shown()["state"] == "healthy", "a healthy pool at the manager")
    assert {one["server"]: one["state"] for one in pools.shown()["servers"]} == {host.name: "present" for host in three}


def test_each_member_can_cut_the_others(pools: Pools) -> None:
    told = pools.fleet.client.post("/api/v1/server-pools/rack1/fence-test", {})
    assert told["passed"], told
    assert len(told["tests"]) == 6


def test_applying_again_changes_nothing_and_starts_nothing(pools: Pools) -> None:
    three = pools.hosts[:3]
    before = pools.services(three)
    plan = pools.fleet.client.post("/api/v1/plans", {"site": "default", **pools.pool(three)})
    assert not plan["changed"], plan["objects"]
    job = pools.succeeds(pools.pool(three))
    assert not job["changed"], job["result"]
    assert pools.services(three) == before


def test_a_change_is_taken_over_while_all_runs_on(pools: Pools) -> None:
    three = pools.hosts[:3]
    before = pools.services(three)
    assert pools.succeeds(pools.pool(three, token=4000))["changed"]
    for host in three:
        assert "totem.token (u32) = 4000" in host.run("corosync-cmapctl", "totem.token")
    assert pools.services(three) == before and pools.is_whole(three)
    assert not pools.succeeds(pools.pool(three))["changed"], "what is left out stays"


def test_what_somebody_has_changed_by_hand_is_shown_and_mended(pools: Pools) -> None:
    host = pools.hosts[1]
    host.run("sh", "-c", f"printf '#!/bin/sh\\necho other\\n' >{SECRETS}")
    host.run("systemctl", "stop", "pacemaker.service", timeout=120)
    plan = pools.fleet.client.post("/api/v1/plans", {"site": "default", **pools.pool(pools.hosts[:3])})
    changes = [change["before"] for entry in plan["objects"] if entry["server"] == host.name for change in entry["changes"]]
    assert changes == [f"{SECRETS} does not hold the secret", "pacemaker.service does not run"]
    assert pools.succeeds(pools.pool(pools.hosts[:3]))["changed"]
    wait(pools, lambda: pools.is_whole(pools.hosts[:3]), "a whole pool")


def test_a_fourth_server_joins(pools: Pools) -> None:
    three = pools.hosts[:3]
    before = pools.services(three)
    assert pools.succeeds(pools.pool(pools.hosts))["changed"]
    wait(pools, lambda: pools.is_whole(pools.hosts), "four members")
    assert pools.services(three) == before
    ids = [line.split()[-1] for line in three[0].run("sh", "-c", "grep nodeid: /etc/corosync/corosync.conf").splitlines()]
    assert ids == ["1", "2", "3", "4"]
    assert not pools.succeeds(pools.pool(pools.hosts))["changed"]


def test_who_is_not_heard_keeps_others_from_coming_and_going(pools: Pools) -> None:
    silent = pools.hosts[2]
    silent.run("systemctl", "stop", "domus-agent")
    wait(pools, lambda: {one["name"]: one["state"] for one in pools.fleet.servers()}[silent.name] != "running", "the manager missing the agent")
    with pytest.raises(DomusError, match=f"{silent.name} is not heard"):
        pools.fleet.client.post("/api/v1/apply", {"site": "default", **pools.pool(pools.hosts[:3])})
    silent.run("systemctl", "start", "domus-agent")
    wait(pools, lambda: all(one["state"] == "running" for one in pools.fleet.servers()), "all agents")
    assert pools.is_whole(pools.hosts)


def test_the_fourth_server_leaves(pools: Pools) -> None:
    three, fourth = pools.hosts[:3], pools.hosts[3]
    before = pools.services(three)
    assert pools.succeeds(pools.pool(three))["changed"]
    wait(pools, lambda: pools.is_whole(three), "three members")
    assert pools.services(three) == before
    assert fourth.attempt("systemctl", "is-active", *MEMBERS).output.split() == ["inactive", "inactive"]
    assert fourth.attempt("ls", "/etc/corosync/corosync.conf", "/etc/corosync/authkey", SECRETS).output == ""
    assert not pools.succeeds(pools.pool(three))["changed"]
    trust = {one["name"]: one["pool"] for one in pools.fleet.servers()}
    assert trust == {**{host.name: "rack1" for host in three}, fourth.name: "default"}


def test_a_member_that_goes_on_with_ha_vms_does_not_leave(pools: Pools) -> None:
    """Pacemaker keeps something like an HA VM up: a resource with such a name."""
    three = pools.hosts[:3]
    resource = '<primitive id="domus-vm-web" class="ocf" provider="pacemaker" type="Dummy"/>'
    three[0].run("cibadmin", "--create", "--scope", "resources", "--xml-text", resource)
    try:
        wait(pools, lambda: any(pools.status(three[0])["vms"].values()), "the resource running")
        (place,) = pools.status(three[0])["vms"]["web"]
        stay = [host for host in three if host.name != place]
        wait(pools, lambda: pools.shown()["vms"] == {"web": [place]}, "the manager knowing it")
        with pytest.raises(DomusError, match=f"HA VMs run on {place}"):
            pools.fleet.client.post("/api/v1/apply", {"site": "default", **pools.pool(stay)})
        assert pools.is_whole(three)
    finally:
        web = ("crm_resource", "--resource", "domus-vm-web")
        three[0].run(*web, "--meta", "--set-parameter", "target-role", "--parameter-value", "Stopped")
        wait(pools, lambda: not pools.status(three[0])["vms"].get("web"), "the resource stopped")
        three[0].run("cibadmin", "--delete", "--scope", "resources", "--xml-text", resource)
        three[0].run(*web, "--refresh", "--force")
        wait(pools, lambda: not any(pools.shown()["vms"].values()), "the manager knowing it")


def test_the_pool_ends(pools: Pools) -> None:
    pools.succeeds({"server_pools": [{"name": "rack1", "state": "absent"}]})
    for host in pools.hosts:
        assert host.attempt("systemctl", "is-active", *MEMBERS).output.split() == ["inactive", "inactive"]
    assert {one["pool"] for one in pools.fleet.servers()} == {"default"}
    wait(pools, lambda: pools.fleet.client.get("/api/v1/server-pools")["items"] == [], "its members' last word")
