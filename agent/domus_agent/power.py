"""This server is switched off in order: nothing may run or be on its way here, and its pool must see it go, so that nobody cuts it."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from domus_core.cluster.corosync_state import Votes
from domus_core.cluster.member_services import UNITS, is_active, rest_member, start_member
from domus_core.cluster.outside import has_systemd, pool_action
from domus_core.cluster.pool_state import ask_votes
from domus_core.cluster.waking import power_on, send_magic_packets
from domus_core.errors import Busy, Conflict, DomusError, Forbidden
from domus_core.libvirt_driver.connection import libvirt, told
from domus_core.libvirt_driver.tools import run

from .connections import Connections

# The answer gets to the manager first.
DELAY = 1.0
# Devices take a minute, one after the other.
DEVICE_SECONDS = 190.0
# A server that still runs then was not switched off, whatever was the reason: it takes work again.
GIVE_UP_SECONDS = 600.0
MOST_NAMED = 10
_log = logging.getLogger(__name__)


class Power:
    """`busy` says what is under way here (empty: nothing); `is_ending` is true from the order to switch off on. Unless `is_allowed` it is refused."""

    def __init__(self, connections: Connections, busy: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._connections, self._busy, self._clock = connections, busy, clock
        self.is_allowed = False
        self._since: Optional[float] = None
        self._lock = threading.Lock()

    @property
    def is_ending(self) -> bool:
        """Is the server about to be off?"""
        return self._since is not None and self._clock() - self._since < GIVE_UP_SECONDS

    def refuse_work(self) -> None:
        """Raise Conflict when the server is about to be off: who takes work then loses it."""
        if self.is_ending:
            raise Conflict("is being switched off", object=f"server {platform.node()}", remedy="Choose another server, or switch it on: domus server power-on")

    def off(self, reason: str) -> dict[str, Any]:
        """Switch this server off. Raises Forbidden by its settings, Conflict while VMs run here or its pool needs it, Busy while something is under way."""
        if not self.is_allowed:
            remedy = "Set power_off: true in /etc/domus/agent.yml there, if that is wanted"
            raise Forbidden("its agent is set to switch it off for nobody", object=f"server {platform.node()}", field="power_off", remedy=remedy)
        with self._lock:
            self._since = self._clock()
            try:
                self._require_idle()
                self._leave_pool()
            except BaseException:
                self._since = None
                raise
        _log.warning("this server is switched off: %s", reason)
        threading.Timer(DELAY, _power_off).start()
        return {"off": True}

    def on(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Wake another server: by the fence devices of this pool when `server` is its host name there, and the network cards `macs`."""
        if parameters["server"] is not None:
            return {**_by_device(parameters["server"]), "sent": []}
        return {"devices": [], "sent": send_magic_packets(parameters["macs"])}

    def _require_idle(self) -> None:
        label = f"server {platform.node()}"
        if what := self._busy():
            raise Busy(f"{what} is under way here", object=label, remedy="Wait for its end, then try again")
        with self._connections.connection() as connection, told("listing the running VMs"):
            running = sorted(domain.name() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
        if running:
            more = f" and {len(running) - MOST_NAMED} more" if len(running) > MOST_NAMED else ""
            raise Conflict(f"VMs run here: {', '.join(running[:MOST_NAMED])}{more}", object=label, remedy="Move them away first: domus server evacuate")

    def _leave_pool(self) -> None:
        """The pool sees a member that goes in order. Meanwhile Pacemaker may have started a VM here: then the server stays."""
        if not is_active(UNITS[0]):
            return
        require_quorum_without(ask_votes())
        rest_member()
        try:
            self._require_idle()
        except DomusError:
            start_member()
            raise


def _by_device(server: str) -> dict[str, Any]:
    """What the pool's fence devices have done, run as Pacemaker runs them where there is systemd: they may need what this unit has not got."""
    if has_systemd():
        return pool_action("power-on", server, timeout=DEVICE_SECONDS)
    return {"devices": [{"device": one.device, "problem": one.problem} for one in power_on(platform.node(), server)]}


def require_quorum_without(votes: Votes) -> None:
    """Raise Conflict when the pool would lose its quorum without this server's vote, or has none."""
    if votes.is_quorate and votes.total - 1 >= votes.quorum:
        return
    why = f"its pool would lose its quorum: it has {votes.total} votes, and needs {votes.quorum}" if votes.is_quorate else "its pool has no quorum"
    raise Conflict(why, object=f"server {platform.node()}", remedy="Bring other members back first: domus pool show")


def _power_off() -> None:
    try:
        run(["systemctl", "--no-ask-password", "--no-block", "poweroff"], timeout=30.0, what="switching this server off")
    except DomusError as error:
        _log.error("%s", error)
