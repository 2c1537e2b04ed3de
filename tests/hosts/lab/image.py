"""Base images of test hosts: a Debian tree for containers, and a disk with a kernel for machines. Made once per package list, kept outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
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
    "nfs-blkmap.service nfs-client.target"
).split()


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


def ssh_key() -> Path:
    """The private key that logs in as root on every test host of this machine."""
    key = CACHE / "ssh" / "id_ed25519"
    with _locked("ssh"):
        if not key.exists():
            key.parent.mkdir(parents=True, exist_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "domus test hosts", "-f", str(key))
    return key


def _cached(kind: str, wanted: list[str], make) -> Path:  # type: ignore[no-untyped-def]
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
