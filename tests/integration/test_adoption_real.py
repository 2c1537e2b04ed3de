"""Adoption on real libvirt: VMs that others made are described, left alone, and can be made again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import Conflict, NotFound
from domus_core.libvirt_driver.adoption import adopt, flatten
from domus_core.libvirt_driver.xml_fields import parse
from domus_core.model.document import parse_document
from domus_core.verbs import carry_out_verb

from tests.integration.server_under_test import INACTIVE, LAN, ServerUnderTest

pytestmark = pytest.mark.libvirt

# Two runs at once must not have the same addresses.
MAC = f"{os.getpid() >> 8 & 255:02x}:{os.getpid() & 255:02x}"
# What only libvirt assigns when a definition is made anew: no two definitions agree on it, and no guest sees a difference.
SHAPES: dict[str, tuple[str, set[str]]] = {
    "minimal": (
        "<domain type='qemu'><name>NAME</name><memory>16384</memory><os><type machine='pc'>hvm</type></os></domain>",
        {"features/acpi", "features/apic"},
    ),
    "virt-install": (
        """<domain type='qemu'><name>NAME</name><title>The title</title><description>said &lt;by&gt; others</description>
        <metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
        <libosinfo:os id='http://debian.org/debian/12'/></libosinfo:libosinfo></metadata>
        <memory unit='MiB'>32</memory><currentMemory unit='KiB'>16384</currentMemory><vcpu current='1'>4</vcpu>
        <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='cdrom'/><boot dev='hd'/></os>
        <features><acpi/><apic/><vmport state='off'/></features><cpu mode='maximum' check='none'/>
        <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='no'/></clock>
        <pm><suspend-to-mem enabled='no'/></pm>
        <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'/><source file='IMAGES/a.qcow2'/>
        <target dev='vda' bus='virtio'/><iotune><total_iops_sec>100</total_iops_sec></iotune></disk>
        <disk type='file' device='cdrom'><source file='IMAGES/a.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
        <interface type='network'><mac address='52:54:00:MAC:01'/><source network='LAN'/><model type='virtio'/></interface>
        <interface type='bridge'><mac address='52:54:00:MAC:02'/><source bridge='br-other'/><model type='e1000e'/><link state='down'/></interface>
        <console type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel><input type='tablet' bus='usb'/>
        <graphics type='spice' port='-1'/><sound model='ich9'/><video><model type='qxl'/></video><redirdev bus='usb' type='spicevmc'/>
        <watchdog model='i6300esb' action='poweroff'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>""",
        {
            "title",
            "description",
            "features/vmport",
            "clock/timer",
            "pm/",
            "iotune",
            "spicevmc",
            "tablet",
            "graphics[spice",
            "sound",
            "redirdev",
            "cdrom",
            "a.iso",
            "audio",
        },
    ),
    "old": (
        """<domain type='qemu'><name>NAME</name><memory unit='MiB'>16</memory><vcpu cpuset='0'>2</vcpu><memoryBacking><nosharepages/></memoryBacking>
        <cputune><shares>512</shares></cputune><os><type machine='pc'>hvm</type></os><cpu><topology sockets='2' cores='1' threads='1'/></cpu>
        <features><acpi/><apic/><pae/></features><clock offset='localtime'/><on_crash>preserve</on_crash>
        <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='IMAGES/b.img'/><target dev='hda' bus='ide'/><serial>X1</serial>
<boot order='2'/></disk>
        <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='IMAGES/c.img'/><target dev='sda' bus='scsi'/><shareable/></disk>
        <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk><controller type='scsi' model='lsilogic'/>
        <interface type='network'><mac address='52:54:00:MAC:03'/><source network='LAN'/><model type='rtl8139'/><filterref filter='clean-traffic'/>
<boot order='1'/></interface>
        <interface type='user'><mac address='52:54:00:MAC:04'/><model type='e1000'/></interface>
        <serial type='pty'/><parallel type='pty'/><graphics type='vnc' port='-1' listen='0.0.0.0' passwd='CANARY'/><video><model type='cirrus'/></video>
        <memballoon model='none'/></devices></domain>""",
        {"memoryBacking", "cputune", "vcpu/@cpuset", "features/pae", "controller[scsi", "interface[52:54:00:", "parallel", "memballoon", "passwd"},
    ),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest, furnished: ServerUnderTest) -> Iterator[tuple[ServerUnderTest, set[str]]]:
    """A server with one VM of this shape that Domus did not make."""
    images = furnished.directory / "images"
    images.mkdir(exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", images / "a.qcow2", "1M"], check=True)
    for name in ("a.iso", "b.img", "c.img"):
        (images / name).write_bytes(bytes(1 << 20))
    text, lost = SHAPES[request.param]
    furnished.connection.defineXML(text.replace("NAME", furnished.name("old")).replace("IMAGES", str(images)).replace("'LAN'", f"'{LAN}'").replace("MAC", MAC))
    yield furnished, lost
    furnished.clear()


def all_of(server: ServerUnderTest) -> tuple[str, str]:
    return server.driver.fingerprint("vm", server.name("old")), server.domain("old").XMLDesc(INACTIVE)


def test_it_is_unmanaged_until_adopted(shape: Any) -> None:
    server, _ = shape
    before = all_of(server)
    assert server.found("old").state.managed is False and server.found("old").recorded is None
    for change in ({"description": "mine"}, {"state": "absent"}, {"state": "running"}):
        with pytest.raises(Conflict, match="not made by Domus"):
            server.steps(vms=[{"name": server.name("old"), **change}])
    assert all_of(server) == before
    found = server.found("old")
    server.apply(vms=[{"name": server.name("old"), "adopted": True}])
    assert server.found("old").state.managed and server.found("old").state.uuid == found.state.uuid
    server.apply(vms=[{"name": server.name("old"), "tags": ["mine"]}])
    after = parse(server.domain("old").XMLDesc(INACTIVE))
    assert flatten(after) == flatten(parse(before[1])), "only the record has been added"


def test_the_document_plans_nothing_and_makes_it_again(shape: Any) -> None:
    server, lost = shape
    before, xml = all_of(server), flatten(server.xml("old"))
    written = adopt(server.driver, [server.name("old")], "paris")
    assert "CANARY" not in str(written)
    site = parse_document(written["document"])
    sections = {key: value for key, value in written["document"].items() if key != "site"}
    steps = server.steps(**sections)
    assert {(step.action, step.kind) for step in steps} <= {("create", "repository"), ("update", "vm")}
    assert [change.field for step in steps if step.kind == "vm" for change in step.changes] == ["managed"]
    assert all_of(server) == before and site.name == "paris"
    server.apply(**sections)
    assert flatten(server.xml("old")) == xml and server.found("old").state.managed
    assert all(server.driver.registry.read("repository", one["name"]) for one in sections.get("repositories", ()))
    _is_changed_on_its_directory(server, written["document"])
    for line in written["not_managed"][server.name("old")]:
        assert any(sign in line for sign in lost), f"not expected to be lost: {line}"
    server.domain("old").undefine()
    server.apply(**sections)
    again = flatten(server.xml("old"))
    told = {line.split(" = ")[0].split(" (would")[0] for line in written["not_managed"][server.name("old")]}
    different = {place for place in {*xml, *again} if xml.get(place) != again.get(place)}
    assert different <= told, "more is different than was told"


def _is_changed_on_its_directory(server: ServerUnderTest, document: dict[str, Any]) -> None:
    """From then on a document need not say again what was adopted."""
    for disk in document["vms"][0].get("disks", ())[:1]:
        server.apply(vms=[{"name": server.name("old"), "disks": [{"name": disk["name"], "file": disk["file"]}]}])


def test_a_running_vm_is_taken_charge_of_and_goes_on(furnished: ServerUnderTest) -> None:
    text, dummy = SHAPES["minimal"]
    domain = furnished.connection.defineXML(text.replace("NAME", furnished.name("old")))
    domain.create()
    number = domain.ID()
    written = adopt(furnished.driver, [furnished.name("old")], "paris")["document"]
    furnished.apply(vms=written["vms"])
    found = furnished.found("old")
    assert domain.ID() == number and (found.state.managed, found.state.state, found.recorded.state) == (True, "running", "running")
    furnished.clear()


def test_a_verb_is_done_to_a_vm_that_is_not_managed_and_writes_nothing(furnished: ServerUnderTest) -> None:
    text, dummy = SHAPES["minimal"]
    furnished.connection.defineXML(text.replace("NAME", furnished.name("old")))
    before = all_of(furnished)[1]
    for verb, state in (("start", "running"), ("suspend", "suspended"), ("start", "running"), ("kill", "stopped")):
        done = carry_out_verb(furnished.driver, furnished.name("old"), verb, site="paris")
        assert done.error is None and done.found is not None and done.found.state.state == state
        assert "not managed by Domus" in done.note and done.as_dict()["note"] == done.note
        assert all_of(furnished)[1] == before and not furnished.found("old").state.managed
    furnished.apply(vms=[{"name": furnished.name("old"), "adopted": True}])
    done = carry_out_verb(furnished.driver, furnished.name("old"), "start", site="paris")
    assert "note" not in done.as_dict() and furnished.found("old").recorded.state == "running"
    furnished.clear()


def test_directories_whose_names_would_be_the_same_get_names_of_their_own(furnished: ServerUnderTest) -> None:
    disks = ""
    for letter, folder in (("a", "x y"), ("b", "x-y")):
        (furnished.directory / folder).mkdir(exist_ok=True)
        (furnished.directory / folder / "disk.img").write_bytes(bytes(1 << 20))
        disks += f"<disk type='file'><driver name='qemu' type='raw'/><source file='{furnished.directory / folder}/disk.img'/><target dev='vd{letter}'/></disk>"
    text = SHAPES["minimal"][0].replace("</os>", f"</os><devices>{disks}</devices>")
    furnished.connection.defineXML(text.replace("NAME", furnished.name("old")))
    written = adopt(furnished.driver, [furnished.name("old")], "paris")["document"]
    assert len({one["name"] for one in written["repositories"]}) == 2
    furnished.apply(**{key: value for key, value in written.items() if key != "site"})
    furnished.clear()


def test_what_is_not_there_can_not_be_adopted(furnished: ServerUnderTest) -> None:
    with pytest.raises(NotFound, match="no such domain"):
        adopt(furnished.driver, ["nobody"])
