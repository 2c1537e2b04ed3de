"""An independent watcher of a pool: it sees the QEMU processes of all hosts as this machine's kernel has them, whatever the hosts believe of themselves."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.2
# How long a VM may be off before somebody must say why.
SILENCE = 30.0


@dataclass(frozen=True)
class Life:
    """One process that is a VM's QEMU, on one host."""

    vm: str
    host: str
    pid: int
    started: str


class Watcher:
    """Samples until it is closed; `violations` must stay empty.

    `victims` are hosts that a test harms: VMs there may end. `excused` are VMs that a test ends. `expected` are VMs that are to run.
    """

    def __init__(self, lab: str, disks: Path, names: dict[str, str], alerts: Callable[[], Iterable[str]]) -> None:
        self.violations: list[str] = []
        self.victims: set[str] = set()
        self.excused: set[str] = set()
        self.expected: set[str] = set()
        self.samples = 0
        # Seconds that an expected VM may be off before somebody must say why.
        self.silence = SILENCE
        # The disks that each process has open for writing, as sampled last.
        self.writers: dict[Life, set[str]] = {}
        self._lab, self._disks, self._names, self._alerts = lab, disks, names, alerts
        self._alive: dict[Life, float] = {}
        # Who has had a disk open for writing: one that still waits for its migration is no VM yet.
        self._wrote: set[Life] = set()
        # Where the VM ran that a process was made for to take it over: when that host dies before all is handed over, libvirt ends the process.
        self._source: dict[Life, str] = {}
        self._last: dict[str, float] = {}
        self._end = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._sample, self._ask)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it."""
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def lives(self, vm: str) -> list[Life]:
        """The VM's processes now."""
        return [life for life in list(self._alive) if life.vm == vm]

    def everything(self) -> set[Life]:
        """All processes now."""
        return set(self._alive)

    def running(self) -> dict[str, str]:
        """Which VM runs on which host now; one that runs on two has both, as in `h1+h2`."""
        places: dict[str, str] = {}
        for life in sorted(self._alive, key=lambda life: life.host):
            places[life.vm] = f"{places[life.vm]}+{life.host}" if life.vm in places else life.host
        return places

    # -- processes and disks

    def _sample(self) -> None:
        while not self._end.wait(EVERY):
            try:
                found = {life: disks for life in self._processes() if (disks := self._written(life)) is not None}
                self._wrote |= {life for life, disks in found.items() if disks}
                self._compare(set(found))
                self._look_for_two_writers(found)
                self.writers = found
                self.samples += 1
            except Exception as error:  # a watcher that died unseen would prove everything
                self._violated(f"the watcher failed: {type(error).__name__}: {error}")

    def _processes(self) -> list[Life]:
        lives = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    life = self._life(entry)
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if life is not None:
                    lives.append(life)
        return lives

    def _life(self, entry: str) -> Life | None:
        place = Path("/proc", entry)
        if not (place / "comm").read_bytes().startswith(b"qemu-system"):
            return None
        host = re.search(rf"/domus-hosts/{self._lab}/([^/\n]+)", (place / "cgroup").read_text())
        uuid = re.search(rb"\0-uuid\0([0-9a-f-]{36})\0", (place / "cmdline").read_bytes())
        if host is None or uuid is None:
            return None
        return Life(self._names.get(uuid[1].decode(), uuid[1].decode()), host[1], int(entry), _started(place))

    def _written(self, life: Life) -> set[str] | None:
        """The disks that a process has open for writing; None when it is gone."""
        known = {(status.st_dev, status.st_ino): path.name for path in self._disks.iterdir() for status in [path.stat()]}
        disks, place = set(), Path("/proc", str(life.pid))
        try:
            for name in os.listdir(place / "fd"):
                try:
                    status = os.stat(place / "fd" / name)
                    disk = known.get((status.st_dev, status.st_ino))
                    if disk and int(re.search(r"flags:\s*(\d+)", (place / "fdinfo" / name).read_text())[1], 8) & 3:  # type: ignore[index]
                        disks.add(disk)
                except FileNotFoundError:
                    continue
            return disks if _started(place) == life.started else None
        except (FileNotFoundError, ProcessLookupError):
            return None

    def _look_for_two_writers(self, found: dict[Life, set[str]]) -> None:
        """Processes are looked at one after the other, and a migration hands a disk over: who wrote first must still do when the other is seen."""
        for first in found:
            for second in found:
                for disk in found[first] & found[second] if first.host < second.host else ():
                    again = [self._written(life) or set() for life in (first, second, first, second)]
                    if all(disk in written for written in again):
                        self._violated(f"{disk} is open for writing on {first.host} and on {second.host}")

    def _compare(self, now: set[Life]) -> None:
        moment = time.monotonic()
        ended = [life for life in self._alive if life not in now]
        for life, other in itertools.product(now - set(self._alive), self._alive):
            if life.vm == other.vm:
                self._source[life] = other.host
        self._alive = {life: self._alive.get(life, moment) for life in now}
        there = {life.vm for life in now}
        for life in ended:
            harmed = {life.host, self._source.get(life)} & self.victims
            if life in self._wrote and life.vm not in there and not harmed and life.vm not in self.excused:
                self._violated(f"{life.vm} ended on {life.host}, which nobody had harmed")
        for vm in there:
            self._last[vm] = moment

    # -- whoever is off

    def _ask(self) -> None:
        while not self._end.wait(5):
            late = [vm for vm in self.expected if time.monotonic() - self._last.get(vm, time.monotonic()) > self.silence]
            if late and not list(self._alerts()) and all(vm not in self.running() for vm in late):
                self._violated(f"{', '.join(late)}: off for more than {self.silence:g} s, and nobody says so")

    def _violated(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)


def _started(place: Path) -> str:
    return (place / "stat").read_text().rpartition(") ")[2].split()[19]
