"""A manager for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.domus_controller.api.fakes import Manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager whose store is real and whose servers are not."""
    made = Manager(tmp_path)
    yield made
    made.close()
