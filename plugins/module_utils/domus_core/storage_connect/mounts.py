"""Mounts of this server: what the kernel lists, and what it takes to add one and to take it away.

Where systemd runs, a mount is a unit: made by the system and not by us, it outlives the agent, is seen by QEMU whatever namespace we work
in, and is there again after a boot before libvirt starts its VMs. Elsewhere it is mount(8).
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import socket
from collections.abc import Iterable, Sequence
from typing import Optional

from ..errors import DomusError, Unreachable
from ..libvirt_driver.registry import write_atomically
from ..libvirt_driver.tools import explain, run

UNITS = "/etc/systemd/system"
SECONDS = 105.0
MOUNT_SECONDS = 90
KNOCK_SECONDS = 5.0
MADE_BY = "# Made by Domus, and made anew by it."


@dataclasses.dataclass(frozen=True)
class Mount:
    """One mounted file system: where, what, and of which type."""

    path: str
    source: str
    file_system: str


class Host:
    """What is asked and done of the operating system; tests have another."""

    def mounts(self) -> list[Mount]:
        """What is mounted now; touches no file system."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return parse_mounts(file)

    def lease(self, path: str) -> Optional[int]:
        """After how many seconds an NFS server drops the locks of a client that died, or None; touches no file system."""
        with open("/proc/self/mountstats", encoding="utf-8", errors="surrogateescape") as file:
            return parse_lease(file, path)

    def knock(self, server: str, port: int) -> None:
        """See whether anybody listens there. Raises Unreachable."""
        try:
            socket.create_connection((server, port), KNOCK_SECONDS).close()
        except OSError as error:
            raise Unreachable(
                f"NFS server {server} does not answer on port {port}: {error.strerror or error}",
                field="nfs.server",
                value=server,
                remedy="Is it up, and does its name resolve here? Is a firewall in between?",
            ) from None

    def mount(self, mount: Mount, options: str, description: str) -> None:
        """Mount it, now and at each boot. Raises DomusError."""
        if not _has_systemd():
            if mounted_on(mount.path, self.mounts()) is None:
                run(("mount", "-t", mount.file_system, "-o", options, mount.source, mount.path), timeout=SECONDS, what=_what(mount))
            return
        unit = unit_name(mount.path)
        _systemctl("stop", _ender(mount.path), quietly=True)
        try:
            write_atomically(os.path.join(UNITS, unit), unit_text(mount, options, description).encode())
        except OSError as error:
            raise explain(error, f"writing {unit}", os.path.join(UNITS, unit)) from None
        _systemctl("daemon-reload")
        _systemctl("enable", unit)
        self._start(unit, mount)

    def _start(self, unit: str, mount: Mount) -> None:
        _systemctl("reset-failed", unit, quietly=True)
        try:
            _systemctl("start", unit)
        except DomusError as error:
            error.message = f"{_what(mount)} failed: {_reason(unit) or error.message}"
            raise

    def remount(self, path: str) -> bool:
        """Have a unit that was made before try again, without waiting; False where there is no such unit."""
        if not _has_systemd() or not os.path.exists(os.path.join(UNITS, unit_name(path))):
            return False
        _systemctl("reset-failed", unit_name(path), quietly=True)
        _systemctl("--no-block", "start", unit_name(path))
        return True

    def unmount(self, path: str, *, force: bool) -> bool:
        """Take it away, now and for later boots, with `force` although its server does not answer; may its folder go now? Else it goes a while later.

        Raises DomusError.
        """
        mounted = any(mount.path == path for mount in self.mounts())
        if not _has_systemd():
            if mounted:
                run(("umount", *_FORCE[force], path), timeout=SECONDS, what=f"unmounting {path}")
            return True
        unit = unit_name(path)
        if mounted and force:
            _keep_ending(path)
            # By the system itself: this process may not, and sees a copy of the mount only.
            run(("systemd-run", "--quiet", "--wait", "--collect", "umount", *_FORCE[force], path), timeout=SECONDS, what=f"unmounting {path}")
        elif mounted:
            try:
                _systemctl("stop", unit)
            except DomusError as error:
                error.message = f"unmounting {path} failed: {_reason(unit) or error.message}"
                raise
        self._forget(unit)
        return not (mounted and force)

    def _forget(self, unit: str) -> None:
        path = os.path.join(UNITS, unit)
        if os.path.exists(path):
            _systemctl("disable", unit)
            os.unlink(path)
            _systemctl("daemon-reload")
        _systemctl("reset-failed", unit, quietly=True)


# -i: the helper of NFS would ask the server; -f ends what waits for it; -l takes the mount away though it is in use.
_FORCE: dict[bool, tuple[str, ...]] = {False: (), True: ("-i", "-f", "-l")}


# What a QEMU that is killed still asks comes after what umount(8) ended, and waits for ever: a dying process heeds no signal. So the requests are ended again
# and again, by a copy of the mount in a namespace of its own: there it is there still, once it is away for everybody else, as long as its folder is.
ENDING_SECONDS = 240


def _keep_ending(path: str) -> None:
    """Have all that is asked of a file server that is gone fail, for as long as it takes to kill the VMs that had their disks there; then the folder goes."""
    _systemctl("stop", _ender(path), quietly=True)
    place = shlex.quote(path)
    again = f"while sleep 1\ndo unshare --mount --propagation private umount -i -f {place}\ndone"
    # The folder goes in the namespace of everybody else, where something may be mounted on it by then.
    script = f"timeout {ENDING_SECONDS} sh -c {shlex.quote(again)}\nnsenter --target 1 --mount rmdir {place}"
    service = (f"--unit={_ender(path)}", "--property=Type=exec", "--property=MountFlags=private")
    run(("systemd-run", "--quiet", "--collect", *service, "/bin/sh", "-c", script), timeout=SECONDS, what=f"ending what waits for {path}")


def _ender(path: str) -> str:
    return f"domus-gone-{unit_name(path).removesuffix('.mount')}.service"


def _has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def _what(mount: Mount) -> str:
    return f"mounting {mount.source} on {mount.path}"


def _systemctl(*arguments: str, quietly: bool = False) -> None:
    try:
        run(("systemctl", "--no-ask-password", *arguments), timeout=SECONDS, what=f"systemctl {' '.join(arguments)}")
    except DomusError:
        if not quietly:
            raise


def _reason(unit: str) -> str:
    """What mount(8) or umount(8) said: systemctl only tells that it failed."""
    command = ("journalctl", "--unit", unit, "--identifier", "mount", "--identifier", "umount", "--lines", "1", "--output", "cat", "--no-pager", "--quiet")
    try:
        return run(command, timeout=10.0, what="reading the journal").strip()
    except DomusError:
        return ""


def unit_name(path: str) -> str:
    """The name of the unit that mounts on this path (systemd.unit(5), as systemd-escape --path does)."""
    escaped = []
    for position, byte in enumerate(os.fsencode(path.strip("/"))):
        character = chr(byte)
        if character == "/":
            escaped.append("-")
        elif re.fullmatch(r"[A-Za-z0-9:_.]", character) and not (character == "." and position == 0):
            escaped.append(character)
        else:
            escaped.append(f"\\x{byte:02x}")
    return "".join(escaped) + ".mount"


def unit_text(mount: Mount, options: str, description: str) -> str:
    """The unit: there before libvirt starts VMs at boot, and nothing waits for it that does not need it."""
    what, where, about = (text.replace("%", "%%") for text in (mount.source, mount.path, description))
    return f"""{MADE_BY}
[Unit]
Description={about}
Before=libvirtd.service virtqemud.service libvirt-guests.service

[Mount]
What={what}
Where={where}
Type={mount.file_system}
Options={options},_netdev
TimeoutSec={MOUNT_SECONDS}

[Install]
WantedBy=remote-fs.target
"""


def parse_mounts(lines: Iterable[str]) -> list[Mount]:
    """The mounts in the lines of /proc/self/mountinfo (proc(5)), the last one of a path on top."""
    mounts = []
    for line in lines:
        left, dummy, right = line.partition(" - ")
        fields, rest = left.split(), right.split()
        if len(fields) > 4 and len(rest) > 1:
            mounts.append(Mount(_unescaped(fields[4]), _unescaped(rest[1]), rest[0]))
    return mounts


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def parse_lease(lines: Iterable[str], path: str) -> Optional[int]:
    """The lease time of the NFSv4 mount on this path in the lines of /proc/self/mountstats, or None."""
    inside = False
    for line in lines:
        if line.startswith("device "):
            inside = f" mounted on {path} with fstype " in line
        elif inside and (found := re.search(r"\blease_time=(\d+)", line)):
            return int(found[1])
    return None


def mounted_on(path: str, mounts: Sequence[Mount]) -> Optional[Mount]:
    """What is mounted exactly there, or None."""
    return next((mount for mount in reversed(mounts) if mount.path == path), None)


def holding(path: str, mounts: Sequence[Mount]) -> Optional[Mount]:
    """The mount that a path lies in."""
    inside = [mount for mount in mounts if mount.path == "/" or f"{path}/".startswith(f"{mount.path}/")]
    return max(inside, key=lambda mount: len(mount.path), default=None)
