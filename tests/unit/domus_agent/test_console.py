"""What can not be opened is refused with a reason; real consoles are in tests/integration/test_agent_sees.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from domus_agent.console import Consoles
from domus_core.libvirt_driver.connection import connect

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def ask(vm: str, uri: str = "test:///default", most: int = 4) -> tuple[int, dict[str, Any]]:
    """Status and error of an attempt to open a console."""

    async def get() -> tuple[int, dict[str, Any]]:
        consoles = Consoles(uri, most)
        application = web.Application()
        application.router.add_get("/console/{vm}", consoles.handle)
        async with TestClient(TestServer(application)) as client:
            answer = await client.get(f"/console/{vm}")
            assert not consoles._open
            return answer.status, (await answer.json())["error"]

    return asyncio.run(get())


@pytest.mark.parametrize(
    "vm, most, status, code",
    [("test", 4, 400, "invalid_spec"), ("..%2f..%2fetc", 4, 400, "invalid_spec"), (UNKNOWN, 4, 404, "not_found"), (UNKNOWN, 0, 409, "busy")],
)
def test_what_is_refused(vm: str, most: int, status: int, code: str) -> None:
    answer, error = ask(vm, most=most)
    assert (answer, error["code"]) == (status, code)


def test_the_test_driver_has_no_consoles() -> None:
    connection = connect("test:///default")
    answer, error = ask(connection.lookupByName("test").UUIDString())
    connection.close()
    assert (answer, error["code"]) == (422, "unsupported")


def test_a_libvirt_that_is_away() -> None:
    answer, error = ask(UNKNOWN, uri="qemu:///system?socket=/nowhere/libvirt-sock")
    assert (answer, error["code"]) == (503, "unreachable")
