"""Random edits of real VMs: check mode says exactly what apply does, and nothing is left to do."""

from __future__ import annotations

import pytest

from tests.bench.honest_edits import honest_edits
from tests.integration.server_under_test import LAN, OTHER, ServerUnderTest

pytestmark = [pytest.mark.libvirt, pytest.mark.slow]

EDITS = 40


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_check_mode_is_honest(seed: int, furnished: ServerUnderTest) -> None:
    try:
        for number, edit in enumerate(honest_edits(seed, EDITS, furnished.name("vm"), networks=(LAN, OTHER), template="small", isos=("cd1", "cd2"))):
            try:
                furnished.apply(**edit.document, waits="guest decides" if edit.guest_decides else "as predicted")
            except Exception as error:
                raise AssertionError(f"edit {number} of seed {seed}: {edit.document}: {error}") from error
    finally:
        furnished.clear()


def test_the_same_seed_gives_the_same_edits() -> None:
    first, again, other = (list(honest_edits(seed, 50, "vm", networks=("a", "b"))) for seed in (1, 1, 2))
    assert first == again != other
    assert {name for edit in first for name in edit.document["vms"][0]} > {"disks", "nics", "memory", "cpus", "state", "description"}
