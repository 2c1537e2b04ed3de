"""Base images of test hosts: a Debian tree for containers, and a disk with a kernel for machines. Made once per package list, kept outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from .commands import mounts, require, run

CHECKOUT = Path(__file__).parents[3]
LISTS = Path(__file__).parents[1]
CACHE = Path(os.environ.get("DOMUS_HOSTS_CACHE", "/var/cache/domus-test-hosts"))
SUITE = "bookworm"
# Raised when what this module does to a base system changes.
EDITION = "1"
# Images of other package lists that nobody booted for so long are removed.
UNUSED_SECONDS = 7 * 86400.0
# What Debian starts on installation and an administrator would configure first; the timers only cost time.
DISABLED = (
    "nginx.service corosync.service pacemaker.service sanlock.service wdmd.service libvirt-guests.service nfs-server.service rpcbind.service rpcbind.socket "
    "open-iscsi.service iscsid.service iscsid.socket multipathd.service multipathd.socket watchdog.service wd_keepalive.service blk-availability.service "
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service "
    "nfs-blkmap.service nfs-client.target sbd.service sbd_remote.service corosync-qdevice.service corosync-qnetd.service"
).split()

MACHINE_DISK = "8G"
# The second archive of a machine's initrd has /identity: what it has and no other, copied to a new disk once, names at every boot.
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /modules/$module; done
while [ ! -b /dev/vda ]; do usleep 20000; done
mount -t ext4 /dev/vda /root
cmp -s /identity/etc/domus-host /root/etc/domus-host || cp -a /identity/. /root/
cp /identity/etc/hosts /root/etc/hosts
umount /proc
mount --move /dev /root/dev
exec switch_root /root /sbin/init
"""


def packages(*lists: str) -> list[str]:
    """The packages of the named lists and of all roles' tables, each once."""
    names = {name for each in lists for line in (LISTS / each).read_text().splitlines() if (name := line.split("#")[0].strip())}
    for table in CHECKOUT.glob("roles/*/vars/Debian.yml"):
        for key, value in (yaml.safe_load(table.read_text()) or {}).items():
            if key.endswith("_packages") and isinstance(value, list):
                names |= set(value)
    return sorted(names)


def container_tree() -> Path:
    """The directory that is the root of every container host; made when it is missing."""
    wanted = packages("packages-hosts.txt")
    return _cached("container", wanted, lambda place: _bootstrap(place, wanted))


def machine_image() -> Path:
    """A directory with `disk.img`, `vmlinuz` and `initrd`, what every machine boots from; made when it is missing."""
    wanted = packages("packages-hosts.txt", "packages-machines.txt")
    return _cached("machine", wanted, lambda place: _make_machine(place, wanted))


def ssh_key() -> Path:
    """The private key that logs in as root on every test host of this machine."""
    key = CACHE / "ssh" / "id_ed25519"
    with _locked("ssh"):
        if not key.exists():
            key.parent.mkdir(parents=True, exist_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "domus test hosts", "-f", str(key))
    return key


def pack(directory: Path, archive: Path) -> None:
    """A directory as an archive that a kernel unpacks as its first file system."""
    require("cpio", "cpio")
    names = "\0".join(str(path.relative_to(directory)) for path in sorted(directory.rglob("*")))
    with open(archive, "wb") as target:
        subprocess.run(
            ["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0"], input=names.encode(), stdout=target, cwd=directory, check=True
        )


def _make_machine(place: Path, wanted: list[str]) -> None:
    """The disk and what starts it. Debian's own initrd has modules for every machine; loading it takes longer than all the rest."""
    tree = place / "tree"
    _bootstrap(tree, wanted)
    (tree / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 0\nshared /srv/shared virtiofs defaults,nofail 0 0\n")
    (tree / "srv/shared").mkdir()
    # It asks QEMU for its abilities, which takes many seconds here; its sockets start it when somebody needs it.
    run("systemctl", f"--root={tree}", "--quiet", "disable", "libvirtd.service")
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, place / "vmlinuz")
    _make_initrd(tree, kernel.name.partition("-")[2], place)
    for path in (tree / "boot").glob("initrd*"):
        path.unlink()
    run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-d", str(tree), str(place / "disk.img"), MACHINE_DISK, timeout=300)
    shutil.rmtree(tree)


def _make_initrd(tree: Path, version: str, place: Path) -> None:
    """The first file system: busybox, the modules of the disk, and a script that goes on in the real one."""
    require("modprobe", "kmod")
    first = place / "initrd.d"
    for name in ("bin", "modules", "proc", "dev", "root"):
        (first / name).mkdir(parents=True)
    shutil.copy(tree / "bin/busybox", first / "bin/busybox")
    order: list[str] = []
    for module in ("virtio_pci", "virtio_blk"):
        for line in run("modprobe", "-d", str(tree), "-S", version, "--show-depends", module).splitlines():
            words = line.split()
            if words[0] == "insmod" and (name := Path(words[1]).name) not in order:
                shutil.copy(words[1], first / "modules" / name)
                order.append(name)
    (first / "init").write_text(INIT.format(modules=" ".join(order)))
    (first / "init").chmod(0o755)
    pack(first, place / "initrd")
    shutil.rmtree(first)


def _cached(kind: str, wanted: list[str], make: Callable[[Path], None]) -> Path:
    key = hashlib.sha256("\n".join([EDITION, SUITE, *wanted]).encode()).hexdigest()[:12]
    place = CACHE / f"{kind}-{key}"
    with _locked(place.name):
        if not place.exists():
            print(f"test hosts: making {place} ({len(wanted)} packages; once per package list, a minute or two)", flush=True)
            unfinished = place.with_name(f"{place.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(place)
            _remove_unused(kind, place)
        os.utime(place)
    return place


def _bootstrap(place: Path, wanted: list[str]) -> None:
    """A Debian system in a directory, without what each host must have of its own."""
    require("mmdebstrap", "mmdebstrap")
    place.parent.mkdir(parents=True, exist_ok=True)
    # Services are not started: there is no systemd in there yet.
    run(
        "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(wanted)}", SUITE, str(place),
        timeout=1200,
    )  # fmt: skip
    for pattern in ("etc/hostname", "etc/machine-id", "var/lib/dbus/machine-id", "etc/ssh/ssh_host_*", "etc/resolv.conf"):
        for path in place.glob(pattern):
            path.unlink()
    (place / "etc/resolv.conf").touch()
    for unit in DISABLED:
        subprocess.run(["systemctl", f"--root={place}", "--quiet", "disable", unit], check=False, capture_output=True)
    run("systemctl", f"--root={place}", "--quiet", "enable", "systemd-networkd.service", "ssh.service")
    run("systemctl", f"--root={place}", "--quiet", "mask", "systemd-networkd-wait-online.service")


def _remove_unused(kind: str, but: Path) -> None:
    in_use = mounts()
    for place in CACHE.glob(f"{kind}-*"):
        if place != but and time.time() - place.stat().st_mtime > UNUSED_SECONDS and not any(str(place) in line for line in in_use):
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time makes an image; the others wait for it."""
    (CACHE / "locks").mkdir(parents=True, exist_ok=True)
    with open(CACHE / "locks" / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
