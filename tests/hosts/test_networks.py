"""The role server's networks on hosts with a kernel of their own: a bond, VLANs on it, a bridge; and two hosts that hear each other by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.hosts.conftest import Hosts
from tests.hosts.lab.lab import Lab
from tests.hosts.site import changes, play_on, try_on


def interfaces(number: int) -> list[dict[str, Any]]:
    """The networks of host `number`."""
    return [
        {"name": "bond0", "type": "bond", "members": ["eth1", "eth2"]},
        {"name": "migrate", "type": "vlan", "parent": "bond0", "id": 20, "addresses": [f"198.18.20.{number}/24"]},
        {"name": "vms30", "type": "vlan", "parent": "bond0", "id": 30},
        {"name": "br30", "type": "bridge", "members": ["vms30"]},
    ]


def test_networks_are_refused_before_anything_changes_where_nothing_configures_them(lab: Lab, hosts: Hosts, tmp_path: Path) -> None:
    (host,) = hosts(1)
    host.run("mv", "/usr/lib/systemd/systemd-networkd", "/root")  # as EL 9 comes
    variables = {host.name: {"server_interfaces": [{"name": "br0", "type": "bridge"}]}}
    refused = try_on(lab, tmp_path, [host], variables, "domus.virt.server")
    assert refused.returncode != 0 and "has no systemd-networkd" in refused.stdout
    assert changes(refused.stdout) == {host.name: 0}


def test_bonds_vlans_and_bridges_carry_traffic_and_a_second_run_changes_nothing(lab: Lab, hosts: Hosts, tmp_path: Path) -> None:
    machines = hosts(2, kind="machine", segments=(0, 1, 1))
    variables = {host.name: {"server_interfaces": interfaces(number), "server_channels": {"migration": "migrate"}} for number, host in enumerate(machines, 11)}
    assert min(play_on(lab, tmp_path, machines, variables, "domus.virt.server").values()) > 0
    one, two = machines
    one.run("ping", "-c2", "-W3", "198.18.20.12")
    links = {link["ifname"]: link for link in json.loads(one.run("ip", "--details", "--json", "link"))}
    assert links["bond0"]["linkinfo"]["info_data"]["mode"] == "active-backup"
    assert (links["eth1"]["master"], links["eth2"]["master"], links["vms30"]["master"]) == ("bond0", "bond0", "br30")
    assert [links[name]["linkinfo"]["info_data"]["id"] for name in ("migrate", "vms30")] == [20, 30]
    assert 'migration_address = "198.18.20.11"' in one.read("/etc/libvirt/qemu.conf")
    assert set(play_on(lab, tmp_path, machines, variables, "domus.virt.server").values()) == {0}
    one.run("ip", "link", "set", "eth1", "down")  # a bond outlives one of its members
    one.run("ping", "-c2", "-W3", "198.18.20.12")
    del variables[one.name]["server_interfaces"][2:]
    assert play_on(lab, tmp_path, machines, variables, "domus.virt.server")[two.name] == 0
    assert one.attempt("ip", "link", "show", "br30").code != 0
    one.run("ping", "-c2", "-W3", "198.18.20.12")
