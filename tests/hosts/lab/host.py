"""A test host: a whole Debian system that is booted, asked, harmed and repaired from outside."""

from __future__ import annotations

import abc
import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .cgroups import Group
from .commands import LabError, run, wait_until
from .faults import Faults
from .network import ip

if TYPE_CHECKING:
    from .lab import Lab

# A command inside gets these, and nothing of the caller's.
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb")
BOOT_SECONDS = 60.0
# systemd-nspawn leaves a reboot to whoever started it, and says so by this exit code.
AGAIN = 'while "$@"; code=$?; [ $code = 133 ]; do :; done; exit $code'
# What a container may not do, because it would do it to this machine: set the wall clock, load kernel modules.
MACHINES = ("sys_time", "sys_module")
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code (None: no end in time), and what it wrote."""

    code: int | None
    output: str
    errors: str


@dataclass(frozen=True)
class Traits:
    """What a host is made with. `segments`: the segment of each network card; `disk`: the size of what it may write; `memory`: megabytes (machines)."""

    index: int
    kind: str
    segments: tuple[int, ...] = (0,)
    disk: str = "4G"
    memory: int = 1024
    processors: int = 2
    uuid: str = ""


class Host(Faults, abc.ABC):
    """What hosts of every kind can do."""

    boot_seconds = BOOT_SECONDS

    def __init__(self, lab: Lab, name: str, traits: Traits) -> None:
        self.lab = lab
        self.name = name
        self.traits = traits
        self.directory = lab.directory / name
        self.group = Group(lab.name, name)

    def __repr__(self) -> str:
        return f"<{self.traits.kind} {self.name} of lab {self.lab.name}, {self.address}>"

    @property
    def address(self) -> str:
        """Its IPv4 address in the lab."""
        return self.lab.network.address(self.traits.index)

    @property
    def is_running(self) -> bool:
        """Is it powered on?"""
        return bool(self.group.pids())

    # -- life

    @abc.abstractmethod
    def prepare(self) -> None:
        """Give it a new disk with an identity of its own."""

    @abc.abstractmethod
    def start(self) -> None:
        """Power on; return at once."""

    @abc.abstractmethod
    def wipe(self) -> None:
        """Remove its disk."""

    @abc.abstractmethod
    def set_names(self) -> None:
        """Let it know the addresses of all hosts of the lab."""

    def wait(self) -> None:
        """Return when it is up: systemd has started everything, and SSH answers."""
        wait_until(self._is_up, self.boot_seconds, f"{self} coming up (its console: {self.console})", every=0.1)

    def power_on(self) -> None:
        """Power on, and return when it is up."""
        if self.is_running:
            raise LabError(f"{self} is on already")
        self.start()
        self.wait()

    def power_off(self) -> None:
        """Power off hard: every process ends at once, nothing is told. What was written stays, even where it was not synced."""
        self.group.kill()
        self.lab.network.disconnect(self.traits.index)

    def reset(self) -> None:
        """Power off hard and on again."""
        self.power_off()
        self.power_on()

    def reboot(self) -> None:
        """Shut down as an administrator would, and boot again."""
        before = self.boot_id()
        self.attempt("systemctl", "reboot")
        wait_until(lambda: self._rebooted(before), self.boot_seconds, f"{self} booting again")
        self.wait()

    def reinstall(self) -> None:
        """Power off hard, and boot an empty system with the same name and address, but other identities."""
        self.power_off()
        self.wipe()
        self.lab.new_identity(self.name)
        self.traits = self.lab.traits(self.name)
        self.prepare()
        self.power_on()

    def destroy(self) -> None:
        """Remove all that there is of it."""
        self.group.remove()
        self.lab.network.disconnect(self.traits.index)
        self.wipe()

    # -- inside

    @abc.abstractmethod
    def _inside(self, command: tuple[str, ...]) -> list[str]:
        """The command of this machine that runs a command in the host."""

    def attempt(self, *command: str, timeout: float = 60.0, text: str = "") -> Result:
        """Run a command as root, with `text` on its standard input; never fails, says how it ended."""
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            given.write(text)
            given.seek(0)
            process = subprocess.Popen(self._inside(command), stdin=given, stdout=output, stderr=errors, start_new_session=True)
            try:
                code: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                # It may be frozen, and die only later: nobody waits for it.
                os.killpg(process.pid, signal.SIGKILL)
                code = None
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            return Result(code, *texts)

    def run(self, *command: str, timeout: float = 60.0, text: str = "") -> str:
        """Run a command as root, and return what it wrote; raise LabError when it fails or does not end within `timeout` seconds."""
        done = self.attempt(*command, timeout=timeout, text=text)
        if done.code != 0:
            ended = f"ended with {done.code}" if done.code is not None else f"no end after {timeout:g} s"
            raise LabError(f"{self.name}: {shlex.join(command)}: {ended}: {(done.errors + done.output).strip()}")
        return done.output

    def shell(self, script: str, timeout: float = 60.0) -> str:
        """Run a shell script as root, and return what it wrote; a failing command ends it."""
        return self.run("bash", "-euo", "pipefail", "-c", script, timeout=timeout)

    def read(self, path: str) -> str:
        """The text of a file in the host."""
        return self.run("cat", path)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in the host, with its directories."""
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, text=text)

    def copy_to(self, source: Path | str, target: str) -> None:
        """Copy a file or a directory of this machine into the host: `target` is what it is called there."""
        self.run("mkdir", "-p", os.path.dirname(target))
        arguments = ["--archive", "--delete", "--rsh", self._rsh()]
        run("rsync", *arguments, f"{source}/" if os.path.isdir(source) else str(source), f"root@{self.address}:{target}", timeout=600)

    def copy_from(self, source: str, target: Path | str) -> None:
        """Copy a file or a directory of the host to this machine."""
        run("rsync", "--archive", "--rsh", self._rsh(), f"root@{self.address}:{source}", str(target), timeout=600)

    def _rsh(self) -> str:
        return shlex.join(["ssh", "-F", str(self.lab.ssh_config)])

    def ssh(self, *command: str) -> list[str]:
        """The command of this machine that runs a command in the host by SSH, or a login without one."""
        return ["ssh", "-F", str(self.lab.ssh_config), self.name, *([shlex.join(command)] if command else [])]

    def boot_id(self) -> str:
        """What differs after every boot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id").strip()

    def journal(self, unit: str = "") -> str:
        """What a unit, or the system, logged since it was booted."""
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", "--boot", *(["--unit", unit] if unit else []))

    @property
    def console(self) -> Path:
        """The file with what its console showed."""
        return self.directory / "console.log"

    def _is_up(self) -> bool:
        if not self.is_running:
            raise LabError(f"{self} went off while it booted:\n{self.console.read_text(errors='replace')[-2000:]}")
        state = self.attempt("systemctl", "is-system-running", timeout=20).output.strip()
        return state in ("running", "degraded") and self.attempt("systemctl", "is-active", "--quiet", "ssh.service").code == 0

    def _rebooted(self, before: str) -> bool:
        now = self.attempt("cat", "/proc/sys/kernel/random/boot_id", timeout=5)
        return now.code == 0 and now.output.strip() != before


def write_identity(root: Path, host: Host) -> None:
    """What one host has and no other, put into its root directory: names, addresses, keys, libvirt's id."""
    traits, lab = host.traits, host.lab
    files = {
        "etc/domus-host": f"{lab.name} {host.name} {traits.uuid}\n",
        "etc/hostname": f"{host.name}\n",
        "etc/hosts": lab.hosts_file(),
        "etc/machine-id": f"{uuid.uuid5(uuid.NAMESPACE_DNS, traits.uuid).hex}\n",
        "etc/systemd/network/10-eth0.network": f"[Match]\nName=eth0\n[Network]\nAddress={host.address}/24\nGateway={lab.network.gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        "etc/ssh/sshd_config.d/domus-hosts.conf": "UseDNS no\nAcceptEnv LANG\n",
        "root/.ssh/authorized_keys": lab.key.with_suffix(".pub").read_text(),
        "etc/systemd/journald.conf.d/domus-hosts.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nRateLimitIntervalSec=0\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "root/.ssh").chmod(0o700)
    for suffix, mode in (("", 0o600), (".pub", 0o644)):
        target = root / f"etc/ssh/ssh_host_ed25519_key{suffix}"
        target.write_bytes((host.directory / f"host_key{suffix}").read_bytes())
        target.chmod(mode)
    set_value(root / "etc/libvirt/libvirtd.conf", "host_uuid", json.dumps(traits.uuid))


def set_value(path: Path, key: str, value: str) -> None:
    """A line `key = value` in one of libvirt's files."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key} ")] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, f"{key} = {value}", ""]))


class Container(Host):
    """A host in a systemd-nspawn container: up in seconds, on the kernel of this machine."""

    @property
    def root(self) -> Path:
        """Its root directory, as this machine sees it."""
        return self.directory / "root"

    def prepare(self) -> None:
        """A tmpfs over the base tree: what the host writes is in memory, and as large as its disk."""
        disk = self.directory / "disk"
        for place in (disk, self.root):
            place.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self.traits.disk},mode=755", f"domus-host-{self.name}", str(disk))
        for name in ("upper", "work"):
            (disk / name).mkdir()
        options = f"lowerdir={self.lab.container_tree},upperdir={disk}/upper,workdir={disk}/work"
        run("mount", "-t", "overlay", "-o", options, f"domus-host-{self.name}", str(self.root))
        write_identity(self.root, self)
        # The hierarchies of cgroup version 1 are read-only in a container, and the machine's AppArmor is not its own.
        for key, value in (("cgroup_controllers", "[ ]"), ("security_driver", '"none"')):
            set_value(self.root / "etc/libvirt/qemu.conf", key, value)

    def start(self) -> None:
        """Power on; return at once."""
        namespace = self.lab.network.connect_container(self.traits.index, self.traits.segments)
        self.group.make()
        command = self.group.command(
            "sh", "-c", AGAIN, "again", "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}",
            f"--machine={self.lab.name}-{self.name}", f"--hostname={self.name}", f"--uuid={(self.root / 'etc/machine-id').read_text().strip()}",
            "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=read-only",
            f"--network-namespace-path={namespace}", f"--bind={self.lab.shared}:/srv/shared", "--bind=/dev/net/tun",
            # What systemd-nspawn's own filter leaves out: the agent takes sockets of QEMU.
            "--system-call-filter=pidfd_getfd", "--capability=all", f"--drop-capability={','.join(f'CAP_{name.upper()}' for name in MACHINES)}",
        )  # fmt: skip
        environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
        with open(self.console, "ab") as console:
            launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True, env=environment)
        self.lab.children.append(launcher)
        wait_until(lambda: self.is_running or launcher.poll() is not None, 10, f"{self} starting")

    def wipe(self) -> None:
        """Remove its disk."""
        for place in (self.root, self.directory / "disk"):
            while os.path.ismount(place):
                run("umount", "--lazy", str(place))

    def set_names(self) -> None:
        """Let it know the addresses of all hosts of the lab."""
        if os.path.ismount(self.root):
            (self.root / "etc/hosts").write_text(self.lab.hosts_file())

    def _plug(self, card: int, carrier: bool) -> None:
        ip("link", "set", self._port(card), "up" if carrier else "down")

    def fill_disk(self, leave: int = 0) -> None:
        """Make the disk as small as what is on it: every further write fails with ENOSPC. `leave`: bytes that stay free."""
        disk = self.directory / "disk"
        room = os.statvfs(disk)
        self._resize(str((room.f_blocks - room.f_bfree) * room.f_frsize + max(leave, room.f_frsize)))

    def free_disk(self) -> None:
        """Give the disk its room back."""
        self._resize(self.traits.disk)

    def _resize(self, size: str) -> None:
        run("mount", "-o", f"remount,size={size}", str(self.directory / "disk"))

    def move_clock(self, seconds: float, unit: str = "") -> None:
        """Restart one unit with another clock (0: with the right one). All containers have the machine's clock: a whole host needs kind="machine"."""
        if not unit:
            raise LabError(f"{self}: its clock is this machine's; name a unit, which gets another clock, or use kind='machine'")
        place = f"/etc/systemd/system/{unit if '.' in unit else unit + '.service'}.d/clock.conf"
        if seconds:
            self.write(place, f'[Service]\nEnvironment=LD_PRELOAD={FAKETIME} "FAKETIME={seconds:+g}" FAKETIME_DONT_FAKE_MONOTONIC=1\n')
        else:
            self.run("rm", "-f", place)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", unit)

    def leader(self) -> int:
        """The process, as this machine counts, that is the first one of the host."""
        for pid in self.group.pids():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
                if len(numbers) == 2 and numbers[1] == "1":
                    return pid
        raise LabError(f"{self} is off")

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        try:
            leader = self.leader()
        except LabError as error:
            return ["sh", "-c", f"echo {shlex.quote(str(error))} >&2; exit 255"]
        # Not by its first process does this command come in: it would have the machine's privileges.
        without = f"--bounding-set={','.join(f'-{name}' for name in MACHINES)}"
        return self.group.command("setpriv", without, "nsenter", f"--target={leader}", "--all", "--", "env", "--ignore-environment", *ENVIRONMENT, *command)
