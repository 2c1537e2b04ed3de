"""The servers of the fault tests, and the agent that is tried from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.support.lab")

from domus_core.clients.agent import AgentClient  # noqa: E402

from tests.integration.server_under_test import ServerUnderTest  # noqa: E402
from tests.support.agent_process import Owner, RunningAgent  # noqa: E402
from tests.support.lab import Lab, lab_in  # noqa: E402
from tests.support.private_libvirtd import PrivateLibvirtd  # noqa: E402
from tests.support.stack import Stack  # noqa: E402


@pytest.fixture(scope="session")
def private_libvirtd() -> Iterator[PrivateLibvirtd]:
    """A libvirtd that only these tests use, with two small file systems: `small` and `tiny`."""
    libvirtd = PrivateLibvirtd({"small": "16m", "tiny": "1m"})
    yield libvirtd
    libvirtd.close()


@pytest.fixture(scope="module")
def libvirt_stack(private_libvirtd: PrivateLibvirtd) -> Iterator[Stack]:
    """A whole Domus whose one server is the private libvirtd, which is empty again afterwards."""
    made = Stack([private_libvirtd.uri])
    try:
        yield made.up()
    finally:
        made.close()
        private_libvirtd.clear()


@pytest.fixture
def lab(private_libvirtd: PrivateLibvirtd) -> Iterator[Lab]:
    """An empty server on the private libvirtd."""
    with lab_in(private_libvirtd, "lab") as made:
        yield made


@pytest.fixture(scope="module")
def furnished() -> Iterator[ServerUnderTest]:
    """A server with what VMs need, for all tests of a module."""
    made = ServerUnderTest()
    yield made
    made.close()


@pytest.fixture
def server(furnished: ServerUnderTest) -> Iterator[ServerUnderTest]:
    """The same, without VMs when the test has ended."""
    yield furnished
    furnished.clear()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    """An agent in a process of its own, that belongs to nobody."""
    running = RunningAgent(tmp_path)
    try:
        running.start()
        yield running
        assert "Traceback" not in running.log.read_text()
    finally:
        running.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """Who may take it over."""
    made = Owner(tmp_path / "owner")
    yield made
    made.close()


@pytest.fixture
def client(agent: RunningAgent, owner: Owner) -> AgentClient:
    """The owner's way to the agent, which is its own by now."""
    owner.take_over(agent)
    return owner.client(agent)
