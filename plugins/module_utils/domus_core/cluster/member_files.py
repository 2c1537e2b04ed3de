"""The files of a pool on one of its members: Corosync's, the settings of the OCF agent, secrets of fence devices, the agent's door for Pacemaker."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import shlex
from contextlib import suppress
from typing import Optional

from ..errors import DriverError, InvalidSpec
from ..libvirt_driver.registry import write_atomically
from .corosync import MARK, corosync_conf, read_conf
from .ocf_door import SETTINGS
from .pool import secret_path
from .pool_document import PoolDocument
from .watchdog import FILE as WATCHDOG_FILE
from .watchdog import require_ours, sbd_file, wanted_timeout

CONF, KEY = "/etc/corosync/corosync.conf", "/etc/corosync/authkey"
FENCING = "/etc/domus/fencing"
OCF_LINK = "/usr/lib/ocf/resource.d/domus/vm"
OCF_AGENT = "/opt/domus/agent/domus_agent/ocf/vm"


@dataclasses.dataclass(frozen=True)
class ManagedFile:
    """A file as it is to be."""

    path: str
    content: bytes
    mode: int


def read_file(path: str) -> str:
    """The text of a file, empty when there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def pool_named(conf: str) -> Optional[str]:
    """The name of the pool that a corosync.conf is of; None for one that is not ours: of others' clusters nothing is told."""
    return next((value for path, value in read_conf(conf) if path == "totem.1.cluster_name"), None) if is_ours(conf) else None


def is_ours(conf: str) -> bool:
    """Was this corosync.conf written by Domus?"""
    return conf.startswith(MARK)


def wanted_files(document: PoolDocument) -> list[ManagedFile]:
    """What a member's files are to be. Without a key in the document the member's own stays."""
    files = [ManagedFile(CONF, corosync_conf(document.pool, document.node_ids).encode(), 0o644)]
    if document.authkey:
        files.append(ManagedFile(KEY, _key(document.authkey), 0o400))
    pool = document.pool
    if pool.watchdog is not None:
        files.append(ManagedFile(WATCHDOG_FILE, sbd_file(pool.watchdog).encode(), 0o644))
    settings = {"pool": pool.name, "start_policy": pool.start_policy, "lock_patience": pool.lock_patience, **document.settings}
    files.append(ManagedFile(SETTINGS, (json.dumps(settings, indent=1, sort_keys=True) + "\n").encode(), 0o644))
    for device, told in sorted(document.secrets.items()):
        for option, value in sorted(told.items()):
            if value is None:
                continue
            script = f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(value)}\n"  # the shell's own printf: no argument of a process
            files.append(ManagedFile(secret_path(device, option), script.encode(), 0o700))
    return files


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidSpec(f"is not base64: {error}", field="authkey") from None
    if len(key) < 128:  # corosync.conf(5): 1024 bits at least
        raise InvalidSpec("has at least 128 bytes", field="authkey")
    return key


def write_files(document: PoolDocument, check: bool = False, agent: str = OCF_AGENT) -> list[str]:
    """Make the files as wanted, and take secrets away that nobody wants; returns the paths that change. `check`: only say so. Raises DriverError."""
    files = wanted_files(document)
    if document.pool.watchdog is not None:
        require_ours(_text(WATCHDOG_FILE))
    kept = {file.path for file in files} | {secret_path(device, option) for device, told in document.secrets.items() for option in told}
    changed = [file.path for file in files if not _is_as_wanted(file)]
    surplus = [path for path in [*_watchdog_there(), *_secrets_there()] if path not in kept]
    link = _read_link(OCF_LINK) != agent
    if not check:
        try:
            for file in files:
                if file.path in changed:
                    _write(file)
            for path in surplus:
                os.unlink(path)
            if link:
                _link(agent)
        except OSError as error:
            raise DriverError(f"{error.filename}: {error.strerror}", remedy="Run this as root") from None
    return sorted([*changed, *surplus, *([OCF_LINK] if link else [])])


def _is_as_wanted(file: ManagedFile) -> bool:
    try:
        with open(file.path, "rb") as there:
            return there.read() == file.content and os.fstat(there.fileno()).st_mode & 0o7777 == file.mode
    except OSError:
        return False


def _secrets_there() -> list[str]:
    try:
        return sorted(os.path.join(FENCING, name) for name in os.listdir(FENCING))
    except FileNotFoundError:
        return []


def _watchdog_there() -> list[str]:
    """SBD's file, when it is ours."""
    return [WATCHDOG_FILE] if wanted_timeout(_text(WATCHDOG_FILE)) is not None else []


def _text(path: str) -> str:
    with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""


def _write(file: ManagedFile) -> None:
    folder = os.path.dirname(file.path)
    os.makedirs(folder, mode=0o700 if folder == FENCING else 0o755, exist_ok=True)
    write_atomically(file.path, file.content, file.mode)


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _link(agent: str) -> None:
    os.makedirs(os.path.dirname(OCF_LINK), mode=0o755, exist_ok=True)
    new = f"{OCF_LINK}.domus-new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(agent, new)
    os.replace(new, OCF_LINK)


def remove_files() -> list[str]:
    """What a member that leaves gives back; the copies of its VMs' records stay."""
    removed = []
    for path in [CONF, KEY, SETTINGS, OCF_LINK, *_watchdog_there(), *_secrets_there()]:
        with suppress(FileNotFoundError):
            os.unlink(path)
            removed.append(path)
    return removed
