"""Corosync and Pacemaker on this member: started, told of a new configuration, stopped. None of it stops a VM that has no HA."""

from __future__ import annotations

import os
import re
import time
from typing import Optional

from ..errors import Conflict, DomusError, DriverError, Unreachable
from ..libvirt_driver.tools import ask, run
from .cib import VM
from .corosync import read_conf
from .member_files import CONF, is_ours, read_file
from .pool_status import PoolStatus, read_status
from .watchdog import FILE as WATCHDOG_FILE
from .watchdog import UNIT as WATCHDOG_UNIT
from .watchdog import require_device, running_timeout, tell, wanted_timeout

UNITS = ("corosync.service", "pacemaker.service")
# Asks corosync-qnetd for its vote; where the pool has a quorum device.
DEVICE_UNIT = "corosync-qdevice.service"
PATIENCE, PAUSE = 180.0, 0.5
ANEW = "both started anew, with the watchdog"
CIB_FOLDER = "/var/lib/pacemaker/cib"
# The address in the corosync.conf that the package brings, by which a server is a cluster of itself.
PACKAGED = re.compile(r"^\s*ring0_addr:\s*127\.0\.0\.1\s*$", re.MULTILINE)
# What Corosync takes over while it runs, beside the list of members.
LIVE = ("totem.token", "quorum.two_node", "quorum.wait_for_all", "quorum.device.model")
_CMAP = re.compile(r"^(\S+) \(\S+\) = (.*)$", re.MULTILINE)


def is_active(unit: str) -> bool:
    """Does systemd say that it runs?"""
    try:
        return run(["systemctl", "is-active", unit], timeout=20.0, what=f"asking for {unit}").strip() == "active"
    except DomusError:
        return False


def start_member(check: bool = False) -> list[str]:
    """Have Corosync and Pacemaker run, and run by the file that is there; returns what was done."""
    done = _follow_watchdog(check)
    if not is_active(UNITS[0]) or (check and ANEW in done):
        done += _do(check, "Corosync started", ["systemctl", "start", UNITS[0]])
    elif _differs(_in_force(), _in_file()):
        done += _do(check, "Corosync told of its new configuration", ["corosync-cfgtool", "-R"])
    done += _follow_device(check)
    if not is_active(UNITS[1]):
        done += _do(check, "Pacemaker started", ["systemctl", "start", UNITS[1]])
    enabled = ask(["systemctl", "is-enabled", *UNITS], timeout=20.0, what="asking for units", answers=(0, 1))[1].split()
    if enabled != ["enabled", "enabled"]:
        done += _do(check, "both enabled", ["systemctl", "enable", *UNITS])
    if done and not check:
        wait_until_joined()
    if watchdog_of_file() is not None and not check:
        _tell_of_watchdog()
    return done


def watchdog_of_file() -> Optional[int]:
    """After how many seconds this member's watchdog is to reset it, by the file that is there; None: that is not ours to say."""
    return wanted_timeout(read_file(WATCHDOG_FILE))


def _follow_watchdog(check: bool) -> list[str]:
    """Have SBD begin with Corosync, or no more: systemd starts and stops it with Corosync only. One that runs goes on until then."""
    wanted, done = watchdog_of_file(), list[str]()
    if wanted is None and read_file(WATCHDOG_FILE):
        return done  # somebody else's
    enabled = ask(["systemctl", "is-enabled", WATCHDOG_UNIT], timeout=20.0, what="asking for units", answers=(0, 1, 4))[1].strip() == "enabled"
    if wanted is not None:
        require_device()
    if enabled != (wanted is not None):
        what = "the watchdog begins with Corosync" if wanted is not None else "the watchdog begins with Corosync no more"
        done += _do(check, what, ["systemctl", "enable" if wanted is not None else "disable", WATCHDOG_UNIT])
    if wanted is not None and is_active(UNITS[0]) and running_timeout() != wanted:
        done += [*rest_member(check), ANEW]
    return done


def _tell_of_watchdog() -> None:
    """Tell the pool that SBD runs here, and by its file. Raises DriverError when it does not: Pacemaker must not trust it then."""
    wanted = watchdog_of_file()
    if wanted is None or running_timeout() != wanted:
        raise DriverError(f"{WATCHDOG_UNIT} does not run by its file {WATCHDOG_FILE}", field="watchdog", remedy=f"journalctl -u {WATCHDOG_UNIT}")
    tell(wanted)


def _follow_device(check: bool) -> list[str]:
    """Have the quorum device asked for its vote, or no more, as the file says."""
    wanted = has_device()
    if wanted == is_active(DEVICE_UNIT):
        return []
    what = "the quorum device is asked for its vote" if wanted else "the quorum device is asked no more"
    return _do(check, what, ["systemctl", "enable" if wanted else "disable", "--now", DEVICE_UNIT])


def has_device() -> bool:
    """Does the file that is there name a quorum device?"""
    return any(path.startswith("quorum.1.device.1.") for path, dummy in read_conf(read_file(CONF)))


def _do(check: bool, what: str, command: list[str]) -> list[str]:
    if not check:
        run(command, timeout=PATIENCE, what=what)
    return [what]


def wait_until_joined() -> PoolStatus:
    """Return when this server is a member in Pacemaker's eyes, and there is a coordinator. Raises Unreachable."""
    end, name = time.monotonic() + PATIENCE, os.uname().nodename
    while True:
        try:
            status = read_status()
            if status.coordinator and status.members.get(name) in ("online", "standby", "maintenance"):
                return status
        except DomusError:
            pass  # it is still starting
        if time.monotonic() > end:
            raise Unreachable(f"{name} has not joined its pool within {PATIENCE:g} s", remedy="journalctl -u corosync -u pacemaker")
        time.sleep(PAUSE)


def _in_force() -> dict[str, str]:
    """What Corosync works by, in the words of its file."""
    text = run(["corosync-cmapctl"], timeout=20.0, what="asking Corosync")
    return {key: value.strip() for key, value in _CMAP.findall(text)}


def _in_file() -> dict[str, str]:
    """The file's settings, in the words of Corosync's map."""
    with open(CONF, encoding="utf-8") as file:
        settings = dict(read_conf(file.read()))
    renamed: dict[str, str] = {}
    for path, value in settings.items():
        node = re.fullmatch(r"nodelist\.1\.node\.(\d+)\.(.*)", path)
        renamed[f"nodelist.node.{int(node[1]) - 1}.{node[2]}" if node else re.sub(r"\.1\.", ".", path)] = value
    return renamed


def _nodes(settings: dict[str, str]) -> set[frozenset[tuple[str, str]]]:
    """The members, whatever their places in the list."""
    nodes: dict[str, set[tuple[str, str]]] = {}
    for path, value in settings.items():
        place = re.fullmatch(r"nodelist\.node\.(\d+)\.(nodeid|name|ring\d+_addr)", path)
        if place:
            nodes.setdefault(place[1], set()).add((place[2], value))
    return {frozenset(node) for node in nodes.values()}


def _differs(found: dict[str, str], wanted: dict[str, str]) -> bool:
    return _nodes(found) != _nodes(wanted) or any(found.get(name, "0") != wanted.get(name, "0") for name in LIVE)


def works_by_its_file() -> bool:
    """Does Corosync, which runs, work by the file that is there?"""
    try:
        return not _differs(_in_force(), _in_file())
    except (DomusError, OSError):
        return False


def stop_member(check: bool = False) -> list[str]:
    """Stop both, so that this server is no member any more. Raises Conflict while HA VMs run here: Pacemaker would stop them, or move them."""
    done = rest_member(check)
    if done:
        _do(check, "both disabled", ["systemctl", "disable", *UNITS, *([DEVICE_UNIT] if has_device() else [])])
    if done and watchdog_of_file() is not None:
        done += _do(check, "the watchdog begins with Corosync no more", ["systemctl", "disable", WATCHDOG_UNIT])
    return done


def rest_member(check: bool = False) -> list[str]:
    """Stop both until the next boot: the pool sees a member that left in order, and cuts nobody's power. Raises Conflict while HA VMs run here."""
    done: list[str] = []
    if is_active(UNITS[1]):
        name = os.uname().nodename
        here = sorted(vm for vm, servers in read_status().vms.items() if name in servers and vm.startswith(VM))
        if here:
            raise Conflict(f"HA VMs run here: {', '.join(here)}", object=f"server {name}", remedy="Evacuate the server first")
        done += _do(check, "Pacemaker stopped", ["systemctl", "stop", UNITS[1]])
    if is_active(DEVICE_UNIT):
        done += _do(check, "the quorum device is asked no more", ["systemctl", "stop", DEVICE_UNIT])
    if is_active(UNITS[0]):
        done += _do(check, "Corosync stopped", ["systemctl", "stop", UNITS[0]])
    return done


def leave_packaged(check: bool = False) -> list[str]:
    """End the cluster of one that the packages begin by themselves. Raises Conflict for a cluster that somebody else has made."""
    conf = read_file(CONF)
    if not conf or is_ours(conf):
        return []
    if not PACKAGED.search(conf):
        raise Conflict("this server is a member of a cluster that Domus has not made", object=CONF, remedy="Take it out of that cluster, and remove the file")
    done = stop_member(check)
    there = sorted(os.listdir(CIB_FOLDER)) if os.path.isdir(CIB_FOLDER) else []
    if there and not check:
        for name in there:
            os.unlink(os.path.join(CIB_FOLDER, name))
    return [*done, *(["the packages' cluster of one forgotten"] if there else [])]
