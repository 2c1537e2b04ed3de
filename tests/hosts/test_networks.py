"""The role server's networks: a bond, VLANs on it, a bridge on machines; what is refused, and what comes back by itself, on containers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab
from tests.hosts.site import changes, play_on


class Networks:
    """The role's networks on hosts."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab, self._directory = lab, directory

    def play(self, wanted: dict[Host, list[dict[str, Any]]], part: str = "network", **variables: Any) -> subprocess.CompletedProcess[str]:
        """Give each host its networks, however it ends."""
        by_host = {host.name: {"server_interfaces": interfaces, **variables} for host, interfaces in wanted.items()}
        return play_on(self._lab, self._directory, list(wanted), by_host, "domus.virt.server", part)

    def done(self, wanted: dict[Host, list[dict[str, Any]]]) -> dict[str, int]:
        """Give each host its networks, which must succeed; return how many tasks have changed something, by host."""
        run = self.play(wanted)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        return changes(run.stdout)


@pytest.fixture
def networks(lab: Lab, tmp_path: Path) -> Networks:
    return Networks(lab, tmp_path)


def interfaces(number: int) -> list[dict[str, Any]]:
    """The networks of host `number`."""
    return [
        {"name": "bond0", "type": "bond", "members": ["eth1", "eth2"]},
        {"name": "migrate", "type": "vlan", "parent": "bond0", "id": 20, "addresses": [f"198.18.20.{number}/24"]},
        {"name": "vms30", "type": "vlan", "parent": "bond0", "id": 30},
        {"name": "br30", "type": "bridge", "members": ["vms30"]},
    ]


def test_networks_are_refused_before_anything_changes_where_nothing_configures_them(networks: Networks, hosts: Hosts) -> None:
    (host,) = hosts(1)
    host.run("mv", "/usr/lib/systemd/systemd-networkd", "/root")  # as EL 9 comes
    refused = networks.play({host: [{"name": "br0", "type": "bridge"}]}, "main")
    assert refused.returncode != 0 and "has no systemd-networkd" in refused.stdout, refused.stdout[-3000:]
    assert changes(refused.stdout) == {host.name: 0}


def test_a_host_that_the_play_does_not_reach_again_puts_its_old_networks_back(networks: Networks, hosts: Hosts, lab: Lab) -> None:
    (host,) = hosts(1, segments=(0, 1))
    # The address goes to a bridge that leads nowhere: the role does not foresee that.
    moved = [{"name": "eth0"}, {"name": "br0", "type": "bridge", "addresses": [f"{host.address}/24"]}]
    cut = networks.play({host: moved}, server_network_rollback=15)
    assert cut.returncode != 0 and "Reach the host again" in cut.stdout, cut.stdout[-3000:]
    host.shell(f"for i in $(seq 60); do ping -c1 -W1 {lab.network.gateway} >/dev/null && exit 0; sleep 1; done; exit 1", timeout=150)
    assert host.shell("ls /etc/systemd/network/05-domus-* 2>/dev/null || true") == ""
    assert networks.done({host: [{"name": "eth1", "addresses": ["198.18.20.11/24"]}]})[host.name] > 0
    assert "198.18.20.11/24" in host.run("ip", "-o", "address", "show", "dev", "eth1")


def test_bonds_vlans_and_bridges_carry_traffic_and_a_second_run_changes_nothing(networks: Networks, hosts: Hosts) -> None:
    one, two = hosts(2, kind="machine", segments=(0, 1, 1))
    wanted = {host: interfaces(number) for number, host in enumerate((one, two), 11)}
    assert min(networks.done(wanted).values()) > 0
    one.run("ping", "-c2", "-W3", "198.18.20.12")
    links = {link["ifname"]: link for link in json.loads(one.run("ip", "--details", "--json", "link"))}
    assert links["bond0"]["linkinfo"]["info_data"]["mode"] == "active-backup"
    assert (links["eth1"]["master"], links["eth2"]["master"], links["vms30"]["master"]) == ("bond0", "bond0", "br30")
    assert [links[name]["linkinfo"]["info_data"]["id"] for name in ("migrate", "vms30")] == [20, 30]
    one.run("ip", "link", "set", "eth1", "down")  # a bond outlives one of its members
    one.run("ping", "-c2", "-W3", "198.18.20.12")
    one.run("ip", "link", "set", "eth1", "up")
    del wanted[one][2:]
    assert networks.done(wanted)[two.name] == 0
    assert one.attempt("ip", "link", "show", "br30").code != 0
    one.run("ping", "-c2", "-W3", "198.18.20.12")
