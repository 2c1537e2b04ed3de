"""A test host with a kernel of its own: a QEMU machine, for kernel NFS, VLANs, bonds, watchdogs, and clocks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

from .commands import LabError, require, run, wait_until
from .host import ENVIRONMENT, Host, write_identity
from .image import pack

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
SHARE_OPTIONS = "sandbox=chroot,cache=none,flock,posix_lock,xattr,allow_direct_io"
FILLER = "/var/filler"
# Takes what root may take too, in ever smaller pieces.
FILL = """
import os, sys
place, leave = sys.argv[1], int(sys.argv[2])
file = os.open(place, os.O_CREAT | os.O_WRONLY)
size, piece = os.fstat(file).st_size, 1 << 30
while piece >= 4096:
    room = os.fstatvfs(file)
    try:
        if room.f_bfree * room.f_frsize - leave < piece:
            raise OSError
        os.posix_fallocate(file, size, piece)
        size += piece
    except OSError:
        piece //= 2
os.fsync(file)
"""
# MiB of translated code that QEMU keeps for each processor. What is left of it when a machine resets itself slows down each store to the pages that it
# came from: with QEMU's own 1024 MiB a machine that had been up for minutes took further minutes to copy its kernel.
TRANSLATED = 128
# What costs time at boot and protects nobody here.
KERNEL_ARGUMENTS = "console=ttyS0 quiet net.ifnames=0 mitigations=off audit=0 apparmor=0 selinux=0 nokaslr random.trust_cpu=on systemd.show_status=0"


class Machine(Host):
    """A host in a QEMU machine, without hardware virtualization. Commands reach it by a card of its own, mgmt0, which no cut of the lab's network concerns."""

    boot_seconds = 600.0

    @property
    def disk(self) -> Path:
        """Its disk: what it wrote, above the one all machines start from."""
        return self.directory / "disk.qcow2"

    @property
    def identity(self) -> Path:
        """What it has and no other, as a directory."""
        return self.directory / "identity"

    def prepare(self) -> None:
        """A new disk, and an identity that its first boot puts there."""
        require("qemu-system-x86_64", "qemu-system-x86")
        require("qemu-img", "qemu-utils")
        image = self.lab.machine_image
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image / "disk.img"), str(self.disk))
        shutil.rmtree(self.identity, ignore_errors=True)
        self.identity.mkdir(parents=True)
        write_identity(self.identity, self)
        for suffix, text in {
            "link": f"[Match]\nMACAddress={self.lab.network.mac(self.traits.index, 255)}\n[Link]\nName=mgmt0\n",
            "network": "[Match]\nName=mgmt0\n[Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        }.items():
            (self.identity / f"etc/systemd/network/05-mgmt0.{suffix}").write_text(text)

    def start(self) -> None:
        """Power on; return at once."""
        ports = self.lab.network.connect_machine(self.traits.index, self.traits.segments)
        self.group.make()
        self._make_initrd()
        self._share()
        port = _free_port()
        (self.directory / "port").write_text(str(port))
        with open(self.console, "ab") as console:
            command = self.group.command(*self._qemu(ports, port))
            self.lab.children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True))

    def wipe(self) -> None:
        """Remove its disk."""
        self.disk.unlink(missing_ok=True)

    def set_names(self) -> None:
        """Let it know the addresses of all hosts of the lab."""
        if self.identity.exists():
            (self.identity / "etc/hosts").write_text(self.lab.hosts_file())
        if self.is_running:
            self.attempt("tee", "/etc/hosts", text=self.lab.hosts_file(), timeout=10)

    def _plug(self, card: int, carrier: bool) -> None:
        self.qmp("set_link", name=f"card{card}", up=carrier)

    def qmp(self, command: str, **arguments: object) -> dict[str, object]:
        """Ask QEMU itself; raise LabError when it refuses."""
        with socket.socket(socket.AF_UNIX) as door, door.makefile("rw") as lines:
            door.settimeout(10)
            door.connect(f"{self.directory}/qmp")
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments, "id": 1}):
                lines.write(json.dumps(request) + "\n")
                lines.flush()
            for line in lines:
                answer: dict[str, object] = json.loads(line)
                if answer.get("id") == 1:
                    if "error" in answer:
                        raise LabError(f"{self}: {command}: {answer['error']}")
                    return answer
        raise LabError(f"{self}: {command}: QEMU gave no answer")

    def fill_disk(self, leave: int = 0) -> None:
        """Fill the disk with a file, also what is reserved for root: every further write fails with ENOSPC. `leave`: bytes that stay free."""
        self.run("python3", "-c", FILL, FILLER, str(leave), timeout=300)

    def free_disk(self) -> None:
        """Give the disk its room back."""
        self.run("rm", "-f", FILLER)

    def move_clock(self, seconds: float, unit: str = "") -> None:
        """Move the wall clock of the whole host; of `unit`, which containers need, nothing depends."""
        self.run("date", "--set", f"@{float(self.run('date', '+%s.%N')) + seconds:.3f}")

    def _make_initrd(self) -> None:
        """The initrd of all machines, and this one's identity behind it."""
        first = self.directory / "initrd.d"
        shutil.rmtree(first, ignore_errors=True)
        shutil.copytree(self.identity, first / "identity")
        pack(first, self.directory / "initrd")
        own = (self.directory / "initrd").read_bytes()
        (self.directory / "initrd").write_bytes((self.lab.machine_image / "initrd").read_bytes() + own)

    def _share(self) -> None:
        """Serve the shared folder; the server ends with the machine."""
        if not os.access(VIRTIOFSD, os.X_OK):
            raise LabError(f"{VIRTIOFSD} is missing; as root, run: apt-get install --no-install-recommends qemu-system-common")
        path = self.directory / "virtiofs"
        path.unlink(missing_ok=True)
        command = self.group.command(VIRTIOFSD, f"--socket-path={path}", "-o", f"source={self.lab.shared}", "-o", SHARE_OPTIONS)
        self.lab.children.append(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        )
        wait_until(path.exists, 10, f"{VIRTIOFSD} starting")

    def _qemu(self, ports: list[str], port: int) -> list[str]:
        traits, image, network = self.traits, self.lab.machine_image, self.lab.network
        words = [
            "qemu-system-x86_64", "-name", f"{self.lab.name}-{self.name}", "-nodefaults", "-no-user-config", "-display", "none",
            "-accel", f"tcg,thread=multi,tb-size={TRANSLATED * traits.processors}", "-machine", "pc,memory-backend=memory",
            "-cpu", "max,la57=off,svm=off", "-smp", str(traits.processors),
            "-m", str(traits.memory), "-object", f"memory-backend-memfd,id=memory,size={traits.memory}M,share=on", "-uuid", traits.uuid,
            "-kernel", str(image / "vmlinuz"), "-initrd", str(self.directory / "initrd"), "-append", KERNEL_ARGUMENTS,
            # A power cut of the host loses what the guest did not sync, as it should; one of this machine concerns nobody.
            "-drive", f"file={self.disk},if=virtio,format=qcow2,cache=unsafe", "-device", "virtio-rng-pci",
            "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
            "-chardev", f"socket,id=shared,path={self.directory}/virtiofs", "-device", "vhost-user-fs-pci,chardev=shared,tag=shared",
            "-qmp", f"unix:{self.directory}/qmp,server=on,wait=off",
        ]  # fmt: skip
        for card, name in enumerate(ports):
            words += ["-netdev", f"tap,id=card{card},ifname={name},script=no,downscript=no"]
            words += ["-device", f"virtio-net-pci,netdev=card{card},mac={network.mac(traits.index, card)},romfile="]
        words += ["-netdev", f"user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"]
        return [*words, "-device", f"virtio-net-pci,netdev=mgmt,mac={network.mac(traits.index, 255)},romfile="]

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        port = (self.directory / "port").read_text() if self.is_running else "1"
        options = ["HostName=127.0.0.1", f"Port={port}", "ConnectTimeout=10", "ControlMaster=auto", f"ControlPath={self.directory}/ssh", "ControlPersist=60"]
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", str(self.lab.ssh_config), *words, self.name, shlex.join(["env", "--ignore-environment", *ENVIRONMENT, *command])]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
