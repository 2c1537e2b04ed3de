"""The lab of a run of tests, and hosts in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hosts.lab.host import Host
from tests.hosts.lab.lab import Lab, lab_name

Hosts = Callable[..., list[Host]]
KEEP = bool(os.environ.get("KEEP"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of this run's own. It begins by removing what a killed run left, and ends with nothing left (KEEP=1: with everything left)."""
    made = Lab(lab_name("-".join(["tests", *filter(None, [os.environ.get("PYTEST_XDIST_WORKER")])])))
    made.claim()
    made.destroy()
    try:
        yield made.up()
    finally:
        if not KEEP:
            made.destroy()


@pytest.fixture
def hosts(lab: Lab) -> Iterator[Hosts]:
    """`hosts(3)`: three new hosts that are up, for one test; `hosts(1, kind="machine")`: one with a kernel of its own. Options are those of Traits."""
    yield from _factory(lab)


@pytest.fixture(scope="module")
def module_hosts(lab: Lab) -> Iterator[Hosts]:
    """As `hosts`, for all tests of a module. What they have left in the shared folder goes with them: the next ones begin with an empty one."""
    yield from _factory(lab)
    for left in () if KEEP else list(lab.shared.iterdir()):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _factory(lab: Lab) -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:

        def make(count: int = 1, **options: Any) -> list[Host]:
            return stack.enter_context(lab.fresh(count, keep=KEEP, **options))

        yield make
