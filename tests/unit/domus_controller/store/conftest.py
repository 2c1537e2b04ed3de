"""A store for each test, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from domus_controller.store import servers
from domus_controller.store.database import Store

from .described import FIRST, SECOND, Clock


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until it is set."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """A store with two servers, `first` and `second`."""
    made = Store(tmp_path / "store", clock)
    for id, name in ((FIRST, "first"), (SECOND, "second")):
        servers.add(made, {"id": id, "name": name, "address": "192.0.2.1", "port": 8899, "serial": "ab"})
    yield made
    made.close()
