"""A mount that is taken away by force, by systemd and the kernel of a real host: what waits for it is ended for a while, then its folder goes."""

from __future__ import annotations

import pytest

from tests.hosts.agents import ROOT
from tests.hosts.conftest import Hosts
from tests.hosts.lab.commands import wait_until
from tests.hosts.lab.host import Host

PLACE, UNIT, SECONDS = "/mnt/gone", "domus-gone-mnt-gone.service", 3
TAKE_AWAY = f"""import sys
sys.path.insert(0, "/opt/test")
from domus_core.storage_connect import mounts
mounts.ENDING_SECONDS = {SECONDS}
print(mounts.Host().unmount("{PLACE}", force=True))"""


@pytest.fixture(scope="module")
def host(module_hosts: Hosts) -> Host:
    (made,) = module_hosts(1)
    made.copy_to(ROOT / "plugins/module_utils/domus_core", "/opt/test/domus_core")
    return made


def is_there(host: Host) -> bool:
    return host.attempt("test", "-d", PLACE).code == 0


@pytest.mark.parametrize("other", [False, True])
def test_the_folder_goes_last_and_never_from_under_another_mount(other: bool, host: Host) -> None:
    host.shell(f"mkdir -p {PLACE}; mount -t tmpfs first {PLACE}")
    assert host.run("python3", "-c", TAKE_AWAY).strip() == "False"
    assert host.attempt("findmnt", PLACE).code != 0 and is_there(host), "away for everybody, and what ends its requests needs the folder"
    if other:
        host.run("mount", "-t", "tmpfs", "second", PLACE)
    wait_until(lambda: host.attempt("systemctl", "is-active", UNIT).output.strip() != "active", 60, "the end of it")
    assert is_there(host) == other
    assert host.attempt("findmnt", "-no", "SOURCE", PLACE).output.split() == (["second"] if other else [])
    if other:
        host.run("umount", PLACE)
