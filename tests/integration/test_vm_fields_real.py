"""Every field of a VM's table, written to real libvirt and read back: nothing is left to do, and the other fields stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.model.fields import CREATION, IGNORE, Object, Objects, field_named, fields_of, given, plain
from domus_core.model.vm import VmSpec

from tests.integration.server_under_test import LAN, OTHER, SMALL, ServerUnderTest

pytestmark = pytest.mark.libvirt

# Values for every field that may change, in the order in which they are set; a nested field is written field.inner.
EDITS: dict[str, list[Any]] = {
    "description": ["one", "two\nlines & <tags>", "", "one again"],
    "tags": [["a"], ["b", "a"], [], ["c"]],
    "ha": [
        {"priority": 3},
        {"enabled": False, "priority": 4, "start_after": ["db"], "start_delay": 5, "restart_limit": 2, "restart_window": 90},
        {"preferred_servers": ["srv1"], "start_policy": "current", "on_shutdown": "restart"},
    ],
    "server_tags": [["ssd"], ["ssd", "rack1"], []],
    "anti_affinity": [["databases"], []],
    "cpu_group": ["rack1", "rack2"],
    "cpus": [2, 1, 3],
    "cpus_max": [4, 8],
    "memory": ["24MiB", "17MiB"],
    "memory_max": ["48MiB", "32MiB"],
    "cpu_model": ["qemu64", "maximum", "Nehalem"],
    "cpu_baseline": [
        {"model": "Nehalem", "vendor": "Intel", "require": ["aes", "pcid"], "disable": ["sse4.2"]},
        {"model": "EPYC", "vendor": "AMD", "require": [], "disable": ["monitor", "sha-ni"]},
    ],
    "cpu_topology": [{"sockets": 2, "cores": 2, "threads": 2}, {"sockets": 1, "cores": 4, "threads": 2}],
    "machine": ["pc-i440fx-6.2", "pc-i440fx-7.1"],
    "boot": [["network"], ["cdrom", "disk", "network"], ["disk"]],
    "kernel": [
        {"kernel": "main/vmlinuz"},
        {"kernel": "main/vmlinuz", "initrd": "main/initrd.img", "arguments": "quiet <&>"},
        {"kernel": "main/initrd.img", "arguments": ""},
    ],
    "serial_console": [False, True],
    "vnc": [{"enabled": True}, {"listen": "0.0.0.0"}, {"listen": "::1", "password": "secret"}, {"password": "changed"}, {"enabled": False}],
    "video": ["vga", "virtio", "bochs", "qxl", "cirrus", "none"],
    "rng": [False, True],
    "watchdog": [{"action": "poweroff"}, {"model": "ib700", "action": "pause"}, {"action": "inject-nmi"}],
    "guest_agent": [False, True],
    "cloud_init": [
        {"user_data": "#cloud-config\n{}"},
        {"meta_data": "instance-id: 1"},
        {"network_config": "version: 2"},
        {"user_data": "#cloud-config\nother: 1"},
    ],
    "clock": ["localtime", "utc"],
    "on_poweroff": ["restart", "destroy"],
    "on_reboot": ["destroy", "restart"],
    "on_crash": ["restart", "destroy", "preserve", "coredump-destroy", "coredump-restart"],
    "autostart": [True, False],
    "disks.size": ["2MiB", "3MiB"],
    "disks.shareable": [True, False],
    "disks.read_only": [True, False],
    "disks.bus": ["sata", "scsi", "usb", "ide", "virtio"],
    "disks.cache": ["none", "writethrough", "writeback", "directsync", "unsafe", "default"],
    "disks.discard": ["unmap", "ignore"],
    "disks.serial": ["A1", "with blank", "x.y_z-1+2"],
    "cdroms.iso": ["cd2", "cd1", ""],
    "cdroms.bus": ["sata", "scsi", "usb", "ide"],
    "nics.network": [LAN, OTHER],
    "nics.bridge": ["virbr99", "br.test-1"],
    "nics.model": ["e1000", "e1000e", "rtl8139", "virtio"],
    "nics.mac": ["52:54:00:aa:00:01", "52:54:00:aa:00:02"],
    "nics.filter": ["clean-traffic", "no-mac-spoofing"],
    "nics.link": ["down", "up"],
    "disks.boot_index": [1, 2],
    "cdroms.boot_index": [5, 3],
    "nics.boot_index": [7, 4],
}
DISK = {"name": "root", "repository": "main", "size": "1MiB", "format": "raw"}
NIC = {"name": "eth0", "network": LAN}
CDROM = {"name": "cd", "iso": "cd1"}
FIRST = {"disks": DISK, "nics": NIC, "cdroms": CDROM}
# Every field that an object can be given at once; the creation-only ones of disks are in the tests of disks.
ALL_FIELDS: dict[str, Any] = {
    "description": "all of <it>",
    "tags": ["a", "b"],
    "ha": {"enabled": False, "priority": 3},
    "server_tags": ["ssd"],
    "anti_affinity": ["databases"],
    "cpu_group": "rack1",
    "cpus": 1,
    "cpus_max": 4,
    "memory": "16MiB",
    "memory_max": "32MiB",
    "cpu_model": "qemu64",
    "cpu_topology": {"sockets": 2, "cores": 2, "threads": 1},
    "firmware": "bios",
    "architecture": "x86_64",
    "virtualization": "qemu",
    "kernel": {"kernel": "main/vmlinuz", "initrd": "main/initrd.img", "arguments": "console=ttyS0"},
    "serial_console": True,
    "vnc": {"enabled": True, "listen": "127.0.0.1", "password": "secret"},
    "video": "vga",
    "rng": True,
    "watchdog": {"model": "i6300esb", "action": "reset"},
    "guest_agent": True,
    "cloud_init": {"user_data": "#cloud-config\n{}", "meta_data": "instance-id: 1", "network_config": "version: 2"},
    "clock": "localtime",
    "on_poweroff": "destroy",
    "on_reboot": "restart",
    "on_crash": "restart",
    "autostart": True,
    "disks": [
        {**DISK, "bus": "virtio", "cache": "none", "discard": "unmap", "serial": "A1", "shareable": True, "read_only": False, "sparse": False, "boot_index": 1},
        {"name": "usb", "template": "small", "bus": "usb", "clone": "thin"},
    ],
    "cdroms": [{"name": "cd", "iso": "cd1", "boot_index": 2}, {"name": "cd2", "iso": "", "bus": "scsi"}],
    "nics": [
        {"name": "eth0", "network": LAN, "model": "virtio", "mac": "52:54:00:aa:00:09", "link": "down", "boot_index": 3},
        {"name": "eth1", "network": OTHER, "model": "e1000", "filter": "clean-traffic"},
    ],
    "force_stop": True,
    "stop_timeout": 0,
}
# As much of a Linux kernel as QEMU looks at (Documentation/arch/x86/boot.rst): HdrS, protocol 2.12, loaded high, room for an initrd.
KERNEL = (bytes(0x1F1) + b"\1").ljust(0x202, b"\0") + b"HdrS\x0c\x02".ljust(15, b"\0") + b"\1".ljust(27, b"\0") + b"\xff\xff\xff\x7f".ljust(8192, b"\0")


@pytest.fixture(scope="module")
def furnished() -> Iterator[ServerUnderTest]:
    made = ServerUnderTest()
    (made.main / "Templates/vmlinuz").write_bytes(KERNEL)
    (made.main / "Templates/initrd.img").write_bytes(bytes(1024))
    yield made
    made.close()


def table() -> Iterator[tuple[str, Any]]:
    """All fields that a change may concern, the nested ones of devices as group.field."""
    for field in fields_of(VmSpec):
        if isinstance(field.type, Objects):
            yield from ((f"{field.name}.{inner.name}", inner) for inner in fields_of(field.type.spec))
        else:
            yield field.name, field


def test_every_field_is_here() -> None:
    changeable = {name for name, field in table() if CREATION != field.effect and field.compare != IGNORE and name.rpartition(".")[2] not in ("name", "state")}
    assert changeable == set(EDITS)
    for name, values in EDITS.items():
        kind = field_named(VmSpec, name).type if "." not in name else None
        if isinstance(kind, Object):
            assert {field.name for field in fields_of(kind.spec)} == {key for value in values for key in value}
    creation = {name for name, field in table() if field.effect == CREATION and "." not in name}
    assert creation <= set(ALL_FIELDS)


def edited(name: str, value: Any) -> dict[str, Any]:
    group, _, inner = name.partition(".")
    if not inner:
        return {name: value}
    return {group: [{"name": FIRST[group]["name"], inner: value}]}


def value_of(spec: Any, name: str) -> Any:
    group, _, inner = name.partition(".")
    return getattr(getattr(spec, group)[0], inner) if inner else getattr(spec, name)


@pytest.mark.parametrize("name", EDITS)
def test_a_field_is_written_and_read_back(name: str, server: ServerUnderTest) -> None:
    limits = {"cpus": 1, "cpus_max": 8, "memory_max": "32MiB"}
    group = name.partition(".")[0]
    before = server.vm(**{**SMALL, **limits, **({group: [FIRST[group]]} if group in FIRST else {})}, state="stopped")
    for value in EDITS[name]:
        found = server.vm(**edited(name, value))
        assert found.recorded is not None
        others = {key for key, entry in given(found.spec).items() if entry != getattr(before.spec, key)}
        with_it = {"boot_index": {"boot"}, "vnc": {"video"}, "cpu_baseline": {"cpu_model"}}.get(name.rpartition(".")[2], set())
        assert others <= {group} | with_it, "another field has changed, too"
        if name in ("memory", "memory_max", "disks.size"):
            assert f"{value_of(found.spec, name) >> 20}MiB" == value
        elif group not in ("vnc", "cloud_init", "watchdog", "kernel", "cpu_topology", "ha"):
            assert plain(value_of(found.spec, name)) == value
        before = found
    assert server.found().spec == before.spec


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_all_fields_at_once(machine: str, server: ServerUnderTest) -> None:
    found = server.vm(**ALL_FIELDS, machine=machine, state="running")
    assert found.state.state == "running" and found.running is found.spec
    for name, value in plain(found.spec).items():
        assert name in ALL_FIELDS or name in ("name", "machine"), f"{name} is there unasked"
        if isinstance(value, (str, int, bool)) and name not in ("name", "machine", "memory", "memory_max"):
            assert value == ALL_FIELDS[name]
    assert found.spec.machine.startswith({"pc": "pc-i440fx-", "q35": "pc-q35-"}[machine])
    again = server.vm(state="stopped")
    assert again.spec == found.spec and again.running is None
