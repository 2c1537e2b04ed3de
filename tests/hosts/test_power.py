"""The fence agent keeps to the FenceAgentAPI: options on standard input, exit codes, metadata."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.host import Host, Result
from tests.hosts.lab.lab import Lab
from tests.hosts.lab.power import PASSWORD, PowerService


@pytest.fixture
def power(lab: Lab) -> Iterator[PowerService]:
    with PowerService(lab) as made:
        yield made


@pytest.fixture
def pair(hosts: Hosts, power: PowerService) -> list[Host]:
    pair = hosts(2)
    for host in pair:
        power.install(host)
    return pair


def fence(asker: Host, action: str, plug: str = "", password: str = PASSWORD) -> Result:
    options = f"action={action}\nip={asker.lab.network.gateway}\npassword={password}\n" + (f"plug={plug}\n" if plug else "")
    return asker.attempt("fence_domus_test", text=options)


def test_off_status_on(pair: list[Host], power: PowerService) -> None:
    one, two = pair
    assert fence(one, "status", two.name).code == 0
    begun = time.monotonic()
    assert fence(one, "off", two.name).code == 0
    assert time.monotonic() - begun >= 4
    assert not two.is_running
    assert fence(one, "status", two.name).code == 2
    assert fence(one, "on", two.name).code == 0
    two.wait()
    assert fence(one, "reboot", two.name).code == 0
    two.wait()
    assert power.asked == [("off", two.name), ("on", two.name), ("reboot", two.name)]


def test_list_monitor_metadata(pair: list[Host]) -> None:
    one, two = pair
    assert f"{one.name},{one.name}" in fence(one, "list").output.split()
    assert f"{two.name},{two.name}" in fence(one, "list").output.split()
    assert fence(one, "monitor").code == 0
    tree = ElementTree.fromstring(fence(one, "metadata").output)
    assert {"on", "off", "reboot", "status", "monitor", "list", "metadata"} <= {action.get("name") for action in tree.iter("action")}


def test_refusals(pair: list[Host], power: PowerService) -> None:
    one, two = pair
    assert fence(one, "off", two.name, password="wrong").code == 1
    assert fence(one, "off", "stranger").code == 1
    assert fence(one, "off").code == 1
    assert two.is_running and power.asked == []


def test_a_cut_host_cannot_fence(pair: list[Host], power: PowerService) -> None:
    one, two = pair
    one.cut()
    assert fence(one, "off", two.name).code == 1
    assert two.is_running and power.asked == []


def test_pacemaker_takes_the_agent(pair: list[Host]) -> None:
    one, two = pair
    one.shell("systemctl start pacemaker 2>/dev/null || true")
    listed = one.run("stonith_admin", "--metadata", "--agent", "fence_domus_test")
    assert "Fence agent for Domus test hosts" in listed
