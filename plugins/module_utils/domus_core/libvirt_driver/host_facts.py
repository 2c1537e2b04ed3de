"""The server's hardware and system, as its kernel tells them in /sys and /proc: names and numbers it knows already, so that no device is asked."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from typing import Any, Callable, Optional

from ..errors import Unreachable
from .bounded import bounded

LIMIT = 5.0
# More than any server has; what is beyond is somebody's test of ours.
MOST = 1000
SECTOR = 512
# Disks that are only seen through others, or made of memory.
_NO_DISK = re.compile(r"(loop|ram|zram|sr|fd|nbd)[0-9]")
# What QEMU and libvirt make for VMs comes and goes.
_OF_VMS = re.compile(r"(vnet|tap|macvtap)[0-9]+")
_reading = threading.Lock()


def read_host(root: str = "/") -> dict[str, Any]:
    """What there is, sizes in bytes and speeds in Mbit/s; None stands for what the kernel does not tell.

    A part that does not answer within 5 seconds (a driver that hangs) leaves all out. Raises nothing.
    """
    if not _reading.acquire(blocking=False):  # an earlier question has had no answer yet
        return {}
    try:
        return dict(bounded(lambda: _released(root), LIMIT, "reading what this server is made of"))
    except (Unreachable, OSError):
        return {}


def _released(root: str) -> dict[str, Any]:
    try:
        return _Kernel(root).read()
    finally:
        _reading.release()


class _Kernel:
    """The files of one root; a file that is missing, or not to be read now, tells nothing."""

    def __init__(self, root: str) -> None:
        self._root = root

    def read(self) -> dict[str, Any]:
        return {
            "node": self._text("proc/sys/kernel/hostname"),
            "kernel": self._text("proc/sys/kernel/osrelease"),
            "distribution": self._distribution(),
            "booted_at": self._booted_at(),
            "machine": self._machine(),
            "block_devices": self._each("sys/block", self._block_device),
            "interfaces": self._each("sys/class/net", self._interface),
            "addresses": self._addresses(),
            "huge_pages": self._huge_pages(),
        }

    def _distribution(self) -> Optional[str]:
        for path in ("etc/os-release", "usr/lib/os-release"):
            for line in (self._text(path) or "").splitlines():
                name, dummy, value = line.partition("=")
                if name == "PRETTY_NAME":
                    return value.strip("\"'")
        return None

    def _booted_at(self) -> Optional[int]:
        """Seconds since 1970; to the minute, since the kernel computes it anew from its clock."""
        for line in (self._text("proc/stat") or "").splitlines():
            if line.startswith("btime "):
                return int(line.split()[1]) // 60 * 60
        return None

    def _machine(self) -> dict[str, Optional[str]]:
        return {
            name: self._text(f"sys/class/dmi/id/{file}") for name, file in (("vendor", "sys_vendor"), ("product", "product_name"), ("bios", "bios_version"))
        }

    def _block_device(self, name: str) -> Optional[dict[str, Any]]:
        place = f"sys/block/{name}"
        sectors = self._number(f"{place}/size")
        if _NO_DISK.match(name) or not sectors:
            return None
        below = self._names(f"{place}/slaves")
        return {
            "name": name,
            "size": sectors * SECTOR,
            "rotational": self._flag(f"{place}/queue/rotational"),
            "read_only": self._flag(f"{place}/ro"),
            "removable": self._flag(f"{place}/removable"),
            "model": self._text(f"{place}/device/model"),
            "vendor": self._text(f"{place}/device/vendor"),
            "serial": self._text(f"{place}/serial") or self._text(f"{place}/device/serial"),
            "wwn": self._text(f"{place}/wwid") or self._text(f"{place}/device/wwid"),
            "kind": self._text(f"{place}/dm/uuid") or self._text(f"{place}/md/level") or "disk",
            "made_of": below,
        }

    def _interface(self, name: str) -> Optional[dict[str, Any]]:
        place = f"sys/class/net/{name}"
        if name == "lo" or _OF_VMS.fullmatch(name) or not os.path.isdir(os.path.join(self._root, place)):
            return None
        up = self._text(f"{place}/operstate") == "up" or self._number(f"{place}/carrier") == 1
        speed = self._number(f"{place}/speed") if up else None
        return {
            "name": name,
            "kind": self._kind(name),
            "mac": self._text(f"{place}/address"),
            # In a bond every card shows the bond's; a sleeping one waits for its own.
            "own_mac": self._text(f"{place}/bonding_slave/perm_hwaddr") or self._text(f"{place}/address"),
            "wakes": self._enabled(f"{place}/device/power/wakeup"),
            "mtu": self._number(f"{place}/mtu"),
            "link": up,
            "speed": speed if speed is not None and speed > 0 else None,
            "driver": self._target(f"{place}/device/driver"),
            "master": self._target(f"{place}/master"),
            "ports": [one for one in self._ports(name) if not _OF_VMS.fullmatch(one)],
        }

    def _addresses(self) -> list[str]:
        """The server's own addresses, but for those that only it can reach: loopback and link-local ones."""
        found: set[str] = set()
        before = ""
        for line in (self._text("proc/net/fib_trie") or "").splitlines():
            if "/32 host LOCAL" in line:
                found.add(before.split()[-1])
            before = line
        for line in (self._text("proc/net/if_inet6") or "").splitlines():
            found.add(str(ipaddress.IPv6Address(int(line.split()[0], 16))))
        addresses = [ipaddress.ip_address(one) for one in found]
        return [str(one) for one in sorted(addresses, key=lambda one: (one.version, int(one))) if not one.is_loopback and not one.is_link_local]

    def _kind(self, name: str) -> str:
        place = f"sys/class/net/{name}"
        for kind, file in (("bridge", "bridge"), ("bond", "bonding"), ("wireless", "wireless"), ("physical", "device")):
            if os.path.isdir(os.path.join(self._root, place, file)):
                return kind
        return "vlan" if "DEVTYPE=vlan" in (self._text(f"{place}/uevent") or "").split() else "virtual"

    def _ports(self, name: str) -> list[str]:
        bonded = (self._text(f"sys/class/net/{name}/bonding/slaves") or "").split()
        return bonded or self._names(f"sys/class/net/{name}/brif")

    def _huge_pages(self) -> list[dict[str, Any]]:
        """What is set aside in each NUMA cell: {cell, size, total}; what is free changes with every VM."""
        found = []
        for cell in self._names("sys/devices/system/node"):
            number = re.fullmatch(r"node([0-9]+)", cell)
            for pool in self._names(f"sys/devices/system/node/{cell}/hugepages") if number else ():
                size = re.fullmatch(r"hugepages-([0-9]+)kB", pool)
                total = self._number(f"sys/devices/system/node/{cell}/hugepages/{pool}/nr_hugepages")
                if number and size and total:
                    found.append({"cell": int(number[1]), "size": int(size[1]) * 1024, "total": total})
        return found

    def _each(self, directory: str, read: Callable[[str], Optional[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [found for found in map(read, self._names(directory)) if found is not None]

    def _names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self._root, directory)), key=_by_number)[:MOST]
        except OSError:
            return []

    def _text(self, path: str) -> Optional[str]:
        try:
            with open(os.path.join(self._root, path), encoding="utf-8", errors="replace") as file:
                return file.read(65536).replace("\0", "").strip() or None
        except OSError:
            return None

    def _number(self, path: str) -> Optional[int]:
        text = self._text(path) or ""
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None

    def _enabled(self, path: str) -> Optional[bool]:
        return {"enabled": True, "disabled": False}.get(self._text(path) or "")

    def _flag(self, path: str) -> Optional[bool]:
        number = self._number(path)
        return None if number is None else bool(number)

    def _target(self, path: str) -> Optional[str]:
        try:
            return os.path.basename(os.readlink(os.path.join(self._root, path)))
        except OSError:
            return None


def _by_number(name: str) -> list[Any]:
    """eth2 before eth10."""
    return [int(part) if position % 2 else part for position, part in enumerate(re.split(r"([0-9]+)", name))]
