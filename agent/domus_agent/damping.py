"""What a looping guest or a broken disk repeats: told once, then at most every ten seconds with how often it came meanwhile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Callable, Optional

from .libvirt_events import Seen

SECONDS = 10.0
# None of these changes what state a VM is in.
REPEATING = frozenset({"vm.rebooted", "vm.watchdog", "vm.io_error"})


class Damper:
    """Lets the first of equal events pass, and counts the others for ten seconds; for one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._held: dict[str, tuple[Seen, int]] = {}

    def let_pass(self, batch: Iterable[Seen]) -> list[Seen]:
        """What is to be told now: what was held back for long enough, with `count`, then what of the batch is new."""
        passed = self._released()
        for seen in batch:
            key = repr(seen)
            if seen.kind not in REPEATING:
                passed.append(seen)
            elif key in self._until:
                self._held[key] = (seen, self._held.get(key, (seen, 0))[1] + 1)
            else:
                self._until[key] = self._clock() + SECONDS
                passed.append(seen)
        return passed

    def wait(self) -> Optional[float]:
        """In how many seconds `let_pass` has something to tell; None: it holds nothing."""
        return max(0.0, min(self._until[key] for key in self._held) - self._clock()) if self._held else None

    def _released(self) -> list[Seen]:
        now, released = self._clock(), []
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key]
            if key in self._held:
                seen, count = self._held.pop(key)
                self._until[key] = now + SECONDS
                released.append(dataclasses.replace(seen, data={**seen.data, "count": count}))
        return released
