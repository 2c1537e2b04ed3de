"""What the lab promises about hosts."""

from __future__ import annotations

import pytest

from tests.hosts.conftest import Hosts
from tests.hosts.lab.commands import LabError
from tests.hosts.lab.lab import Lab


def test_hosts_see_each_other_and_share_a_folder(lab: Lab, hosts: Hosts) -> None:
    one, two = hosts(2)
    one.run("ping", "-c1", "-W2", two.name)
    one.write("/srv/shared/note", "hello")
    assert two.read("/srv/shared/note") == "hello"
    assert (lab.shared / "note").read_text() == "hello"
    ids = {host.run("cat", "/etc/machine-id") for host in (one, two)} | {host.run("virsh", "capabilities").partition("</uuid>")[0] for host in (one, two)}
    assert len(ids) == 4


def test_what_was_written_outlives_a_power_cut(hosts: Hosts) -> None:
    (host,) = hosts(1)
    host.write("/root/note", "kept")
    host.run("systemd-run", "--unit=busy", "sleep", "1000")
    before = host.boot_id()
    host.power_off()
    assert not host.is_running
    with pytest.raises(LabError, match="is off"):
        host.run("true")
    host.power_on()
    assert host.read("/root/note") == "kept"
    assert host.boot_id() != before
    assert host.attempt("systemctl", "is-active", "--quiet", "busy").code != 0
