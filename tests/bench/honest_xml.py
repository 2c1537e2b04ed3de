"""Random edits of a domain as the XML that a person writes: for the peer of `honest`."""

from __future__ import annotations

import random
from typing import Any

from domus_core.libvirt_driver.xml_fields import add, etree, put

REBOOT, CRASH = ("destroy", "restart"), ("destroy", "restart", "preserve")
CACHES = ("none", "writeback", "unsafe", "writethrough")
MODELS = ("virtio", "e1000", "rtl8139")
# One edit in five is none: whoever applies again what is there already must be told that nothing changes.
NOTHING = 0.2


class XmlEdits:
    """Edits of one domain; the same seed makes the same edits."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.values: dict[str, Any] = {"description": "first", "cpus": 1, "memory": 16, "clock": "utc", "on_reboot": "restart", "on_crash": "destroy"}
        self.values |= {"rng": True, "watchdog": "reset", "cache": "none", "model": "virtio", "link": "up"}

    def next(self) -> None:
        """Make the next edit."""
        if self.random.random() < NOTHING:
            return
        name = self.random.choice(list(self.values))
        choices = [value for value in self._choices(name) if value != self.values[name]]
        self.values = {**self.values, name: self.random.choice(choices)}

    def _choices(self, name: str) -> tuple[Any, ...]:
        if name == "description":
            return (f"text {self.random.randrange(1 << 30)}", f"<text> & {self.random.randrange(1 << 30)}")
        known: dict[str, tuple[Any, ...]] = {
            "cpus": (1, 2, 3, 4),
            "memory": (16, 20, 24, 32),
            "clock": ("utc", "localtime"),
            "on_reboot": REBOOT,
            "on_crash": CRASH,
            "rng": (True, False),
            "watchdog": ("reset", "poweroff", "none"),
            "cache": CACHES,
            "model": MODELS,
            "link": ("up", "down"),
        }
        return known[name]

    def xml(self, network: str, disk: str) -> str:
        """The domain as it is wanted now; what libvirt fills in by itself is left to libvirt."""
        values = self.values
        root = etree.Element("domain", type="qemu")
        for tag, text in (("name", self.name), ("description", values["description"])):
            add(root, tag, text)
        add(root, "memory", "32", unit="MiB")
        add(root, "currentMemory", str(values["memory"]), unit="MiB")
        add(root, "vcpu", "4", current=str(values["cpus"]))
        add(add(root, "os"), "type", "hvm", arch="x86_64", machine="pc")
        add(root, "clock", offset=values["clock"])
        for tag in ("on_reboot", "on_crash"):
            add(root, tag, values[tag])
        devices = add(root, "devices")
        element = add(devices, "disk", type="file", device="disk")
        add(element, "driver", name="qemu", type="qcow2", cache=values["cache"])
        add(element, "source", file=disk)
        add(element, "target", dev="vda", bus="virtio")
        nic = add(devices, "interface", type="network")
        add(nic, "mac", address="52:54:00:bb:00:01")
        add(nic, "source", network=network)
        add(nic, "model", type=values["model"])
        add(nic, "link", state=values["link"])
        add(devices, "watchdog", model="i6300esb", action=values["watchdog"])
        if values["rng"]:
            put(add(devices, "rng", model="virtio"), "./backend/@model", "random")
            put(devices, "./rng/backend", "/dev/urandom")
        return str(etree.tostring(root, encoding="unicode"))
