"""A cgroup for each host in every hierarchy: its processes are counted, frozen and killed as one, and hosts do not fight over the same groups."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from .commands import mounts, wait_until

TOP = "domus-hosts"
# Moves itself into the groups that are named before `--`, then becomes the command after it.
ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'


def hierarchies() -> list[tuple[Path, str]]:
    """Where cgroup hierarchies are mounted on this machine, each with its type: `cgroup` (version 1) or `cgroup2`."""
    rows = [line.split() for line in mounts()]
    return list({Path(row[1]): row[2] for row in rows if row[2] in ("cgroup", "cgroup2")}.items())


class Group:
    """The groups of one host (or, without a host, of a whole lab)."""

    def __init__(self, *path: str) -> None:
        self.path = Path(TOP, *path)
        self.places = [root / self.path for root, _ in hierarchies()]

    def make(self) -> None:
        """Make them; a cpuset gets the processors and memory of its parent."""
        for root, _ in hierarchies():
            place = root
            for part in self.path.parts:
                above, place = place, place / part
                place.mkdir(exist_ok=True)
                if (place / "cpuset.mems").exists() and (above / "cpuset.mems").exists() and not (place / "tasks").read_text():
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        (place / name).write_text((above / name).read_text())
                    (place / "cgroup.clone_children").write_text("1")

    def command(self, *command: str) -> list[str]:
        """The command, run inside."""
        return ["sh", "-c", ENTER, "enter", *map(str, self.places), "--", *command]

    def pids(self) -> set[int]:
        """All processes inside, at any depth."""
        found: set[int] = set()
        for place in self.places:
            # Groups inside come and go meanwhile.
            for directory, _, _ in os.walk(place):
                with contextlib.suppress(OSError):
                    found |= {int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()}
        return found - {0}

    def freeze(self, frozen: bool) -> None:
        """Stop all processes where they are, or let them go on."""
        wanted = "FROZEN" if frozen else "THAWED"
        old = [Path(directory, "freezer.state") for place in self.places for directory, _, files in os.walk(place) if "freezer.state" in files]
        for state in old:
            state.write_text(wanted)
        if not old:
            for place in self.places:
                (place / "cgroup.freeze").write_text("1" if frozen else "0")
        wait_until(lambda: all(state.read_text().strip() == wanted for state in old), 10, f"{self.path} becoming {wanted}")

    def kill(self) -> None:
        """End every process inside at once, frozen or not."""
        if not self.pids():
            return
        wait_until(self._killed, 20, f"the processes of {self.path} ending")

    def remove(self) -> None:
        """Kill what is inside and remove the groups."""
        self.kill()
        wait_until(self._removed, 20, f"the cgroups of {self.path} going away")

    def _killed(self) -> bool:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A frozen process of version 1 dies only after it is thawed.
        with contextlib.suppress(OSError):
            self.freeze(False)
        return not self.pids()

    def _removed(self) -> bool:
        for place in self.places:
            for directory, _, _ in os.walk(place, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        return not any(place.exists() for place in self.places)
