"""What Pacemaker asks of a VM, answered in OCF's return codes: start, stop, monitor, migration. See 0011 for what is promised.

The actions know their server only by the interface `Host`; libvirt_host.py is the real one.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Optional, Protocol

from ..errors import DomusError, NotFound, Unreachable
from ..libvirt_driver.qemu_processes import RUNNING, STOPPED
from .pool import STAY_OFF
from .records import PoolRecord

# https://github.com/ClusterLabs/OCF-spec/blob/main/ra/1.1/resource-agent-api.md
SUCCESS, ERR_GENERIC, ERR_ARGS, ERR_UNIMPLEMENTED, ERR_PERM, ERR_INSTALLED, ERR_CONFIGURED, NOT_RUNNING = range(8)
POLL = 0.5
# What is left of an operation's time for ending a QEMU, with proof.
TO_KILL = 30.0
# How long a QEMU that dies, and may be this VM's, is waited for: most are gone in a moment.
DOUBT_SECONDS = 15.0
# What libvirt and QEMU say when another server still holds a disk.
LOCKED = re.compile(r"resource busy|acquire lock|lockspace resource|is locked|get \"write\" lock|get shared \"write\" lock", re.IGNORECASE)
UNSETTLED = "a start of it was given up, and libvirt may still be at it"
# Why a VM is off, in the words of Host.why_off, when somebody who may meant it.
SHUT_DOWN, SAVED = "shutdown", "saved"


class Host(Protocol):
    """This server, as the actions need it. Whatever asks libvirt raises DomusError, and Unreachable when it does not answer in time."""

    name: str

    def look(self) -> str:
        """RUNNING, STOPPED or UNKNOWN, as proven by /proc."""

    def record(self) -> PoolRecord:
        """The VM's record on the pool file system."""

    def copy(self) -> Optional[PoolRecord]:
        """The copy of it on this server."""

    def keep_copy(self, record: PoolRecord) -> None:
        """Keep a copy on this server."""

    def note_server(self) -> None:
        """Write into the record that the VM runs here now; what fails is left."""

    def is_start_settled(self) -> bool:
        """Is no start of it under way, begun by us and given up? Ends such a one where it can."""

    def define_and_start(self, record: PoolRecord) -> None:
        """Define the VM and start it, or let it go on from its saved memory."""

    def has_saved_memory(self) -> bool:
        """Is its memory saved on this server?"""

    def ask_to_shut_down(self) -> None:
        """Ask the guest to shut down."""

    def destroy(self) -> None:
        """Let libvirt end the QEMU."""

    def end_process(self, force: bool) -> None:
        """End the QEMU without libvirt."""

    def why_off(self) -> str:
        """Why libvirt thinks that it is off; "" when it does not know."""

    def is_being_stopped(self) -> bool:
        """Is somebody stopping it, who tells Pacemaker afterwards?"""

    def stay_off(self) -> None:
        """Tell Pacemaker that the VM is to stay off."""

    def migrate(self, target: str) -> None:
        """Move the VM live to another server."""

    def clock(self) -> float:
        """Seconds that only grow."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


@dataclasses.dataclass
class Answer:
    """OCF's return code, and why, for people."""

    code: int
    reason: str = ""


@dataclasses.dataclass
class VmAgent:
    """The actions for one VM. `seconds` is how long the operation may take, `patience` how long a start waits for locks to fall."""

    host: Host
    seconds: float = 300.0
    patience: float = 30.0
    is_probe: bool = False

    def _look(self) -> str:
        """As Host.look, after what is in doubt has had some time to be settled."""
        give_up = self.host.clock() + min(DOUBT_SECONDS, self.seconds)
        while True:
            state = self.host.look()
            if state in (RUNNING, STOPPED) or self.host.clock() >= give_up:
                return state
            self.host.sleep(POLL)

    def monitor(self) -> Answer:
        """Running and not running are proven; anything else is an error, after which Pacemaker stops it, with proof."""
        state = self._look()
        if state == RUNNING:
            return Answer(SUCCESS)
        if state != STOPPED:
            return Answer(ERR_GENERIC, "a QEMU is dying, and it can not be said whose it is")
        if not self.host.is_start_settled():
            return Answer(ERR_GENERIC, UNSETTLED)
        if not self.is_probe:
            self._honour_wish()
        return Answer(NOT_RUNNING)

    def _honour_wish(self) -> None:
        """A guest that shut itself down, or that somebody stops or saved to disk, stays off if that is wanted; a crash never counts as a wish."""
        try:
            if self.host.is_being_stopped():
                self.host.stay_off()
                return
            copy = self.host.copy()
            why = self.host.why_off() if copy is not None else ""
            if why == SAVED or copy is not None and why == SHUT_DOWN and copy.on_shutdown == STAY_OFF:
                self.host.stay_off()
        except DomusError:
            pass  # nobody can vouch for it: it is started again

    def start(self) -> Answer:
        """Start it; one that runs already is fine."""
        state = self._look()
        if state == RUNNING:
            return Answer(SUCCESS)
        if state != STOPPED:
            return Answer(ERR_GENERIC, "a QEMU is dying here, and it can not be said whose it is")
        if not self.host.is_start_settled():
            return Answer(ERR_GENERIC, UNSETTLED)
        try:
            record = self.host.record()
        except DomusError as error:
            return Answer(ERR_GENERIC, str(error))
        if record.saved_on not in (None, self.host.name) and not self.host.has_saved_memory():
            return Answer(ERR_INSTALLED, f"its memory is saved on {record.saved_on}: it is not started from nothing here")
        self.host.keep_copy(record)
        return self._start(record)

    def _start(self, record: PoolRecord) -> Answer:
        give_up = self.host.clock() + min(self.patience, self.seconds - TO_KILL)
        while True:
            try:
                self.host.define_and_start(record)
            except DomusError as error:
                if self.host.look() != RUNNING:
                    if LOCKED.search(str(error)) and self.host.clock() < give_up:
                        self.host.sleep(POLL)
                        continue
                    return Answer(ERR_GENERIC, str(error))
            break
        if self.host.look() != RUNNING:
            return Answer(ERR_GENERIC, "it was started, and is not there")
        self.host.note_server()
        self.host.sleep(record.start_delay)
        return Answer(SUCCESS)

    def stop(self) -> Answer:
        """Ask the guest, then libvirt, then end the process; success only when it is proven to be gone."""
        begun = self.host.clock()
        settled = self.host.look() == RUNNING or self.host.is_start_settled()
        copy = self.host.copy()
        asked_for = float(copy.stop_timeout if copy is not None else 120)
        self._stop_by(self.host.ask_to_shut_down, begun + min(asked_for, self.seconds - TO_KILL))
        left = max(TO_KILL, self.seconds - (self.host.clock() - begun))
        for number, step in enumerate((self.host.destroy, lambda: self.host.end_process(False), lambda: self.host.end_process(True)), 1):
            self._stop_by(step, self.host.clock() + left * number / 6 - POLL)
        if not settled:
            return Answer(ERR_GENERIC, UNSETTLED)
        if self.host.look() == STOPPED:
            return Answer(SUCCESS)
        return Answer(ERR_GENERIC, "its QEMU does not end: does its storage hang?")

    def _stop_by(self, step: Callable[[], None], until: float) -> None:
        """Take a step and wait for the VM to be gone; not at all when it is, and no longer than the step has any hope."""
        if self.host.look() == STOPPED:
            return
        try:
            step()
        except DomusError:
            return
        while self.host.look() != STOPPED and self.host.clock() < until:
            self.host.sleep(POLL)

    def migrate_to(self, target: str) -> Answer:
        """Move it away live. When that fails it runs on here, and Pacemaker is told so."""
        if self.host.look() != RUNNING:
            return Answer(ERR_GENERIC, "it does not run here")
        try:
            self.host.migrate(target)
        except DomusError as error:
            where = "it runs on here" if self.host.look() == RUNNING else "it does not run here any more"
            return Answer(ERR_GENERIC, f"{error}; {where}")
        return Answer(SUCCESS)

    def migrate_from(self) -> Answer:
        """Has it arrived?"""
        give_up = self.host.clock() + min(10.0, self.seconds)
        while self.host.look() != RUNNING:
            if self.host.clock() >= give_up:
                return Answer(ERR_GENERIC, "it has not arrived here")
            self.host.sleep(POLL)
        try:
            self.host.keep_copy(self.host.record())
        except DomusError:
            pass  # the next start reads it again
        self.host.note_server()
        return Answer(SUCCESS)

    def validate(self) -> Answer:
        """Can this server run the VM at all?"""
        try:
            self.host.record()
        except NotFound as error:
            return Answer(ERR_INSTALLED, str(error))
        except (Unreachable, DomusError) as error:
            return Answer(ERR_GENERIC, str(error))
        return Answer(SUCCESS)
