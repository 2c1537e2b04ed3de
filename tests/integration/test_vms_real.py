"""VMs on real QEMU, without an operating system: what happens live, what waits for a restart, and what must survive."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import Conflict
from domus_core.libvirt_driver.connection import libvirt
from domus_core.libvirt_driver.vm_record import NAMESPACE, TAG
from domus_core.libvirt_driver.xml_fields import canonical, etree, parse, serialize

from tests.integration.server_under_test import INACTIVE, LAN, OTHER, SMALL, ServerUnderTest

pytestmark = pytest.mark.libvirt

MIB = 1 << 20
SECURE = 1
ROOT = {"name": "root", "repository": "main", "size": "1MiB"}
NIC = {"name": "lan0", "network": LAN}
# Every field that waits for a restart, with the names by which it waits.
WAITING: list[tuple[dict[str, Any], set[str]]] = [
    ({"cpus_max": 8}, {"cpus_max"}),
    ({"memory_max": "48MiB"}, {"memory_max"}),
    ({"memory": "64MiB", "memory_max": "64MiB"}, {"memory", "memory_max"}),
    ({"cpu_model": "Nehalem"}, {"cpu_model"}),
    ({"cpu_topology": {"sockets": 2, "cores": 4, "threads": 1}}, {"cpu_topology"}),
    ({"boot": ["network", "disk"]}, {"boot"}),
    ({"serial_console": False}, {"serial_console"}),
    ({"vnc": {"listen": "0.0.0.0"}}, {"vnc.listen"}),
    ({"vnc": {"password": "other"}}, {"vnc.password"}),
    ({"video": "virtio"}, {"video"}),
    ({"rng": False}, {"rng"}),
    ({"watchdog": {"model": "i6300esb", "action": "poweroff"}}, {"watchdog"}),
    ({"guest_agent": False}, {"guest_agent"}),
    ({"cloud_init": {"user_data": "new"}}, {"cloud_init"}),
    ({"clock": "localtime"}, {"clock"}),
    ({"on_reboot": "destroy"}, {"on_reboot"}),
    ({"on_crash": "restart"}, {"on_crash"}),
    ({"cdroms": [{"name": "cd2", "iso": "cd1"}]}, {"cdroms[cd2]"}),
    ({"cdroms": [{"name": "cd", "bus": "scsi"}]}, {"cdroms[cd].bus"}),
    ({"disks": [{"name": "root", "serial": "S1"}]}, {"disks[root].serial"}),
    ({"disks": [{"name": "root", "cache": "none"}]}, {"disks[root].cache"}),
    ({"disks": [{"name": "root", "discard": "unmap"}]}, {"disks[root].discard"}),
    ({"disks": [{"name": "root", "bus": "scsi"}]}, {"disks[root].bus"}),
    ({"disks": [{"name": "root", "read_only": True}]}, {"disks[root].read_only"}),
    ({"nics": [{"name": "lan0", "model": "e1000"}]}, {"nics[lan0].model"}),
    ({"nics": [{"name": "lan0", "mac": "52:54:00:aa:00:01"}]}, {"nics[lan0].mac"}),
]


def test_what_waits_for_a_restart_is_named_until_it_has_happened(server: ServerUnderTest) -> None:
    made = {"cpus": 1, "memory_max": "32MiB", "vnc": {"password": "secret"}, "cloud_init": {"user_data": "old"}}
    server.vm(**SMALL, **made, disks=[ROOT], cdroms=[{"name": "cd", "iso": "cd1"}], nics=[NIC], state="running")
    expected: set[str] = set()
    for fields, names in WAITING:
        server.vm(**fields)
        expected |= names
        assert server.waiting() == expected, f"after {fields}"
    assert server.waiting() == expected
    server.vm(state="paused")
    assert server.waiting() == expected
    server.vm(state="suspended")
    assert server.waiting() == expected
    server.vm(state="running")
    assert server.waiting() == expected
    server.vm(state="stopped")
    assert server.waiting() == set()
    server.vm(state="running")
    assert server.waiting() == set()


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_what_runs_is_changed_live(machine: str, server: ServerUnderTest) -> None:
    made = {"machine": machine, "memory": "32MiB", "memory_max": "64MiB", "cpus": 1, "cpus_max": 4}
    server.vm(**made, disks=[ROOT], nics=[NIC], cdroms=[{"name": "cd", "iso": "cd1"}], state="running")
    process = server.domain().ID()

    def live(path: str) -> list[Any]:
        return [str(one) for one in server.xml(flags=SECURE).xpath(path)]

    server.vm(memory="48MiB", cpus=3, description="it <runs>", tags=["b"])
    assert server.xml().findtext("currentMemory") == str(48 << 10)  # what runs shows what its guest has given back
    assert live("vcpu/@current") == ["3"] and live("description/text()") == ["it <runs>"]
    server.vm(
        disks=[
            {"name": "data", "repository": "main", "size": "1MiB", "format": "raw", "serial": "D"},
            {"name": "scsi", "repository": "main", "size": "1MiB", "bus": "scsi"},
        ]
    )
    server.vm(disks=[{"name": "thin", "template": "small", "cache": "none"}, {"name": "usb", "template": "small", "bus": "usb"}])
    server.vm(nics=[{"name": "lan1", "network": OTHER}, {"name": "lan2", "network": LAN, "model": "e1000" if machine == "pc" else "e1000e", "link": "down"}])
    assert len(live("devices/disk[@device='disk']")) == 5 and len(live("devices/interface")) == 3
    server.vm(disks=[{"name": "root", "size": "2MiB"}, {"name": "data", "size": "3MiB"}])
    assert {
        server.domain().blockInfo(live(f"devices/disk[source/@file='{server.image(name)}']/target/@dev")[0])[0] // MIB
        for name in (f"{server.name('vm')}-root.qcow2",)
    } == {2}
    server.vm(cdroms=[{"name": "cd", "iso": "cd2"}])
    assert live("devices/disk[@device='cdrom']/source/@file") == [str(server.main / "ISOs/2.iso")]
    server.vm(cdroms=[{"name": "cd", "iso": ""}])
    assert live("devices/disk[@device='cdrom']/source/@file") == []
    server.vm(nics=[{"name": "lan0", "network": OTHER, "link": "down"}, {"name": "lan2", "link": "up"}])
    assert live("devices/interface/source/@network") == [OTHER, OTHER, LAN] and live("devices/interface/link/@state") == ["down", "up"]
    found = server.found()
    assert server.waiting() == set() and found.running is found.spec and server.domain().ID() == process
    server.vm(state="stopped")
    assert server.vm(state="running").spec == found.spec and server.waiting() == set()


def test_devices_are_taken_away_or_wait_for_the_guest(server: ServerUnderTest) -> None:
    disks = [ROOT, {"name": "data", "repository": "main", "size": "1MiB"}, {"name": "sata", "repository": "main", "size": "1MiB", "bus": "ide"}]
    server.vm(**SMALL, disks=disks[:1], nics=[NIC], state="running")
    server.vm(disks=disks, nics=[{"name": "lan1", "network": LAN}])
    assert server.waiting() == {"disks[sata]"}
    server.vm(disks=[ROOT], nics=[NIC], exact=True, waits="guest decides")
    # Nobody answers in this guest: the devices are still there, under the names they had.
    assert server.waiting() == {"disks[data]", "nics[lan1]"}
    server.vm(disks=disks[:2], nics=[NIC, {"name": "lan1", "network": LAN}])
    assert server.waiting() == set()
    server.vm(disks=[ROOT], nics=[NIC], exact=True, waits="guest decides")
    server.vm(state="stopped")
    assert server.waiting() == set() and len(server.xml().findall("devices/disk")) == 1 and len(server.xml().findall("devices/interface")) == 1
    assert server.image(f"{server.name('vm')}-data.qcow2").exists(), "files stay"


def test_conventional_pci_waits_on_q35(server: ServerUnderTest) -> None:
    server.vm(**{**SMALL, "machine": "q35"}, state="running")
    server.vm(nics=[{"name": "old", "network": LAN, "model": "rtl8139"}])
    assert server.waiting() == {"nics[old]"}


def test_fewer_vcpus_wait_where_taking_them_away_is_not_safe(server: ServerUnderTest) -> None:
    server.vm(**SMALL, cpus=3, cpus_max=4, state="running")
    server.vm(cpus=1)
    assert server.waiting() == {"cpus"}
    server.vm(cpus=4)
    assert server.waiting() == set()


def test_an_attachment_broken_off_is_completed(server: ServerUnderTest) -> None:
    server.vm(**SMALL, disks=[ROOT], state="running")
    disk, nic = {"name": "data", "repository": "main", "size": "1MiB"}, {"name": "lan1", "network": LAN}
    before, record = server.domain().XMLDesc(INACTIVE), server.xml(flags=SECURE).find(f"metadata/{TAG}")
    server.vm(disks=[disk], nics=[nic])
    # As if it had been killed before it could write anything down.
    server.connection.defineXML(before)
    known = etree.Element("vm")
    known.text = record.text
    server.domain().setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, serialize(known), "domus", NAMESPACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    # Check mode can not know these devices by name; the apply can.
    assert server.try_apply(vms=[{"name": server.name("vm"), "disks": [disk], "nics": [nic]}]).errors == []
    server.vm(disks=[disk], nics=[nic])
    assert (
        server.waiting() == set()
        and len(server.xml(flags=SECURE).findall("devices/disk")) == 2
        and len(server.xml(flags=SECURE).findall("devices/interface")) == 1
    )
    assert server.found().running is server.found().spec or server.found().running == server.found().spec


def test_a_disk_grows_wherever_it_is(server: ServerUnderTest) -> None:
    server.vm(**SMALL, disks=[ROOT, {"name": "raw", "repository": "main", "size": "1MiB", "format": "raw"}], state="stopped")
    server.vm(disks=[{"name": "root", "size": "2MiB"}, {"name": "raw", "size": "2MiB"}])
    server.vm(state="running")
    server.apply(virtual_disks=[{"name": f"{server.name('vm')}-root", "repository": "main", "size": "3MiB"}])
    server.vm(state="suspended")
    server.vm(disks=[{"name": "raw", "size": "3MiB"}])
    server.vm(state="running")
    assert [disk.size for disk in server.found().spec.disks] == [3 * MIB, 3 * MIB] and server.waiting() == set()
    assert server.image(f"{server.name('vm')}-raw.img").stat().st_size == 3 * MIB
    with pytest.raises(Conflict, match="can not shrink"):
        server.vm(disks=[{"name": "root", "size": "1MiB"}])


def test_disks_come_from_templates_and_images(server: ServerUnderTest) -> None:
    (server.main / "Templates/full.img").write_bytes(b"text" * (MIB // 4))
    clones = [{"name": clone, "template": "small", "clone": clone, "size": "2MiB"} for clone in ("thin", "sparse", "full")]
    server.vm(**SMALL, disks=[*clones, {"name": "image", "image": "main/full.img", "format": "raw"}], state="running")
    images = {name: server.image(f"{server.name('vm')}-{name}.qcow2") for name in ("thin", "sparse", "full")}
    disks = {disk.name: disk for disk in server.found().spec.disks}
    assert {name: disk.size // MIB for name, disk in disks.items()} == {"thin": 2, "sparse": 2, "full": 2, "image": 1}
    snapshot = server.driver.read(server.site())
    backing = {name: snapshot.find("virtual_disk", f"main/{server.name('vm')}-{name}").state.backing for name in images}
    assert backing == {"thin": str(server.main / "Templates/small.qcow2"), "sparse": None, "full": None}
    assert images["full"].stat().st_blocks * 512 >= 2 * MIB > images["sparse"].stat().st_blocks * 512
    assert server.image(f"{server.name('vm')}-image.img").read_bytes() == b"text" * (MIB // 4)
    with pytest.raises(Conflict, match="used by"):
        server.steps(templates=[{"name": "small", "state": "absent"}])


def test_disks_are_kept_and_used_again_or_deleted(server: ServerUnderTest) -> None:
    shared = {"name": "shared", "repository": "main", "size": "1MiB", "format": "raw", "shareable": True}
    use = {"name": "shared", "virtual_disk": "main/shared"}
    server.apply(virtual_disks=[shared])
    server.vm("one", **SMALL, disks=[ROOT, use], state="running")
    server.vm("two", **SMALL, disks=[use], state="running")
    assert all(len(server.xml(short, SECURE).findall("devices/disk/shareable")) == 1 for short in ("one", "two"))
    root = server.image(f"{server.name('one')}-root.qcow2")
    server.apply(vms=[{"name": server.name("one"), "state": "absent"}])
    assert root.exists()
    inode = root.stat().st_ino
    server.vm("one", **SMALL, disks=[ROOT, use])
    assert root.stat().st_ino == inode
    server.apply(vms=[{"name": server.name("one"), "state": "absent", "delete_disks": True}])
    assert not root.exists() and server.image("shared.img").exists() and server.found("two").state.state == "running"
    server.apply(vms=[{"name": server.name("two"), "state": "absent", "delete_disks": True}])
    assert server.image("shared.img").exists(), "it was made by itself, not for a VM"


def test_what_domus_does_not_know_survives(server: ServerUnderTest) -> None:
    made = {"cpu_model": "qemu64", "vnc": {"password": "secret"}, "cloud_init": {"user_data": "x"}, "cdroms": [{"name": "cd", "iso": "cd1"}]}
    server.vm(**SMALL, **made, disks=[ROOT], nics=[NIC], watchdog={"action": "pause"}, state="stopped")
    root = server.xml()
    devices, disk, nic = root.find("devices"), root.find("devices/disk"), root.find("devices/interface")
    devices.append(parse("<sound model='ac97'><codec type='duplex'/></sound>"))
    devices.append(parse("<hub type='usb'/>"))
    root.append(parse("<sysinfo type='smbios'><bios><entry name='vendor'>A &amp; B</entry></bios></sysinfo>"))
    root.append(parse("<iothreads>2</iothreads>"))
    root.append(parse("<cputune><shares>512</shares></cputune>"))
    root.find("os").append(parse("<smbios mode='sysinfo'/>"))
    root.find("clock").append(parse("<timer name='rtc' tickpolicy='catchup'/>"))
    root.find("features").append(parse("<kvm><hidden state='on'/></kvm>"))
    root.find("cpu").append(parse("<feature policy='disable' name='svm'/>"))
    root.find("metadata").append(parse("<other:app xmlns:other='urn:other'><x y='1'>z</x></other:app>"))
    disk.append(parse("<iotune><total_iops_sec>100</total_iops_sec></iotune>"))
    nic.append(parse("<bandwidth><inbound average='1000'/></bandwidth>"))
    server.connection.defineXML(serialize(root))
    before = parts(server.xml())
    uuid, mac = server.found().state.uuid, server.found().spec.nics[0].mac
    edits = [*WAITING, ({"memory": "20MiB"}, set()), ({"cpus": 2}, set()), ({"tags": ["a"]}, set()), ({"description": "d"}, set())]
    for fields, _ in [*edits, ({"disks": [{"name": "more", "repository": "main", "size": "1MiB"}], "autostart": True}, set())]:
        if "mac" not in str(fields):
            server.vm(**fields)
    after = parts(server.xml())
    for part in ("sound", "hub", "sysinfo", "iothreads", "cputune", "smbios", "timer", "kvm", "iotune", "bandwidth", "{urn:other}app"):
        assert after[part] == before[part] != [], part
    assert server.xml().find("cpu/feature[@name='svm']").get("policy") == "disable"
    assert server.found().state.uuid == uuid and server.found().spec.nics[0].mac == mac
    addresses = {one.get("slot") for one in root.iterfind("devices/interface/address")}
    assert addresses == {one.get("slot") for one in server.xml().iterfind("devices/interface/address")}, "the NIC has moved"


def parts(root: Any) -> dict[str, list[bytes]]:
    """All elements in canonical form, by tag."""
    found: dict[str, list[bytes]] = {}
    for element in root.iter():
        found.setdefault(element.tag, []).append(canonical(element))
    return found


def test_every_run_state_leads_to_every_other(server: ServerUnderTest) -> None:
    server.vm(**SMALL, disks=[ROOT], state="running")
    route = [
        "paused",
        "suspended",
        "running",
        "suspended",
        "paused",
        "running",
        "paused",
        "stopped",
        "paused",
        "running",
        "suspended",
        "stopped",
        "running",
        "stopped",
    ]
    for state in route:
        assert server.vm(state=state).state.state == state
    with pytest.raises(Conflict, match="can not become"):
        server.vm(state="suspended")
    server.vm(state="running")
    server.vm(state="suspended", description="asleep", on_crash="restart", memory="8MiB", tags=["z"])
    assert server.waiting() == {"on_crash"}
    server.apply(vms=[{"name": server.name("vm"), "state": "absent", "delete_disks": True}])
    assert list(server.main.glob("VirtualDisks/*")) == []


def test_a_suspended_vm_is_changed(server: ServerUnderTest) -> None:
    server.vm(**SMALL, cpus_max=3, cpus=1, disks=[ROOT], cdroms=[{"name": "cd", "iso": "cd1"}], nics=[NIC], cloud_init={"user_data": "old"}, state="running")
    server.vm(state="suspended")
    (seed,) = server.main.glob("VirtualDisks/*.iso")
    server.vm(cpus=2, memory="12MiB", description="d", disks=[{"name": "data", "repository": "main", "size": "1MiB"}], cloud_init={"user_data": "new"})
    server.vm(cdroms=[{"name": "cd", "iso": "cd2"}], nics=[{"name": "lan0", "link": "down"}, {"name": "lan1", "network": LAN}])
    waiting = {"cpus", "disks[data]", "cloud_init", "cdroms[cd].iso", "nics[lan0].link", "nics[lan1]"}
    assert server.waiting() == waiting and seed.exists()
    server.vm(state="running")
    assert server.waiting() == waiting and seed.exists()
    server.vm(state="stopped")
    server.vm(state="running")
    assert server.waiting() == set() and not seed.exists()


def test_the_seed_is_renewed_and_nobody_else_reads_it(server: ServerUnderTest) -> None:
    canary = "CANARY-7f3a"

    def seeds() -> list[Path]:
        return sorted(server.main.glob("VirtualDisks/*.iso"))

    server.vm(**SMALL, disks=[ROOT], cloud_init={"user_data": f"#cloud-config\r\n{canary} ünïcode", "network_config": canary}, state="running")
    (first,) = seeds()
    assert first.stat().st_mode & 0o777 == 0o600
    server.vm(cloud_init={"meta_data": "instance-id: 2\n"})
    assert len(seeds()) == 2 and server.waiting() == {"cloud_init"}, "the guest still has the old one open"
    server.vm(state="stopped")
    server.vm(state="running")
    (second,) = seeds()
    assert second != first and second.stat().st_mode & 0o777 == 0o600
    content = {name: (server.directory / f"seed-{name}") for name in ("user-data", "meta-data", "network-config")}
    for name, target in content.items():
        subprocess.run(["xorriso", "-osirrox", "on", "-indev", second, "-extract", f"/{name}", target], check=True, capture_output=True)
    assert {name: target.read_bytes().decode() for name, target in content.items()} == {
        "user-data": f"#cloud-config\r\n{canary} ünïcode",
        "meta-data": "instance-id: 2\n",
        "network-config": canary,
    }
    for target in content.values():
        target.unlink()
    told = [
        server.domain().XMLDesc(INACTIVE),
        server.domain().XMLDesc(SECURE),
        repr(server.found()),
        str(server.try_apply(vms=[{"name": server.name("vm")}]).as_dict()),
    ]
    readable = [path.read_bytes() for path in server.directory.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert canary not in "".join(told) and canary.encode() not in b"".join(readable)
    server.apply(vms=[{"name": server.name("vm"), "state": "absent"}])
    assert seeds() == []


def test_vnc_has_the_password_and_nobody_sees_it(server: ServerUnderTest) -> None:
    found = server.vm(**SMALL, vnc={"password": "c<&>\"'"}, state="running")
    assert found.state.vnc_port is not None and found.state.vnc_port >= 5900
    assert server.xml(flags=SECURE).find("devices/graphics").get("passwd") == "c<&>\"'"
    assert "c<&>" not in repr(found) + server.domain().XMLDesc(0)
    server.vm(vnc={"password": "other"})
    assert server.waiting() == {"vnc.password"}
    server.vm(state="stopped")
    server.vm(state="running")
    assert server.xml(flags=SECURE).find("devices/graphics").get("passwd") == "other" and server.waiting() == set()


@pytest.mark.parametrize("firmware", ["uefi", "uefi-secure"])
def test_uefi_starts(firmware: str, server: ServerUnderTest) -> None:
    if not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
        pytest.fail("UEFI firmware is missing: apt-get install ovmf")
    found = server.vm(memory="64MiB", firmware=firmware, state="running")
    assert found.spec.firmware == firmware and found.state.state == "running" and server.waiting() == set()
    nvram = Path(server.xml(flags=SECURE).findtext("os/nvram"))
    assert nvram.exists()
    server.vm(description="d", memory="32MiB")
    server.apply(vms=[{"name": server.name("vm"), "state": "absent"}])
    assert not nvram.exists()


def test_uefi_variables_lie_with_a_disk_that_other_servers_see(server: ServerUnderTest) -> None:
    repository = {"name": "all", "path": str(server.directory / "all"), "shared": True}
    server.apply(repositories=[repository])
    server.vm(memory="64MiB", firmware="uefi", disks=[{**ROOT, "repository": "all"}], state="running")
    variables = Path(server.xml(flags=SECURE).findtext("os/nvram"))
    assert variables.parent == server.directory / "all" / "VirtualDisks" and variables.exists()
    first = variables.stat().st_ino
    server.vm(state="stopped")
    server.vm(state="running")
    assert variables.stat().st_ino == first, "they are those of its last boot"
    server.apply(vms=[{"name": server.name("vm"), "state": "absent", "delete_disks": True}])
    assert not variables.exists()
    server.apply(repositories=[{**repository, "state": "absent"}])


def test_a_copy_that_is_deleted_leaves_the_variables_to_who_runs_with_them(server: ServerUnderTest) -> None:
    """Another server's QEMU is played by a lock as QEMU takes it."""
    server.apply(repositories=[{"name": "all", "path": str(server.directory / "all"), "shared": True}])
    server.vm(memory="64MiB", firmware="uefi", disks=[{**ROOT, "repository": "all"}], state="running")
    server.vm(state="stopped")
    variables = Path(server.xml(flags=SECURE).findtext("os/nvram"))
    with variables.open("rb+") as elsewhere:
        fcntl.fcntl(elsewhere, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0))
        server.apply(vms=[{"name": server.name("vm"), "state": "absent"}])
    assert variables.exists()


def test_the_order_of_boot_is_by_class_or_by_device(server: ServerUnderTest) -> None:
    server.vm(**SMALL, disks=[ROOT], nics=[NIC], boot=["network", "disk"], state="running")
    server.vm(disks=[{"name": "root", "boot_index": 2}], nics=[{"name": "lan0", "boot_index": 1}])
    assert server.xml().findall("os/boot") == [] and [one.get("order") for one in server.xml().iterfind("devices/*/boot")] == ["2", "1"]
    server.vm(disks=[{"name": "data", "repository": "main", "size": "1MiB", "boot_index": 3}])
    assert server.waiting() == {"boot", "disks[root].boot_index", "nics[lan0].boot_index", "disks[data]"}
    server.vm(state="stopped")
    server.vm(state="running")
    assert server.waiting() == set()
    server.vm(boot=["disk"])
    assert server.xml().findall("devices/*/boot") == [] and server.found().spec.boot == ("disk",)


def test_autostart_is_the_servers_affair(server: ServerUnderTest) -> None:
    server.vm(**SMALL, autostart=True)
    assert server.domain().autostart() == 1
    server.vm(autostart=False)
    assert server.domain().autostart() == 0 and server.found().state.generation == 2


def test_a_crash_is_seen(server: ServerUnderTest) -> None:
    server.vm(**SMALL, state="running")
    server.domain().destroy()
    assert server.found().state.state == "stopped" and server.found().running is None
    assert server.vm(state="running").state.state == "running"
