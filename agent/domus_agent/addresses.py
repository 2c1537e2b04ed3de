"""The IP addresses of running VMs, looked up again and again after a start: DHCP is slow, and a guest may not answer at all."""

from __future__ import annotations

import heapq
import threading
import time
from typing import Callable, Optional

DELAYS = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)

Addresses = tuple[str, ...]


class AddressBook:
    """What is known of the addresses, and a thread that asks for them; asking one guest in vain delays nothing but the others' addresses.

    `look` asks for a VM's addresses (None: no answer), `changed` is told a VM whose addresses are others than before.
    """

    def __init__(self, look: Callable[[str], Optional[Addresses]], changed: Callable[[str], None], delays: tuple[float, ...] = DELAYS) -> None:
        self._look = look
        self._changed = changed
        self._delays = delays
        self._known: dict[str, Addresses] = {}
        self._asked: list[tuple[float, str, bool]] = []
        self._condition = threading.Condition()
        self._end = False
        self._thread = threading.Thread(target=self._work, name="addresses", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a guest that is being asked is left behind."""
        with self._condition:
            self._end = True
            self._condition.notify()

    def known(self, vm: str) -> Addresses:
        """The addresses as far as known, best first."""
        return self._known.get(vm, ())

    def remember(self, vm: str, addresses: Addresses) -> None:
        """Take over what was known before."""
        self._known[vm] = addresses

    def forget(self, vm: str) -> None:
        """The VM does not run any more."""
        self._known.pop(vm, None)

    def started(self, vm: str) -> None:
        """The VM has started: ask a few times in the next minute."""
        self._known.pop(vm, None)
        self._ask(vm, *self._delays)

    def ask(self, vm: str, *, tell: bool = False) -> None:
        """Ask now; with `tell`, `changed` is called whatever the answer is."""
        self._ask(vm, 0.0, tell=tell)

    def _ask(self, vm: str, *delays: float, tell: bool = False) -> None:
        now = time.monotonic()
        with self._condition:
            for delay in delays:
                heapq.heappush(self._asked, (now + delay, vm, tell))
            self._condition.notify()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._end and (not self._asked or self._asked[0][0] > time.monotonic()):
                    self._condition.wait(self._asked[0][0] - time.monotonic() if self._asked else None)
                if self._end:
                    return
                dummy, vm, tell = heapq.heappop(self._asked)
            before, answer = self.known(vm), self._look(vm)
            # An answer of none soon after a start only means not yet: what was known stays until the VM stops.
            if answer:
                self._known[vm] = answer
            if tell or (answer and answer != before):
                self._changed(vm)
