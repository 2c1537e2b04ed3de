"""VMs of a pool by their own specification: made, changed, started, stopped, moved and deleted on a member, with HA and without, while no manager is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import tiny_guest
from tests.hosts.agents import install_agent
from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host, Result
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PowerService
from tests.hosts.pool_site import PoolSite

REPOSITORY = "/srv/shared/repository"
# Longer than Pacemaker's monitor needs to find a VM that is off.
MONITORED = 13


@pytest.fixture(scope="module")
def pool(lab: Lab, module_hosts: Hosts) -> Iterator[PoolSite]:
    with PowerService(lab) as power:
        site = PoolSite(lab, module_hosts(3, disk="3G"), power)
        try:
            (lab.shared / "repository").mkdir()
            for host in site.hosts:
                install_agent(host, {})
                applied(host, {"repositories": [{"name": "shared", "path": REPOSITORY, "shared": True}]})
            tiny_guest.build(lab.shared / "repository" / "Templates")
            yield site
        finally:
            site.close()


@pytest.fixture(scope="module", autouse=True)
def tested(pool: PoolSite) -> None:
    """HA is refused until the fence devices have passed a test from here."""
    host = pool.hosts[0]
    refused = apply(host, document(vm("early", ha={"enabled": True})))
    assert refused.code == 1 and "power for h2" in refused.errors and "have not passed a test" in refused.errors, refused
    for one in pool.hosts:
        pool.agent(one, "fence-test")


def vm(name: str, **fields: Any) -> dict[str, Any]:
    """A VM whose guest counts, on a disk that all servers see."""
    disks = [{"name": "root", "repository": "shared", "size": "16MiB", "format": "raw", "bus": "virtio"}]
    kernel = {"kernel": "shared/vmlinuz", "initrd": "shared/initrd.img", "arguments": "console=ttyS0 quiet"}
    known = {"memory": "160MiB", "cpus": 1, "cpus_max": 2, "virtualization": "qemu", "machine": "pc", "disks": disks, "kernel": kernel}
    return {"name": name, **known, "state": "running", "stop_timeout": 3, **fields}


def document(*vms: dict[str, Any]) -> dict[str, Any]:
    return {"site": "pool-test", "vms": list(vms)}


def apply(host: Host, wanted: dict[str, Any], *command: str) -> Result:
    return host.attempt("domus-agent", *(command or ("apply",)), "-f", "-", "-o", "json", text=json.dumps({"site": "pool-test", **wanted}), timeout=240)


def applied(host: Host, wanted: dict[str, Any]) -> dict[str, Any]:
    done = apply(host, wanted)
    assert done.code == 0, done
    told: dict[str, Any] = json.loads(done.output)
    return told


def vms_of(pool: PoolSite) -> dict[str, dict[str, Any]]:
    """The pool's VMs as a member tells them."""
    found = json.loads(pool.living().run("domus-agent", "pool", "vms", "-o", "json", timeout=60))
    return {one["name"]: one for one in found}


def running(pool: PoolSite, name: str) -> list[str]:
    """The hosts where libvirt runs it."""
    return [host.name for host in pool.hosts if host.is_running and name in host.attempt("virsh", "list", "--name", timeout=20).output.split()]


def defined(pool: PoolSite, name: str) -> list[str]:
    return [host.name for host in pool.hosts if host.is_running and name in host.attempt("virsh", "list", "--all", "--name", timeout=20).output.split()]


def process(pool: PoolSite, name: str) -> str:
    """The QEMU of a VM and when it was started: another one is a restart."""
    (host,) = running(pool, name)
    return pool.host(host).shell(f"stat -c '%n %Y' /proc/$(cat /run/libvirt/qemu/{name}.pid)")


def made(pool: PoolSite, name: str, host: Host | None = None, **fields: Any) -> Host:
    """A new VM, and the host where it runs."""
    applied(host or pool.hosts[0], document(vm(name, **fields)))
    (place,) = running(pool, name)
    return pool.host(place)


def deleted(pool: PoolSite, *names: str) -> None:
    for name in names:
        pool.wait(lambda name=name: len(defined(pool, name)) == 1, "one host having it, the others letting go of what they had", 60)
        applied(pool.host(defined(pool, name)[0]), document({"name": name, "state": "absent", "delete_disks": True}))
    assert not set(names) & vms_of(pool).keys()


def test_an_ha_vm_is_pacemakers_from_its_document_to_its_end(pool: PoolSite) -> None:
    host = made(pool, "web1", ha={"enabled": True, "priority": 5})
    told = vms_of(pool)["web1"]
    assert told["is_ha"] and told["wanted"] == "Started" and told["servers"] == [host.name]
    assert applied(host, document(vm("web1", ha={"enabled": True, "priority": 5})))["changed"] is False
    before = process(pool, "web1")
    report = applied(host, document(vm("web1", cpus=2, ha={"enabled": True, "priority": 7})))
    assert {change["field"] for one in report["objects"] for change in one["changes"]} == {"cpus", "ha.priority"}
    assert "domus-rank" in host.run("cibadmin", "--query") and process(pool, "web1") == before
    record = json.loads((pool.shared / "records" / f"{told['uuid']}.json").read_text().rpartition("}")[0] + "}")
    assert record["specification"]["cpus"] == 2 and record["generation"] == 2 and record["server"] == host.name
    deleted(pool, "web1")
    assert "domus-vm-web1" not in host.run("cibadmin", "--query") and not (pool.shared / "records" / f"{told['uuid']}.json").exists()


def test_verbs_of_an_ha_vm_are_target_roles(pool: PoolSite) -> None:
    host = made(pool, "web2", ha={"enabled": True, "on_shutdown": "restart"})
    refused = host.attempt("domus-agent", "stop", "web2", "--timeout", "1", timeout=60)
    assert refused.code == 1 and running(pool, "web2") == [host.name], "a guest that does not hear runs on"
    for command in (("stop", "web2", "--timeout", "1", "--force"), ("kill", "web2"), ("suspend", "web2")):
        host.run("domus-agent", *command, timeout=120)
        assert vms_of(pool)["web2"]["wanted"] == "Stopped"
        time.sleep(MONITORED)
        assert running(pool, "web2") == [], command
        host.run("domus-agent", "start", "web2", timeout=120)
        (place,) = running(pool, "web2")
        host = pool.host(place)
        assert vms_of(pool)["web2"] | {"problems": []} == {**vms_of(pool)["web2"], "wanted": "Started", "servers": [place], "problems": []}
    before = process(pool, "web2")
    host.run("domus-agent", "restart", "web2", "--timeout", "1", "--force", timeout=120)
    assert process(pool, "web2") != before
    deleted(pool, "web2")


def test_a_vm_that_gets_ha_or_loses_it_runs_on(pool: PoolSite) -> None:
    host = made(pool, "web3")
    assert not vms_of(pool)["web3"]["is_ha"]
    before = process(pool, "web3")
    applied(host, document(vm("web3", ha={"enabled": True})))
    pool.wait(lambda: vms_of(pool)["web3"]["servers"] == [host.name], "Pacemaker seeing it")
    assert vms_of(pool)["web3"]["is_ha"] and process(pool, "web3") == before
    applied(host, document(vm("web3", ha={"enabled": False})))
    time.sleep(MONITORED)
    assert not vms_of(pool)["web3"]["is_ha"] and process(pool, "web3") == before
    deleted(pool, "web3")


@pytest.mark.parametrize("ha", [True, False], ids=["ha", "plain"])
def test_any_member_moves_changes_stops_and_starts_a_vm(pool: PoolSite, ha: bool) -> None:
    first = made(pool, "web4", ha={"enabled": ha})
    second, third = (host for host in pool.hosts if host is not first)
    assert pool.agent(third, "migrate-vm", "web4", second.name)["changes"] == [f"vm web4 to {second.name}"]
    assert running(pool, "web4") == [second.name] and pool.agent(third, "migrate-vm", "web4", second.name)["changes"] == []
    done = apply(third, document({"name": "web4", "cpus": 2, "ha": {"priority": 3}}), "pool", "change-vm")
    assert done.code == 0 and "vm web4 cpus" in json.loads(done.output)["changes"], done
    assert running(pool, "web4") == [second.name] and second.run("virsh", "vcpucount", "web4", "--live", "--current").strip() == "2"
    for verb, places in (("stop-vm", 0), ("start-vm", 1)):
        pool.agent(third, verb, "web4", *(["--timeout", "5", "--force"] if places == 0 and not ha else []))
        assert len(running(pool, "web4")) == places, verb
    deleted(pool, "web4")


def test_a_migration_that_fails_leaves_the_vm_in_pacemakers_hands(pool: PoolSite) -> None:
    host = made(pool, "web5", ha={"enabled": True})
    other = next(one for one in pool.hosts if one is not host)
    before = process(pool, "web5")
    certificate = "/etc/pki/libvirt/clientcert.pem"
    host.run("mv", certificate, f"{certificate}.away")
    try:
        failed = pool.living().attempt("domus-agent", "pool", "migrate-vm", "web5", other.name, timeout=200)
    finally:
        host.run("mv", f"{certificate}.away", certificate)
    assert failed.code == 1 and "was not moved" in failed.errors, failed
    assert process(pool, "web5") == before and pool.status().alerts == ()
    pool.agent(pool.living(), "migrate-vm", "web5", other.name)
    assert running(pool, "web5") == [other.name]
    deleted(pool, "web5")


def test_a_server_that_returns_lets_go_of_what_another_has(pool: PoolSite) -> None:
    host = made(pool, "web6", ha={"enabled": True})
    plain = made(pool, "plain6", host, autostart=True)
    home = made(pool, "home6", host, autostart=True)
    assert plain is home is host
    others = [one for one in pool.hosts if one is not host]
    pool.harm(host)
    pool.power.is_broken = False
    host.power_off()
    pool.wait(lambda: running(pool, "web6") and running(pool, "web6") != [host.name], "web6 elsewhere", 120)
    pool.wait(lambda: pool.status(others[0]).members[host.name] == "offline" or host.is_running, "the server proven to be off", 60)
    if not host.is_running:
        others[0].run("domus-agent", "pool", "start-vm", "plain6", timeout=120)
        assert running(pool, "plain6") == [others[0].name]
    host.wait()
    pool.wait_for_members()
    pool.wait(lambda: host.name in running(pool, "home6"), "what is still its own starting with it", 90)
    pool.wait(lambda: "web6" not in host.run("virsh", "list", "--all", "--name").split(), "the leftover going", 60)
    assert len(running(pool, "web6")) == len(running(pool, "plain6")) == 1
    assert len(defined(pool, "plain6")) == 1
    pool.watcher.victims.clear()
    deleted(pool, "web6", "plain6", "home6")


def test_a_vm_that_no_server_has_room_for_waits_and_says_so_until_one_has(pool: PoolSite) -> None:
    """Each server has 2048 MiB for VMs."""
    fillers = [f"filler{number}" for number in range(3)]
    assert len({made(pool, name, memory="900MiB", ha={"enabled": True}).name for name in fillers}) == 3
    refused = apply(pool.hosts[0], document(vm("large", memory="1500MiB", ha={"enabled": True})))
    lacking = "h1, h2, h3: has 1148 MiB left"
    assert refused.code == 1 and lacking in refused.output + refused.errors, refused
    pool.wait(lambda: [lacking in one for one in waiting(pool)] == [True], "the pool saying that it waits", 60)
    assert vms_of(pool)["large"]["problems"] == waiting(pool) and running(pool, "large") == []
    find = ("journalctl", "--unit", "domus-agent", "--grep", "VM large waits", "--quiet")
    pool.wait(lambda: sum(host.attempt(*find, timeout=30).output.strip() != "" for host in pool.hosts) == 1, "one member raising the alarm", 60)
    deleted(pool, fillers[0])
    pool.wait(lambda: len(running(pool, "large")) == 1, "it starting by itself where there is room now", 120)
    pool.wait(lambda: waiting(pool) == [], "nothing waiting any more", 30)
    deleted(pool, "large", *fillers[1:])


def waiting(pool: PoolSite) -> list[str]:
    """What a member tells of VMs that wait for a server."""
    told = json.loads(pool.living().attempt("domus-agent", "pool", "status", "-o", "json", timeout=60).output)
    return [one["text"] for one in told["problems"] if one["kind"] == "vm_waits"]
