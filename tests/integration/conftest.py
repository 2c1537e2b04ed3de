"""The servers of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.support.lab")

from tests.support.lab import Lab, lab_in  # noqa: E402
from tests.support.private_libvirtd import PrivateLibvirtd  # noqa: E402


@pytest.fixture(scope="session")
def private_libvirtd() -> Iterator[PrivateLibvirtd]:
    """A libvirtd that only these tests use, with two small file systems: `small` and `tiny`."""
    libvirtd = PrivateLibvirtd({"small": "16m", "tiny": "1m"})
    yield libvirtd
    libvirtd.close()


@pytest.fixture
def lab(private_libvirtd: PrivateLibvirtd) -> Iterator[Lab]:
    """An empty server on the private libvirtd."""
    with lab_in(private_libvirtd, "lab") as made:
        yield made
