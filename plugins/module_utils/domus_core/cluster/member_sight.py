"""What a member of a clustered pool finds on itself: is it as it was written, and what does it lack to be one?"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from ..errors import DomusError
from ..libvirt_driver.tools import SEARCH_PATH
from ..model.secrets import Secret
from ..model.server_pool import LOCKS, RECORDS, has_quorum_device, has_watchdog, host_of
from .corosync import corosync_conf, known_node_ids
from .disk_locks import CONFIGURATION as LOCKD_CONF
from .disk_locks import lock_space
from .member_files import CONF, KEY, OCF_AGENT, OCF_LINK, pool_named, read_file
from .member_services import DEVICE_UNIT, UNITS, is_active, works_by_its_file
from .ocf_door import SETTINGS
from .pacemaker import Pacemaker
from .pool import secret_path
from .pool_of import BEYOND_LEASE, pool_on_member, secrets_of
from .watchdog import DEVICE as WATCHDOG_DEVICE
from .watchdog import FILE as WATCHDOG_FILE
from .watchdog import UNIT as WATCHDOG_UNIT
from .watchdog import sbd_file

PROGRAMS = ("corosync", "corosync-cfgtool", "pacemakerd", "crm_mon", "crm_diff", "cibadmin", "stonith_admin")
QUORUM_DEVICE = "corosync-qdevice"
QEMU_CONF = "/etc/libvirt/qemu.conf"
PATIENCE = 30.0
_LOCKED = re.compile(r'^\s*lock_manager\s*=\s*"lockd"', re.MULTILINE)


def lacking(spec: Any, path: Optional[str]) -> tuple[str, ...]:
    """What this server has not got, which is to be a member of the pool; `path` is where its pool file system is."""
    programs = [
        *PROGRAMS,
        *([QUORUM_DEVICE] if has_quorum_device(spec) else []),
        *(["sbd"] if has_watchdog(spec) else []),
        *(device.agent for device in spec.fencing or () if device.agent),
    ]
    missing = [f"the program {name}" for name in dict.fromkeys(programs) if shutil.which(name, path=SEARCH_PATH) is None]
    if has_watchdog(spec) and not os.path.exists(WATCHDOG_DEVICE):
        missing.append(f"a watchdog ({WATCHDOG_DEVICE})")
    if path is not None and not _locks_are_in(os.path.join(path, LOCKS)):
        missing.append(f"locks of disks in {os.path.join(path, LOCKS)} ({QEMU_CONF}, {LOCKD_CONF})")
    return tuple(missing)


def _locks_are_in(folder: str) -> bool:
    return _LOCKED.search(read_file(QEMU_CONF)) is not None and (lock_space(LOCKD_CONF) or "").rstrip("/") == folder


def settings_for(path: Optional[str], lease: Optional[int]) -> dict[str, Any]:
    """The settings of the OCF agent: those that are there, our two as they are to be. A lease that is not told leaves the patience as it is."""
    before = _settings_there()
    settings: dict[str, Any] = {**before, "lock_patience": float(lease + BEYOND_LEASE if lease is not None else before.get("lock_patience", PATIENCE))}
    return settings if path is None else {**settings, "records": os.path.join(path, RECORDS)}


def _settings_there() -> dict[str, Any]:
    try:
        there = json.loads(read_file(SETTINGS) or "{}")
    except ValueError:
        return {}
    return there if isinstance(there, dict) else {}


def pool_there() -> Optional[str]:
    """The name of the clustered pool that this server's files are of, or None; of others' clusters nothing is told."""
    return pool_named(read_file(CONF))


def membership() -> dict[str, Any]:
    """What a manager must know of this server's pool that it has not made, or has forgotten: {pool, node_ids, authkey}; all None outside of one."""
    pool = pool_there()
    if pool is None:
        return dict.fromkeys(("pool", "node_ids", "authkey"))
    with open(KEY, "rb") as file:
        key = base64.b64encode(file.read()).decode()
    return {"pool": pool, "node_ids": known_node_ids(read_file(CONF)), "authkey": key}


def amiss(spec: Any, path: Optional[str], lease: Optional[int], own: str) -> tuple[str, ...]:
    """What on this member is not as it was told to be; `own` is the name that it has for itself."""
    return tuple(_amiss(spec, path, lease, own))


def _amiss(spec: Any, path: Optional[str], lease: Optional[int], own: str) -> Iterator[str]:
    pool, ids = pool_on_member(spec), {host_of(member): int(member.node_id) for member in spec.cluster.members or ()}
    if read_file(CONF) != corosync_conf(pool, ids):
        yield f"{CONF} is not as it was written"
    if spec.cluster.authkey is not None and not Secret(_key_there()).matches(spec.cluster.authkey):
        yield f"{KEY} is not the pool's key"
    yield from (f"{place} does not hold the secret" for place in _wrong_secrets(secrets_of(spec)))
    if _settings_there() != settings_for(path, lease):
        yield f"{SETTINGS} is not as it was written"
    if not os.path.islink(OCF_LINK) or os.readlink(OCF_LINK) != OCF_AGENT:
        yield f"{OCF_LINK} does not lead to the agent for VMs"
    running = [unit for unit in UNITS if is_active(unit)]
    yield from (f"{unit} does not run" for unit in UNITS if unit not in running)
    if has_quorum_device(spec) and not is_active(DEVICE_UNIT):
        yield f"{DEVICE_UNIT} does not run"
    yield from _of_watchdog(pool)
    if UNITS[0] in running and not works_by_its_file():
        yield "Corosync does not work by its file"
    if len(running) == len(UNITS) and is_first(spec, own):
        yield from _differences(pool, ids)


def _of_watchdog(pool: Any) -> Iterator[str]:
    """What is not as it was written of the watchdog; one that nobody wants any more runs until this server, or Corosync, is started anew."""
    if pool.watchdog is None:
        return
    if read_file(WATCHDOG_FILE) != sbd_file(pool.watchdog):
        yield f"{WATCHDOG_FILE} is not as it was written"
    if not is_active(WATCHDOG_UNIT):
        yield f"{WATCHDOG_UNIT} does not run"


def is_first(spec: Any, own: str) -> bool:
    """Is this the member that speaks to Pacemaker for all?"""
    return next((host_of(member) == own for member in spec.cluster.members or ()), False)


def _differences(pool: Any, ids: Mapping[str, int]) -> Iterator[str]:
    try:
        change = Pacemaker().plan(pool, ids, True)
    except DomusError as error:
        yield f"Pacemaker does not tell its configuration: {error.message}"
        return
    if change.changes or change.gone:
        told = [*change.changes, *(f"- member {name}" for name in change.gone)]
        yield f"Pacemaker's configuration is another: {', '.join(told[:5])}"


def _key_there() -> str:
    try:
        with open(KEY, "rb") as file:
            return base64.b64encode(file.read()).decode()
    except OSError:
        return ""


def _wrong_secrets(secrets: Mapping[tuple[str, str], Any]) -> Iterator[str]:
    for (device, option), secret in secrets.items():
        place = secret_path(device, option)
        if not Secret(_secret_in(read_file(place))).matches(secret):
            yield place


def _secret_in(script: str) -> str:
    """The secret that a script of ours prints."""
    words = shlex.split(script, comments=False) if script.count("printf") else []
    return words[-1] if words else ""
