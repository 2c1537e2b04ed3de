"""Random edits of one VM, as documents: each can be applied after the ones before it."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

NEXT_STATES = {
    "running": ("paused", "suspended", "stopped"),
    "paused": ("running", "suspended", "stopped"),
    "suspended": ("running", "paused", "stopped"),
    "stopped": ("running", "paused"),
}
MOST_DISKS, MOST_NICS = 5, 4
# A q35 machine has this many free ports when it starts.
MOST_PLUGGED = 5


@dataclasses.dataclass(frozen=True)
class Edit:
    """A document, and whether it takes devices from a running guest: then the guest decides what waits for a restart."""

    document: dict[str, Any]
    guest_decides: bool


def honest_edits(
    seed: int,
    count: int,
    vm: str,
    *,
    networks: Sequence[str],
    repository: str = "main",
    template: str | None = None,
    isos: Sequence[str] = (),
    detach: bool = True,
) -> Iterator[Edit]:
    """Yield `count` edits of a VM of this name, the first of which makes it; the same ones for the same seed.

    `networks` must be active, `template` an image of 1 MiB at most. Guests need no operating system: they are powered off.
    """
    editor = _Editor(random.Random(seed), vm, networks, repository, template, isos, detach)
    for number in range(count):
        yield editor.first() if number == 0 else editor.next()


class _Editor:
    """Remembers what the VM has, so that no edit is refused."""

    def __init__(
        self, chance: random.Random, vm: str, networks: Sequence[str], repository: str, template: str | None, isos: Sequence[str], detach: bool
    ) -> None:
        self.chance, self.vm, self.networks, self.repository, self.template, self.isos, self.detach = chance, vm, networks, repository, template, isos, detach
        self.state = "stopped"
        self.disks = {"root": 1}
        self.nics = ["lan0"]
        self.drives = ["cd"] if isos else []
        self.made = self.plugged = 0
        self.memory_max, self.cpus_max = 32, 4

    def first(self) -> Edit:
        """The VM itself."""
        values: dict[str, Any] = {"machine": self.chance.choice(("pc", "q35")), "cpus": 1, "cpus_max": self.cpus_max, "memory": "16MiB", "memory_max": "32MiB"}
        values |= {"disks": [{"name": "root", "repository": self.repository, "size": "1MiB"}], "nics": [{"name": "lan0", "network": self.networks[0]}]}
        values |= {"cdroms": [{"name": name, "iso": ""} for name in self.drives], "state": "stopped"}
        return self._edit(values, False)

    def next(self) -> Edit:
        """One to three changes, and now and then another run state."""
        edits: list[Callable[[], dict[str, Any]]] = [self._settings, self._settings, self._amounts, self._texts, self._disk, self._nic, self._drive, self._seed]
        values: dict[str, Any] = {}
        for edit in self.chance.sample(edits, self.chance.randint(1, 3)):
            values.update(edit())
        leaving = self._leave(values) if self.detach and self.chance.random() < 0.1 else False
        guest_decides = leaving and self.state in ("running", "paused")
        if self.chance.random() < 0.25:
            before, self.state = self.state, self.chance.choice(NEXT_STATES[self.state])
            values["state"] = self.state
            self.plugged = 0 if "stopped" in (before, self.state) else self.plugged
        return self._edit(values, guest_decides)

    def _edit(self, values: dict[str, Any], guest_decides: bool) -> Edit:
        return Edit({"vms": [{"name": self.vm, "force_stop": True, "stop_timeout": 0, **values}]}, guest_decides)

    def _name(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    def _settings(self) -> dict[str, Any]:
        choices: dict[str, Sequence[Any]] = {
            "on_reboot": ("restart", "destroy"),
            "on_crash": ("destroy", "restart", "preserve", "coredump-destroy"),
            "clock": ("utc", "localtime"),
            "serial_console": (True, False),
            "rng": (True, False),
            "guest_agent": (True, False),
            "autostart": (True, False),
            "video": ("none", "vga", "cirrus"),
            "cpu_model": ("qemu64", "Nehalem", "maximum"),
            "watchdog": ({"model": "i6300esb", "action": "reset"}, {"action": "poweroff"}, {"action": "none"}),
            "vnc": ({"enabled": True}, {"enabled": False}, {"enabled": True, "listen": "127.0.0.1"}, {"enabled": True, "password": self._name("p")[:8]}),
            "boot": (["disk"], ["network", "disk"], ["disk", "network"]),
        }
        name = self.chance.choice(sorted(choices))
        return {name: self.chance.choice(choices[name])}

    def _amounts(self) -> dict[str, Any]:
        if self.chance.random() < 0.3:
            self.memory_max, self.cpus_max = self.chance.choice((32, 48, 64)), self.chance.choice((4, 6, 8))
            return {
                "memory_max": f"{self.memory_max}MiB",
                "cpus_max": self.cpus_max,
                "memory": f"{self.chance.randint(12, 32)}MiB",
                "cpus": self.chance.randint(1, 4),
            }
        return self.chance.choice(({"memory": f"{self.chance.randint(12, self.memory_max)}MiB"}, {"cpus": self.chance.randint(1, self.cpus_max)}))

    def _texts(self) -> dict[str, Any]:
        if self.chance.random() < 0.5:
            return {"tags": self.chance.sample(["web", "db", "a.b", "x_y", "prod"], self.chance.randint(0, 3))}
        return {"description": self.chance.choice(["", "plain", "<&>\"'", "two\nlines", "]]>", "ünïcode 🙂"])}

    def _disk(self) -> dict[str, Any]:
        if len(self.disks) < MOST_DISKS and self.plugged < MOST_PLUGGED and self.chance.random() < 0.5:
            name = self._name("disk")
            self.disks[name] = 1
            self.plugged += self.state != "stopped"
            disk = {"name": name, "bus": self.chance.choice(("virtio", "virtio", "scsi", "usb")), "cache": self.chance.choice(("default", "none", "writeback"))}
            source = {"template": self.template} if self.template and self.chance.random() < 0.5 else {"repository": self.repository, "size": "1MiB"}
            return {"disks": [{**disk, **source}]}
        name = self.chance.choice(sorted(self.disks))
        if self.chance.random() < 0.5:
            self.disks[name] += self.chance.randint(0, 2)
            return {"disks": [{"name": name, "size": f"{self.disks[name]}MiB"}]}
        edits = ({"cache": "none"}, {"cache": "default"}, {"discard": "unmap"}, {"serial": self._name("S")}, {"bus": "virtio"}, {"bus": "scsi"})
        return {"disks": [{"name": name, **self.chance.choice(edits)}]}

    def _nic(self) -> dict[str, Any]:
        if len(self.nics) < MOST_NICS and self.plugged < MOST_PLUGGED and self.chance.random() < 0.4:
            self.nics.append(self._name("lan"))
            self.plugged += self.state != "stopped"
            return {
                "nics": [{"name": self.nics[-1], "network": self.chance.choice(self.networks), "model": self.chance.choice(("virtio", "e1000", "rtl8139"))}]
            }
        # Another run with the same seed, whose VM has another name, must not get the same addresses.
        mac = ":".join(["52", *(f"{self.chance.randrange(256) ^ own:02x}" for own in hashlib.sha256(self.vm.encode()).digest()[:5])])
        edits = ({"link": "down"}, {"link": "up"}, {"network": self.chance.choice(self.networks)}, {"model": "virtio"}, {"model": "e1000"}, {"mac": mac})
        return {"nics": [{"name": self.chance.choice(self.nics), **self.chance.choice(edits)}]}

    def _drive(self) -> dict[str, Any]:
        return {"cdroms": [{"name": name, "iso": self.chance.choice(["", *self.isos])} for name in self.drives]}

    def _seed(self) -> dict[str, Any]:
        return (
            {"cloud_init": {self.chance.choice(("user_data", "meta_data")): f"#cloud-config\n# {self._name('seed')}\n"}} if self.chance.random() < 0.3 else {}
        )

    def _leave(self, values: dict[str, Any]) -> bool:
        """Take away one disk or NIC that is not the first, and is not otherwise changed by this edit."""
        disks, nics = sorted(set(self.disks) - {"root"}), self.nics[1:]
        if not disks + nics or "disks" in values or "nics" in values:
            return False
        gone = self.chance.choice(disks + nics)
        if gone in disks:
            self.disks.pop(gone)
        else:
            self.nics.remove(gone)
        values.update(
            {
                "exact": True,
                "disks": [{"name": name} for name in self.disks],
                "nics": [{"name": name} for name in self.nics],
                "cdroms": [{"name": name} for name in self.drives],
            }
        )
        return True
