"""What the kernel tells of a server, read from made-up files, and from this machine's own."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from domus_core.errors import Unreachable
from domus_core.libvirt_driver import host_facts
from domus_core.libvirt_driver.host_cpu import guest_cpu_xml, host_cpu, numa_cell
from domus_core.libvirt_driver.host_facts import read_host
from domus_core.libvirt_driver.xml_fields import parse

FILES = {
    "proc/sys/kernel/osrelease": "6.1.0-1-amd64\n",
    "proc/stat": "cpu 1 2\nbtime 1795602116\n",
    "etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/class/dmi/id/sys_vendor": "Dell Inc.\n",
    "sys/block/sda/size": "2000\n",
    "sys/block/sda/queue/rotational": "1\n",
    "sys/block/sda/device/model": "ST1000NM\n",
    "sys/block/sda/device/wwid": "naa.5000c500\n",
    "sys/block/nvme0n1/size": "4000\n",
    "sys/block/nvme0n1/queue/rotational": "0\n",
    "sys/block/nvme0n1/wwid": "eui.0025\n",
    "sys/block/dm-0/size": "100\n",
    "sys/block/dm-0/dm/uuid": "LVM-abc\n",
    "sys/block/dm-0/slaves/sda/x": "",
    "sys/block/loop0/size": "8\n",
    "sys/block/sr0/size": "8\n",
    "sys/block/sdb/size": "0\n",
    "sys/class/net/lo/address": "00:00:00:00:00:00\n",
    "sys/class/net/vnet3/address": "fe:00:00:00:00:00\n",
    "sys/class/net/eth10/address": "02:00:00:00:00:10\n",
    "sys/class/net/eth10/operstate": "down\n",
    "sys/class/net/eth10/speed": "-1\n",
    "sys/class/net/eth10/device/x": "",
    "sys/class/net/eth2/address": "02:00:00:00:00:02\n",
    "sys/class/net/eth2/operstate": "up\n",
    "sys/class/net/eth2/speed": "25000\n",
    "sys/class/net/eth2/mtu": "9000\n",
    "sys/class/net/eth2/device/power/wakeup": "enabled\n",
    "sys/class/net/eth2/bonding_slave/perm_hwaddr": "02:00:00:00:00:99\n",
    "sys/class/net/eth10/device/power/wakeup": "disabled\n",
    "sys/class/net/bond0/bonding/slaves": "eth2 eth10\n",
    "sys/class/net/bond0/operstate": "up\n",
    "sys/class/net/br0/bridge/x": "",
    "sys/class/net/br0/brif/bond0/x": "",
    "sys/class/net/br0/brif/vnet3/x": "",
    "sys/class/net/bond0.7/uevent": "INTERFACE=bond0.7\nDEVTYPE=vlan\n",
    "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages": "512\n",
    "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
    "sys/devices/system/node/possible": "0-1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> str:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    os.symlink("../bond0", tmp_path / "sys/class/net/eth2/master")
    return str(tmp_path)


def test_the_system_is_named(root: str) -> None:
    told = read_host(root)
    assert (told["kernel"], told["distribution"], told["booted_at"]) == ("6.1.0-1-amd64", "Debian GNU/Linux 12 (bookworm)", 1795602060)
    assert told["machine"] == {"vendor": "Dell Inc.", "product": None, "bios": None}
    assert told["huge_pages"] == [{"cell": 1, "size": 2 << 20, "total": 512}]


def test_disks_are_told_and_what_is_none_is_not(root: str) -> None:
    disks = {disk["name"]: disk for disk in read_host(root)["block_devices"]}
    assert list(disks) == ["dm-0", "nvme0n1", "sda"]
    assert disks["sda"] | {"size": 1024000, "rotational": True, "model": "ST1000NM", "wwn": "naa.5000c500", "kind": "disk", "made_of": []} == disks["sda"]
    assert (disks["nvme0n1"]["rotational"], disks["nvme0n1"]["wwn"]) == (False, "eui.0025")
    assert (disks["dm-0"]["kind"], disks["dm-0"]["made_of"]) == ("LVM-abc", ["sda"])


def test_interfaces_bonds_bridges_and_vlans_are_told(root: str) -> None:
    cards = {card["name"]: card for card in read_host(root)["interfaces"]}
    assert list(cards) == ["bond0", "bond0.7", "br0", "eth2", "eth10"]
    assert {name: card["kind"] for name, card in cards.items()} == {
        **{"bond0": "bond", "bond0.7": "vlan", "br0": "bridge"},
        **{"eth2": "physical", "eth10": "physical"},
    }
    assert (cards["eth2"]["link"], cards["eth2"]["speed"], cards["eth2"]["mtu"], cards["eth2"]["master"]) == (True, 25000, 9000, "bond0")
    assert (cards["eth10"]["link"], cards["eth10"]["speed"]) == (False, None)
    told = {name: (card["mac"], card["own_mac"], card["wakes"]) for name, card in cards.items() if name.startswith("eth")}
    assert told == {"eth2": ("02:00:00:00:00:02", "02:00:00:00:00:99", True), "eth10": ("02:00:00:00:00:10", "02:00:00:00:00:10", False)}
    assert cards["br0"]["ports"] == ["bond0"] and cards["bond0"]["ports"] == ["eth2", "eth10"]


def test_a_machine_without_any_of_it_tells_nothing(tmp_path: Path) -> None:
    told = read_host(str(tmp_path))
    assert told["block_devices"] == told["interfaces"] == told["huge_pages"] == [] and told["kernel"] is None


def test_this_machine_is_read_and_fits_into_json() -> None:
    told = read_host()
    assert told["kernel"] and json.loads(json.dumps(told)) == told


def test_a_device_that_hangs_delays_nobody_for_long(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    release, reached = threading.Event(), threading.Event()

    def hang(self: Any) -> dict[str, Any]:
        reached.set()
        release.wait(30)
        return {"kernel": "late"}

    def give_up(call: Any, seconds: float, what: str) -> Any:
        threading.Thread(target=call, daemon=True).start()
        reached.wait(30)
        raise Unreachable(what)

    with monkeypatch.context() as patched:
        patched.setattr(host_facts._Kernel, "read", hang)
        patched.setattr(host_facts, "bounded", give_up)
        assert read_host(root) == {}
    assert read_host(root) == {}
    release.set()
    for dummy in range(1000):
        if read_host(root):
            return
        time.sleep(0.01)
    pytest.fail("once the device answers, it is read again")


CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC-Rome</model><vendor>AMD</vendor>
<microcode version='137363493'/><counter name='tsc' frequency='2000000000'/><topology sockets='1' dies='1' cores='8' threads='2'/>
<feature name='xsaves'/><feature name='ht'/><pages unit='KiB' size='4'/></cpu>
<topology><cells num='1'><cell id='0'><memory unit='KiB'>1024</memory><distances><sibling id='0' value='10'/><sibling id='1' value='21'/></distances>
<cpus num='2'><cpu id='0'/><cpu id='1'/></cpus></cell></cells></topology></host></capabilities>"""
DOMAIN = """<domainCapabilities><cpu><mode name='host-passthrough' supported='yes'/><mode name='host-model' supported='yes'>
<model fallback='forbid'>EPYC-Rome</model><vendor>AMD</vendor><feature policy='require' name='x2apic'/></mode></cpu></domainCapabilities>"""


def test_the_processor_can_be_compared_by_libvirt() -> None:
    told = host_cpu(parse(CAPABILITIES))
    assert (told["model"], told["vendor"], told["features"], told["microcode"]) == ("EPYC-Rome", "AMD", ["ht", "xsaves"], "137363493")
    assert "<cpu>" in told["xml"] and "counter" not in told["xml"] and "pages" not in told["xml"] and "xsaves" in told["xml"]
    assert numa_cell(parse(CAPABILITIES).find("host/topology/cells/cell")) == {"id": 0, "memory": 1 << 20, "cpus": [0, 1], "distances": {"0": 10, "1": 21}}


def test_the_cpu_of_guests_is_told_in_the_same_form() -> None:
    text = guest_cpu_xml(DOMAIN)
    assert text is not None and text.startswith("<cpu>") and "x2apic" in text
    assert guest_cpu_xml(None) is None and guest_cpu_xml("<domainCapabilities/>") is None
