"""Servers are switched off and woken: in order, by the agents, and what comes of it is seen before it is told.

off: nothing runs there ─► marked, so that nothing gets there and its silence alarms nobody ─► its agent switches it off ─► silent
on:  woken by a fence device or by its network card ─► heard
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Optional

from domus_core.errors import Cancelled, Conflict, DomusError, Unreachable

from ..store import jobs, objects, server_states, servers
from ..store.database import Store
from .moving_out import MOVED_STATES
from .older import is_too_old, unsupported
from .outcome import CANCELLED, SUCCEEDED, Interrupted, Outcome
from .output import JobOutput
from .tools import Stopped, Tools
from .waking import send_packets, wake, ways_to

if TYPE_CHECKING:
    from .jobs import Jobs

# Its agent takes the server out of its pool first, which Pacemaker may take its time for.
ASK_SECONDS, OFF_SECONDS = 240.0, 900.0
# Some servers test their memory for many minutes.
ON_SECONDS, AGAIN_SECONDS = 1800.0, 30.0
LOOK_SECONDS = 2.0
MOST_NAMED = 5

Item = dict[str, Any]


def require_may_be_off(store: Store, server: Mapping[str, Any], own: str = "") -> None:
    """Raise Conflict when the server (its item) is not heard, VMs run on it, or jobs (other than `own`) work with it."""
    label = f"server {server['name']}"
    if server["state"] not in servers.CONNECTED:
        off = server["state"] == servers.OFF
        remedy = "" if off else "An orderly end needs its agent; see why it is silent: domus server show"
        raise Conflict("is off already" if off else f"is {server['state']}", object=label, remedy=remedy)
    running = sorted(str(vm["name"]) for vm in objects.pages(store, "vm", {"server": str(server["id"])}) if vm["state"] in MOVED_STATES)
    if running:
        more = f" and {len(running) - MOST_NAMED} more" if len(running) > MOST_NAMED else ""
        remedy = f"Move them away first: domus server evacuate {server['name']}"
        raise Conflict(f"VMs run on it: {', '.join(running[:MOST_NAMED])}{more}", object=label, remedy=remedy)
    for job in jobs.unfinished(store):
        if server["id"] in job["servers"] and job["kind"] != jobs.BALANCE and job["id"] != own:
            raise Conflict(f"job {job['id']} ({job['kind']}) works with it", object=label, remedy="Wait for its end, or cancel it")


def require_may_be_on(server: Mapping[str, Any]) -> None:
    """Raise Conflict when the server (its item) is heard: then it is on."""
    if server["state"] in servers.CONNECTED:
        raise Conflict("is on: it is heard", object=f"server {server['name']}")


def switch(
    work: Jobs,
    store: Store,
    server: Mapping[str, Any],
    *,
    on: bool,
    by: str,
    reason: str = "",
    policy: bool = False,
    part_of: Optional[str] = None,
    relaunch_of: Optional[str] = None,
) -> Item:
    """Queue the job that switches a server (its item) off in order, or wakes it; `policy`: its pool's policy wakes it when it is needed. Raises Conflict."""
    if on:
        require_may_be_on(server)
    else:
        require_may_be_off(store, server)
    kind, told = (jobs.POWER_ON if on else jobs.POWER_OFF), {"policy": policy, "evacuation": part_of}
    job = {"kind": kind, "created_by": by, "reason": reason or kind.replace("_", " "), "servers": [server["id"]], "options": told}
    return work.queue({**job, "objects": [{"kind": "server", "name": server["name"]}], "relaunch_of": relaunch_of})


class PowerRun:
    """One server switched off or on; `run` is called once, `cancel` from any thread. `again`: the manager was restarted meanwhile."""

    def __init__(self, tools: Tools, job: Mapping[str, Any], again: bool, uptime: Callable[[], float] = time.monotonic) -> None:
        self._tools, self._job, self._again, self._uptime = tools, job, again, uptime
        self._id = str(job["servers"][0])
        self._name = str(servers.find(tools.store, self._id)["name"])
        self._cancelled = threading.Event()
        self._cancelled_by = ""
        # What its agent was told is not taken back, and its silence is to alarm nobody.
        self._told = again

    def cancel(self, by: str) -> None:
        """Begin nothing, wait no more for what is to come on; a server that goes off is waited for."""
        self._cancelled_by = self._cancelled_by or by
        if self._job["kind"] == jobs.POWER_ON or not self._told:
            self._cancelled.set()

    def stop(self) -> None:
        """The manager ends; the next start looks what came of it."""

    def run(self) -> Outcome:
        """Do it, and wait until it is seen. Raises what is in the way, Unreachable when it is not seen in time, Stopped."""
        jobs.start(self._tools.store, self._job["id"])
        with JobOutput(self._tools.store, self._job["id"]) as output:

            def say(line: str) -> None:
                output.put("progress", {"line": line})

            if self._cancelled.is_set() and not self._told:
                return self._given_up()
            return self._off(say) if self._job["kind"] == jobs.POWER_OFF else self._on(say)

    def _off(self, say: Callable[[str], None]) -> Outcome:
        if self._again and self._server()["powered_off"] is None:
            raise Interrupted("the manager was restarted before it was begun", object=f"server {self._name}", remedy="Do it again")
        if not self._again:
            self._begin_off(say)
        if self._wait(lambda: self._server()["state"] == servers.OFF, OFF_SECONDS):
            return self._done("power off")
        server_states.set_powered_off(self._tools.store, self._id, None)
        remedy = f"See why it does not end: journalctl -b on {self._name}"
        raise Unreachable(f"was told to switch itself off, and still reports after {OFF_SECONDS / 60:.0f} minutes", object=self._label, remedy=remedy)

    def _begin_off(self, say: Callable[[str], None]) -> None:
        """Mark it first, so that nothing gets there any more, then look whether something has, then tell its agent."""
        store, options = self._tools.store, self._job["options"]
        require_may_be_off(store, self._server(), self._job["id"])
        mark = {"by": self._job["created_by"], "reason": self._job["reason"], "policy": bool(options.get("policy"))}
        server_states.set_powered_off(store, self._id, mark)
        try:
            require_may_be_off(store, self._server(), self._job["id"])
            self._told = True
            self._tools.agents.call(self._id, "power_off", {"reason": self._job["reason"]}, timeout=ASK_SECONDS)
            say("its agent switches it off")
        except Unreachable as error:
            say(f"whether its agent switches it off is seen when it falls silent: {error}")
        except BaseException as error:
            server_states.set_powered_off(store, self._id, None)
            if isinstance(error, DomusError) and is_too_old(error):
                raise unsupported(self._name, "switch its server off") from None
            raise

    def _on(self, say: Callable[[str], None]) -> Outcome:
        if not self._again:
            require_may_be_on(self._server())
        # A packet is harmless; a device that was asked before the manager ended is not asked again.
        packets = not self._again and wake(self._tools, self._server(), say)
        if self._wait(lambda: self._server()["state"] in servers.CONNECTED, ON_SECONDS, self._send_again if packets else None):
            return self._done("power on")
        if self._cancelled.is_set():
            return self._given_up()
        server_states.set_powered_off(self._tools.store, self._id, None)
        remedy = f"Look at its console; does its network card wake it? When it is up, it is heard by itself: domus server show {self._name}"
        raise Unreachable(f"was switched on, and is not heard after {ON_SECONDS / 60:.0f} minutes", object=self._label, remedy=remedy)

    def _send_again(self) -> None:
        send_packets(self._tools, ways_to(self._tools.store, self._server()), [])

    def _wait(self, is_seen: Callable[[], bool], seconds: float, again: Optional[Callable[[], None]] = None) -> bool:
        """Is it seen in time? Meanwhile `again` is called now and then. Raises Stopped."""
        began = told = self._uptime()
        seen = self._tools.store.changed(-1, 0)
        while not is_seen():
            if self._tools.stopping.is_set():
                raise Stopped
            if self._cancelled.is_set() or self._uptime() - began > seconds:
                return False
            if again is not None and self._uptime() - told > AGAIN_SECONDS:
                told = self._uptime()
                again()
            seen = self._tools.store.changed(seen, LOOK_SECONDS)
        return True

    @property
    def _label(self) -> str:
        return f"server {self._name}"

    def _server(self) -> Item:
        return servers.find(self._tools.store, self._id)

    def _done(self, action: str) -> Outcome:
        entry = {"kind": "server", "name": self._name, "server": self._name, "changed": True, "actions": [action]}
        return Outcome(SUCCEEDED, True, None, {"objects": [entry], "servers": {self._name: SUCCEEDED}})

    def _given_up(self) -> Outcome:
        remedy = "What its agent or a device was told before is not taken back: domus server show"
        error: DomusError = Cancelled(f"was cancelled by {self._cancelled_by}", object=f"job {self._job['id']}", remedy=remedy)
        return Outcome(CANCELLED, False, error.as_dict())
