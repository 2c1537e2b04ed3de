"""From bare hosts to a site and back, by the playbooks: what an administrator types, over SSH."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from domus_core.version import VERSION

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.site import Site

DOCUMENT = {
    "site": "tests",
    "networks": [{"name": "lan", "mode": "isolated", "subnet": "198.18.7.0/24"}],
    "vms": [{"name": "web1", "cpus": 1, "memory": "32MiB", "virtualization": "qemu", "state": "running", "nics": [{"name": "eth0", "network": "lan"}]}],
}


@pytest.fixture(scope="module")
def place(lab: Lab, module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Host]]:
    """A manager, two servers and a host that is none yet; the site is built, its document applied."""
    hosts = module_hosts(4)
    site = Site(lab, tmp_path_factory.mktemp("site"), hosts[0], hosts[1:3], hosts[3:])
    document = {**DOCUMENT, "networks": [{**DOCUMENT["networks"][0], "servers": [hosts[1].name]}], "vms": [{**DOCUMENT["vms"][0], "server": hosts[1].name}]}
    (site.directory / "site.json").write_text(json.dumps(document))
    assert min(site.done("site", domus_site_file=str(site.directory / "site.json"), domus_wait_for="state").values()) > 0
    return site, hosts


def qemu(host: Host) -> set[str]:
    """The processes of the VMs of a host, with their start, so that a restart shows."""
    return set(host.run("sh", "-c", "ps -eo pid,lstart,args | grep '[q]emu-system' | cut -c1-32").splitlines())


def test_a_second_run_changes_nothing(place: tuple[Site, list[Host]]) -> None:
    site, (manager, one, two, dummy) = place
    assert site.servers() == {one.name: "running", two.name: "running"}
    running = qemu(one)
    assert len(running) == 1
    changed = site.done("site", domus_site_file=str(site.directory / "site.json"), domus_wait_for="state")
    assert changed == {manager.name: 0, one.name: 0, two.name: 0}
    assert qemu(one) == running


def is_kept_open(host: Host, server: Host, *options: str) -> bool:
    """Does the server's libvirt keep a TLS connection open? It looks at certificates after the handshake, and hangs up on who has none."""
    command = f"exec openssl s_client -connect {server.address}:16514 -brief {' '.join(options)} < <(sleep 12)"
    return host.attempt("timeout", "8", "bash", "-c", command).code == 124


def test_servers_of_the_pool_and_nobody_else_open_each_others_libvirt(place: tuple[Site, list[Host]]) -> None:
    _, (manager, one, two, other) = place
    for source, destination in ((one, two), (two, one)):
        source.run("virsh", "--connect", f"qemu+tls://{destination.name}/system", "list")
    own = ("-cert", "/etc/pki/libvirt/clientcert.pem", "-key", "/etc/pki/libvirt/private/clientkey.pem")
    assert is_kept_open(two, one, *own) and not is_kept_open(manager, one)
    assert other.attempt("virsh", "--connect", f"qemu+tls://{one.name}/system", "list").code != 0


def test_host_uuids_differ_and_a_clone_is_refused(place: tuple[Site, list[Host]]) -> None:
    site, (dummy, one, two, _) = place
    read = ("sed", "-n", 's/^host_uuid = "\\(.*\\)"/\\1/p', "/etc/libvirt/libvirtd.conf")
    uuids = [host.run(*read).strip() for host in (one, two)]
    assert len(set(uuids)) == 2
    two.run("sed", "-i", f"s/{uuids[1]}/{uuids[0]}/", "/etc/libvirt/libvirtd.conf")
    try:
        refused = site.play("site", "--tags", "servers")
        assert refused.returncode != 0 and "have the same host UUID" in refused.stdout
    finally:
        two.run("sed", "-i", f's/^host_uuid = .*/host_uuid = "{uuids[1]}"/', "/etc/libvirt/libvirtd.conf")


def test_networks_come_back_by_themselves_when_nobody_reaches_the_host(place: tuple[Site, list[Host]]) -> None:
    _, (dummy, _, two, other) = place
    script = Path(__file__).resolve().parents[2] / "roles/server/files/domus-network"
    other.copy_to(script, "/usr/local/sbin/domus-network")
    other.shell("mkdir -p /etc/domus/network /var/lib/domus")
    other.write("/etc/domus/network/05-domus-eth0.network", "[Match]\nName=eth0\n[Network]\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n")
    before = other.run("ip", "-o", "-4", "address", "show", "dev", "eth0").split()[3]
    done = other.attempt("/usr/local/sbin/domus-network", "apply", "3", timeout=60)
    assert done.code == 1 and "as they were before" in done.errors
    other.run("rm", "-r", "/etc/domus/network")
    for dummy in range(20):
        if before in other.run("ip", "-o", "-4", "address", "show", "dev", "eth0"):
            break
        other.run("sleep", "1")
    two.run("ping", "-c1", "-W2", other.address)


def test_a_server_is_added_and_removed(place: tuple[Site, list[Host]]) -> None:
    site, (dummy, one, two, other) = place
    assert site.done("add_server", domus_server=other.name)[other.name] > 0
    assert site.servers() == {one.name: "running", two.name: "running", other.name: "running"}
    # systemd refuses a socket whose service runs: the role finds its way out of that.
    other.run("systemctl", "start", "libvirtd.service")
    other.run("systemctl", "stop", "libvirtd.socket")
    assert site.done("add_server", domus_server=other.name)[other.name] > 0
    other.run("systemctl", "is-active", "libvirtd.socket", "libvirtd-tls.socket", "libvirtd.service")
    site.done("remove_server", domus_server=other.name, domus_stop_agent=True)
    assert site.servers() == {one.name: "running", two.name: "running"}
    assert other.attempt("systemctl", "is-active", "domus-agent").code != 0
    status = json.loads(other.run("domus-agent", "status", "--output", "json"))
    assert status["manager"] is None and status["agent"] == "not running"


def test_a_server_with_running_vms_is_not_removed(place: tuple[Site, list[Host]]) -> None:
    site, (dummy, one, two, _) = place
    running = qemu(one)
    refused = site.play("remove_server", domus_server=one.name)
    assert refused.returncode != 0 and "1 VMs run there" in refused.stdout
    assert site.servers()[one.name] == "running" and qemu(one) == running
    assert site.tokens() == []  # neither those of the runs that succeeded are left, nor that of this one


def test_maintenance_begins_and_ends(place: tuple[Site, list[Host]]) -> None:
    site, (dummy, _, two, _) = place
    assert site.done("maintenance", domus_server=two.name)["localhost"] == 1
    assert site.servers()[two.name] == "maintenance"
    assert site.done("maintenance", domus_server=two.name)["localhost"] == 0
    site.done("maintenance", domus_server=two.name, domus_maintenance=False)
    assert site.servers()[two.name] == "running"


def test_an_update_stops_at_its_gate_goes_on_and_touches_no_vm(place: tuple[Site, list[Host]]) -> None:
    site, (dummy, one, two, _) = place
    running = qemu(one)
    new: dict[str, Any] = {"domus_evacuate": False, "agent_settings": {"heartbeat": 2.0}}
    gate = site.play("update_servers", domus_gate=True, **new)
    assert gate.returncode != 0 and f"Ended before {one.name}" in gate.stdout
    assert "heartbeat" not in one.read("/etc/domus/agent.yml")
    # The second server breaks the run. The first is done, the second stays in maintenance.
    broken = site.play("update_servers", server_max_clients=f"{{{{ 'many' if inventory_hostname == '{two.name}' else 1000 }}}}", **new)
    assert broken.returncode != 0 and site.tokens() == []
    assert "heartbeat" in one.read("/etc/domus/agent.yml") and site.servers() == {one.name: "running", two.name: "maintenance"}
    changed = site.done("update_servers", **new)
    assert changed.get(one.name, 0) == 0 and changed[two.name] > 0
    assert site.servers() == {one.name: "running", two.name: "running"} and qemu(one) == running
    report = yaml.safe_load((site.directory / f"domus-update-{VERSION}-report.yml").read_text())
    assert [entry["server"] for entry in report] == [one.name, two.name]
    assert not (site.directory / f"domus-update-{VERSION}").exists()


def test_an_update_that_can_not_move_the_vms_touches_nothing(place: tuple[Site, list[Host]]) -> None:
    site, (dummy, one, two, _) = place
    refused = site.play("update_servers", agent_settings={"heartbeat": 3.0})
    assert refused.returncode != 0 and "web1" in refused.stdout
    assert all("3.0" not in host.read("/etc/domus/agent.yml") for host in (one, two))
    assert site.servers() == {one.name: "running", two.name: "running"} and site.tokens() == []


def test_the_manager_is_upgraded_and_comes_back_after_a_power_cut(place: tuple[Site, list[Host]]) -> None:
    site, (manager, one, two, _) = place
    running = qemu(one)
    assert site.done("site", "--tags", "manager", controller_settings={"job_limit": 5})[manager.name] > 0
    assert "job_limit: 5" in manager.read("/etc/domus/manager.yml")
    manager.reset()
    manager.shell("for i in $(seq 60); do domus-manager status && exit 0; sleep 1; done; exit 1", timeout=90)
    assert qemu(one) == running and two.name in site.servers()
