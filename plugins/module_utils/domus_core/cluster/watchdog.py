"""The watchdog of a member: SBD without a disk (sbd(8)) feeds it while this server has quorum, or has never had it; then it resets the server.

Pacemaker of the others waits for `stonith-watchdog-timeout` and takes the server for reset. That is true only where SBD runs, so each member tells so in an
attribute of its own, and the property is set only when all have.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Optional

from ..errors import Conflict, DomusError, Unsupported
from ..libvirt_driver.tools import run
from .cib import WATCHDOG_PROPERTY
from .corosync import MARK
from .pool import Watchdog

FILE, DEVICE, UNIT = "/etc/default/sbd", "/dev/watchdog", "sbd.service"
TOLD = "domus-watchdog"
SECONDS = 20.0
# SBD is up once it has seen Corosync.
PATIENCE, PAUSE = 60.0, 0.5
_TIMEOUT = re.compile(r"^SBD_WATCHDOG_TIMEOUT=(\d+)$", re.MULTILINE)
_DISK = re.compile(r"^\s*SBD_DEVICE=[\"']?[^\"'\s#]", re.MULTILINE)
CONTENT = """{mark} for all servers of this pool; changes made here are overwritten.
SBD_PACEMAKER=yes
SBD_STARTMODE=always
SBD_DELAY_START=no
SBD_WATCHDOG_DEV={device}
SBD_WATCHDOG_TIMEOUT={timeout}
# A server that is to be reset does not wait for its storage, which may hang.
SBD_TIMEOUT_ACTION=noflush,reboot
SBD_MOVE_TO_ROOT_CGROUP=auto
SBD_SYNC_RESOURCE_STARTUP=yes
SBD_OPTS=
"""


def sbd_file(watchdog: Watchdog) -> str:
    """What SBD is to work by."""
    return CONTENT.format(mark=MARK, device=DEVICE, timeout=watchdog.timeout)


def wanted_timeout(text: str) -> Optional[int]:
    """The time-out in SBD's file, in seconds; None when the file is not ours: this member's watchdog is nobody's business."""
    found = _TIMEOUT.search(text) if text.startswith(MARK) else None
    return int(found[1]) if found else None


def require_ours(text: str) -> None:
    """Raise Conflict where somebody has set SBD up with disks: that is another way of fencing, with a fence device of its own."""
    if not text.startswith(MARK) and _DISK.search(text):
        raise Conflict(
            "SBD works with disks here, which Domus has not set up", object=FILE, field="watchdog", remedy="Use it by a fence device, or remove the file"
        )


def running_timeout() -> Optional[int]:
    """The time-out that SBD was started with, in seconds; None when it does not run, 0 when its file is newer. One that is starting is given its time."""
    end = time.monotonic() + PATIENCE
    while _shown("ActiveState") in ("activating", "deactivating", "reloading") and time.monotonic() < end:
        time.sleep(PAUSE)
    began = _shown("ActiveEnterTimestamp", "--timestamp=unix").lstrip("@")
    if _shown("ActiveState") != "active" or not began.isdigit():
        return None
    with suppress(OSError), open(FILE, encoding="utf-8") as file:
        # SBD writes its title over its environment: whether it has read this file, only the time tells.
        return wanted_timeout(file.read()) if int(os.fstat(file.fileno()).st_mtime) <= int(began) else 0
    return 0


def _shown(name: str, *options: str) -> str:
    """A property of SBD's unit."""
    with suppress(DomusError):
        return run(["systemctl", "show", f"--property={name}", "--value", *options, UNIT], timeout=SECONDS, what=f"asking for {UNIT}").strip()
    return ""


def require_device() -> None:
    """Raise Unsupported where there is no watchdog."""
    if not os.path.exists(DEVICE):
        remedy = "Load the module of its hardware's watchdog, or softdog, and name it in /etc/modules-load.d; the role server_pool does"
        raise Unsupported(f"this server has no {DEVICE}", field="watchdog", remedy=remedy)


def tell(timeout: int) -> None:
    """Tell the pool that this member's watchdog is fed by SBD; it is forgotten when Pacemaker stops here."""
    run(["attrd_updater", "--name", TOLD, "--update", str(timeout)], timeout=SECONDS, what="telling the pool of this server's watchdog")


def members_without(cib: Any, members: Iterable[str], watchdog: Optional[Watchdog]) -> list[str]:
    """Whose watchdog is not known to run, before Pacemaker is told to trust it; nobody where it does so already, for it starts nowhere without."""
    if watchdog is None or is_trusted(cib):
        return []
    told = {
        str(state.get("uname"))
        for state in cib.iterfind("status/node_state")
        for pair in state.iterfind("transient_attributes/instance_attributes/nvpair")
        if pair.get("name") == TOLD and pair.get("value") == str(watchdog.timeout)
    }
    return sorted(set(members) - told)


def is_trusted(cib: Any) -> bool:
    """Does Pacemaker take a server for reset that has been without the others for long enough?"""
    values = {pair.get("value") for pair in cib.iterfind("configuration/crm_config/cluster_property_set/nvpair") if pair.get("name") == WATCHDOG_PROPERTY}
    return any(value and not re.fullmatch(r"0+(m?s)?", value) for value in values)
