"""What holds a thread of the web server for long is counted: streams and consoles never starve short requests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import Overloaded


class Budget:
    """At most `most` holders at once; `noun` says to a person what there are too many of."""

    def __init__(self, noun: str, most: int, retry_after: int = 5) -> None:
        self.noun = noun
        self.most = most
        self.retry_after = retry_after
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """How many hold a place now."""
        return self._taken

    def take(self) -> Callable[[], None]:
        """Take a place and return what gives it back; giving back twice does nothing. Raises Overloaded when none is left."""
        with self._lock:
            if self._taken >= self.most:
                raise Overloaded(f"all {self.most} {self.noun} are in use", headers={"Retry-After": str(self.retry_after)}, remedy="Try again soon")
            self._taken += 1
        held = [True]

        def give_back() -> None:
            with self._lock:
                if held:
                    held.clear()
                    self._taken -= 1

        return give_back
