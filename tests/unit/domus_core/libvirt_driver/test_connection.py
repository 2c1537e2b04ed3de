"""What libvirt said stays known, also when garbage collection frees one of its objects while libvirt-python asks for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import NotFound
from domus_core.libvirt_driver.connection import code_of, connect, libvirt, told


class Cycle:
    """Only garbage collection finds it."""

    def __init__(self, domain: Any) -> None:
        self.me, self.domain = self, domain


@pytest.fixture
def often_collected() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.collect()
    gc.disable()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*threshold)
    gc.enable()


@pytest.mark.usefixtures("often_collected")
def test_an_error_outlives_garbage_collection() -> None:
    connection = connect("test:///default")
    questions = ((connection.networkLookupByName, libvirt.VIR_ERR_NO_NETWORK), (connection.lookupByName, libvirt.VIR_ERR_NO_DOMAIN))
    lost = 0
    for ask, code in 10 * questions:
        Cycle(connection.lookupByName("test"))
        gc.enable()
        try:
            ask("nobody")
        except libvirt.libvirtError as error:
            gc.disable()
            lost += error.err is None
            assert code_of(error) == code
    assert lost, "libvirt-python does not lose errors any more: connection._remember can go"


@pytest.mark.usefixtures("often_collected")
def test_such_an_error_is_told_with_its_reason() -> None:
    connection = connect("test:///default")
    Cycle(connection.lookupByName("test"))
    gc.enable()
    with pytest.raises(NotFound, match="no network with matching name 'nobody'"), told("asking"):
        connection.networkLookupByName("nobody")
