"""A libvirtd of the tests' own, in namespaces of its own: it can be stopped and killed while the machine's stays as it is.

Its processes see other /run, /etc/libvirt, /var/lib/libvirt, /var/cache/libvirt and /var/log/libvirt, an empty network and only
each other. Clients outside reach it by its socket, and image files lie where everybody sees them. All its processes end with the
one that made it, however that ends; the directory of such a run is removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .leftovers import Place

PREFIX = "domus-libvirtd-"
PRIVATE = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt", "run": "/run"}
SETTINGS = {
    "libvirtd.conf": 'unix_sock_group = "root"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n',
    "qemu.conf": 'security_driver = "none"\ncgroup_controllers = []\nnamespaces = []\n',
    "virtlogd.conf": "",
}
PROGRAMS = {
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "dnsmasq": "dnsmasq-base",
}
# The first process reaps orphans, because it ignores SIGCHLD, and does nothing else.
# /dev/kvm is hidden, because it may be there and not work; then libvirt asks QEMU again and again.
FIRST = """set -e
[ ! -e /dev/kvm ] || mount --bind "$0" /dev/kvm
mount -t sysfs sysfs /sys
ip link set lo up
while [ "$#" -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
exec env --ignore-signal=CHLD sleep infinity
"""
PATIENCE = 30.0


class PrivateLibvirtd:
    """A libvirtd that can be started, stopped, killed and restarted; `tmpfs` are file systems of limited size: name to size as in mount(8)."""

    def __init__(self, tmpfs: Mapping[str, str] | None = None) -> None:
        _require_programs()
        self._place = Place(PREFIX)
        self.directory = self._place.directory
        for name, size in (tmpfs or {}).items():
            (self.directory / name).mkdir()
            _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(self.directory / name))
        self._fill()
        self.namespace = self._enter_namespaces()
        self.run("virtlogd", "-d")
        self.start()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / "run" / "libvirt" / "libvirt-sock"

    @property
    def uri(self) -> str:
        """The libvirt URI that leads to it, from outside."""
        return f"qemu:///system?socket={self.socket}"

    def start(self) -> None:
        """Start libvirtd; return when it answers."""
        self.run("libvirtd", "-d")

    def stop(self) -> None:
        """End libvirtd as an administrator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End libvirtd without a warning; its guests go on."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop libvirtd and start it again."""
        self.stop()
        self.start()

    def run(self, *command: str) -> str:
        """Run a command inside and return what it says."""
        return _run("nsenter", "--target", str(self.namespace), "--mount", "--net", "--pid", "--", *command)

    def virsh(self, *command: str) -> str:
        """Ask virsh."""
        return _run("virsh", "--connect", self.uri, *command).strip()

    def clear(self) -> None:
        """Take all domains and networks away."""
        for name in self.virsh("list", "--name").split():
            try:
                self.virsh("destroy", name)
            except AssertionError as error:  # its QEMU has ended meanwhile
                if "domain is not running" not in str(error):
                    raise
        for name in self.virsh("list", "--all", "--name").split():
            self.virsh("undefine", name, "--managed-save", "--snapshots-metadata", "--nvram")
        for name in self.virsh("net-list", "--name").split():
            self.virsh("net-destroy", name)
        for name in self.virsh("net-list", "--all", "--name").split():
            self.virsh("net-undefine", name)

    def processes(self, program: str) -> list[int]:
        """The process ids, as seen from outside, of the processes inside that run a program (comm(5) has 15 characters)."""
        return [pid for pid in _inside(self.namespace) if _comm(pid) == program[:15]]

    def guest(self, name: str) -> int:
        """The process id of a VM's QEMU."""
        for pid in self.processes("qemu-system-x86_64"):
            if f"guest={name},".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError(f"no QEMU runs {name}")

    def is_running(self) -> bool:
        """Is there a libvirtd?"""
        return bool(self.processes("libvirtd"))

    def resize(self, name: str, size: str) -> None:
        """Give one of the file systems another size."""
        _run("mount", "-o", f"remount,size={size}", str(self.directory / name))

    def close(self) -> None:
        """End everything inside, and remove the directory."""
        self._first.kill()
        self._first.wait()
        _wait_for(lambda: not os.path.exists(f"/proc/{self.namespace}"), "the end of the namespace")
        self._place.remove()

    def _fill(self) -> None:
        for name in PRIVATE:
            (self.directory / name).mkdir(mode=0o755)
        for name, text in SETTINGS.items():
            (self.directory / "etc" / name).write_text(text)
        shutil.copytree("/etc/libvirt/nwfilter", self.directory / "etc" / "nwfilter")

    def _enter_namespaces(self) -> int:
        binds = [word for name, place in PRIVATE.items() for word in (str(self.directory / name), place)]
        namespaces = ("--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", FIRST, str(self._place.mark), *binds]
        self._first = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/")
        found: list[int] = []

        def is_there() -> bool:
            assert self._first.poll() is None, "the namespaces could not be made; run this as root"
            children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
            found[:] = [int(pid) for pid in children if _comm(int(pid)) == "sleep"]
            return bool(found)

        _wait_for(is_there, "the namespaces")
        return found[0]

    def _end(self, number: int) -> None:
        for pid in self.processes("libvirtd"):
            os.kill(pid, number)
        _wait_for(lambda: not self.is_running(), "the end of libvirtd")


def _require_programs() -> None:
    for program, package in PROGRAMS.items():
        assert shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"), f"{program} is missing: apt-get install {package}"
    assert os.geteuid() == 0, "these tests make namespaces: run them as root"


def _inside(first: int) -> list[int]:
    wanted, found = os.readlink(f"/proc/{first}/ns/pid"), []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                found.append(int(entry))
        except OSError:
            continue
    return found


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def _wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
