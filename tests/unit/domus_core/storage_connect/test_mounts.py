"""What the kernel lists is read right, and units say what systemd understands."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from domus_core.errors import InvalidSpec
from domus_core.model.field_types import AbsolutePath
from domus_core.storage_connect.mounts import MADE_BY, Mount, holding, mounted_on, parse_lease, parse_mounts, unit_name, unit_text

MOUNTINFO = r"""23 28 0:22 / /proc rw,nosuid shared:14 - proc proc rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
232 27 0:45 / /srv/with\040space rw,nosuid shared:121 - nfs4 m1:/export/vms rw,vers=4.2
233 27 0:46 / /srv/nas rw master:3 - nfs4 m1:/a rw
234 233 0:47 / /srv/nas rw master:3 propagate_from:2 - nfs4 m1:/b rw
"""
MOUNTSTATS = """device /dev/vda mounted on / with fstype ext4
device m1:/a mounted on /srv/nas with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2
\tnfsv4:\tbm0=0xfdffbfff,sessions,pnfs=not configured,lease_time=15,lease_expired=0
device m1:/b mounted on /srv/old with fstype nfs statvers=1.1
\topts:\trw,vers=3
"""


def test_mounts_are_read() -> None:
    mounts = parse_mounts(MOUNTINFO.splitlines())
    assert mounts[2] == Mount("/srv/with space", "m1:/export/vms", "nfs4")
    assert mounted_on("/srv/nas", mounts) == Mount("/srv/nas", "m1:/b", "nfs4")  # what is on top
    assert mounted_on("/srv", mounts) is None
    assert holding("/srv/nas2/file", mounts) == Mount("/", "/dev/vda", "ext4")


def test_the_mounts_of_this_machine_are_read() -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        assert mounted_on("/proc", parse_mounts(file)) is not None


def test_the_lease_is_read() -> None:
    lines = MOUNTSTATS.splitlines()
    assert (parse_lease(lines, "/srv/nas"), parse_lease(lines, "/srv/old"), parse_lease(lines, "/")) == (15, None, None)


@pytest.mark.parametrize("path", ["/var/lib/domus/repositories/nas", "/srv/a-b_c/d.e", "/srv/.hidden", "/.x/y@z+w=v", "/srv/ä b"])
def test_units_have_systemds_names(path: str) -> None:
    tool = shutil.which("systemd-escape")
    if tool is None:
        pytest.fail("systemd-escape is not installed: apt-get install systemd")
    said = subprocess.run([tool, "--path", "--suffix=mount", path], capture_output=True, text=True, check=True).stdout.strip()
    assert unit_name(path) == said


@pytest.mark.parametrize("text", ["a\nExecStart=/bin/true", "a\r", "a\\", "a b", "a,exec", "a;b", "#a", "a%H", "$(id)", "a\u2028b", "a\x85b", "\0", "é"])
def test_nothing_that_systemd_reads_gets_into_a_unit(text: str) -> None:
    """An export and a mount point come from a document, and the unit is root's."""
    for path in (f"/{text}", f"/e/{text}/f"):
        with pytest.raises(InvalidSpec):
            AbsolutePath(mountable=True).parse(path)


def test_a_unit_is_there_before_the_vms() -> None:
    text = unit_text(Mount("/srv/100%", "nas1:/export", "nfs"), "vers=4.2,hard", "Domus repository nas")
    assert text.startswith(MADE_BY)
    lines = text.splitlines()
    assert "Before=libvirtd.service virtqemud.service libvirt-guests.service" in lines
    assert "Where=/srv/100%%" in lines and "What=nas1:/export" in lines and "Options=vers=4.2,hard,_netdev" in lines
    assert "WantedBy=remote-fs.target" in lines  # wanted, not required: the boot goes on without it
