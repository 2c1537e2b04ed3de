"""Proof that a VM runs on this server or does not, from /proc alone: libvirtd may be dead, the pool's storage gone.

Imports nothing but os: the monitor of every HA VM runs this every few seconds.
"""

from __future__ import annotations

import os

RUNNING, STOPPED, UNKNOWN = "running", "stopped", "unknown"
PROC = "/proc"


def started(pid: int, proc: str = PROC) -> str:
    """When a living process was started, in the kernel's ticks: with the pid it names a process for ever. "" when it is gone, or wholly a zombie.

    A zombie whose other threads still live has its disks open; one that is alone has closed them.
    """
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        if fields[0] in (b"X", b"x") or fields[0] == b"Z" and len(os.listdir(f"{proc}/{pid}/task")) < 2:
            return ""
        return fields[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def find_qemu(uuid: str, proc: str = PROC) -> tuple[list[int], list[int]]:
    """The processes that are this VM's QEMU, and those that may be: dying ones have no arguments any more."""
    found, nameless = [], []
    wanted = uuid.encode()
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            with open(f"{proc}/{entry}/cmdline", "rb") as file:
                arguments = file.read()
            if wanted in arguments:
                if _is_of(wanted, arguments.split(b"\0")) and started(int(entry), proc):
                    found.append(int(entry))
            elif not arguments and _is_dying_qemu(entry, proc):
                nameless.append(int(entry))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found, nameless


def _is_of(uuid: bytes, arguments: list[bytes]) -> bool:
    """Are these a QEMU's arguments, with this UUID? A command that merely names the UUID is none."""
    return b"qemu" in os.path.basename(arguments[0]) and any(before == b"-uuid" and after == uuid for before, after in zip(arguments, arguments[1:]))


def _is_dying_qemu(entry: str, proc: str) -> bool:
    with open(f"{proc}/{entry}/comm", "rb") as file:
        return file.read().startswith(b"qemu-") and started(int(entry), proc) != ""


def remembered(path: str) -> tuple[int, str]:
    """The process of a VM that was noted when it was seen last, and its start; (0, "") when there is no note."""
    try:
        with open(path, encoding="ascii") as file:
            pid, start = file.read().split()
        return int(pid), start
    except (OSError, ValueError):
        return 0, ""


def look(uuid: str, note: str, proc: str = PROC) -> str:
    """Whether the VM runs here: RUNNING and STOPPED are proven, UNKNOWN is neither. `note` is the file where its process is remembered."""
    pid, start = remembered(note)
    if start and started(pid, proc) == start:
        return RUNNING
    found, nameless = find_qemu(uuid, proc)
    if found:
        remember(note, found[0], proc)
        return RUNNING
    return UNKNOWN if any(not _is_anothers(dying, note, proc) for dying in nameless) else STOPPED


def _is_anothers(pid: int, note: str, proc: str) -> bool:
    """Is this process remembered as another VM's?"""
    start, folder = started(pid, proc), os.path.dirname(note)
    try:
        others = [name for name in os.listdir(folder) if name != os.path.basename(note)]
    except OSError:
        others = []
    return start == "" or any(remembered(os.path.join(folder, name)) == (pid, start) for name in others)


def is_there(names: tuple[str, ...], proc: str = PROC) -> bool:
    """Does a program of one of these names run here?"""
    for entry in os.listdir(proc):
        try:
            with open(f"{proc}/{entry}/comm", encoding="utf-8", errors="replace") as file:
                if file.read().strip() in names and started(int(entry), proc):
                    return True
        except (OSError, ValueError):
            continue
    return False


def begun(note: str) -> bool:
    """Has a start of this VM been begun whose end nobody has seen? libvirt may still be at it, so that no process proves nothing."""
    return os.path.exists(f"{note}.starting")


def remember(note: str, pid: int, proc: str = PROC) -> None:
    """Note the VM's process. What can not be noted is found again by its arguments."""
    try:
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        with open(f"{note}.new", "w", encoding="ascii") as file:
            file.write(f"{pid} {started(pid, proc)}\n")
        os.replace(f"{note}.new", note)
    except OSError:
        pass
