"""An authority that ends is followed by another while everything runs: nginx, manager, agent and their callbacks, on the real clock."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from domus_controller.security.authority import DAY, Authority

from tests.support.stack import MANAGER_USER, Stack
from tests.support.stack_faults import ended, items


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A manager whose authorities were made 3,400 days ago, and two servers."""
    made = Stack(("test:///default", "test:///default"))
    try:
        aged = Authority(made.manager_directory, lambda: time.time() - 3400 * DAY)
        aged.ensure()
        for path in made.manager_directory.iterdir():
            os.chown(path, *owner_of(MANAGER_USER))
        yield made.up()
    finally:
        made.close()


def owner_of(user: str) -> tuple[int, int]:
    import pwd

    found = pwd.getpwnam(user)
    return found.pw_uid, found.pw_gid


def shown(stack: Stack, number: int) -> x509.Certificate:
    """What an agent shows to whoever connects."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", stack.agent_ports[number])).encode())


def authorities(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:
        return False
    return True


def renewed(stack: Stack) -> set[Any]:
    return {one["data"]["authority"] for one in items(stack, "events", kind="authority.renewed")}


def test_servers_are_never_lost_when_their_authority_ends(stack: Stack) -> None:
    # The manager looks once an hour: what it began before there were servers, it goes on with when it is started again.
    for dummy in range(2):
        stack.end("manager")
        stack.start("manager")
        stack.wait_until_up()
        stack.wait_for(lambda: all(server["state"] == "running" for server in stack.client.get("/api/v1/servers")["items"]), "the servers")
    stack.wait_for(lambda: {"servers", "people"} <= renewed(stack), "the authority that follows")
    (signs,) = authorities(stack.manager_directory / "servers.crt")
    (before,) = authorities(stack.manager_directory / "servers.before.crt")
    assert not (stack.manager_directory / "servers.next.crt").exists()
    for number in (0, 1):
        believed = authorities(stack.directory / f"agent{number}/identity/authority.pem")
        assert signs in believed
    stack.client.post("/api/v1/servers/s0/renew", {})
    stack.wait_for(lambda: signed_by(shown(stack, 0), signs), "the certificate of the new one")
    since = stack.client.get("/api/v1/servers/s0")["last_seen"]
    stack.wait_for(lambda: stack.client.get("/api/v1/servers/s0")["last_seen"] > since, "a callback with it: nginx lets it in")
    job = ended(
        stack, stack.client.post("/api/v1/apply", {"vms": [{"name": f"v{number}", "server": f"s{number}", "memory": "8MiB"} for number in (0, 1)]})["id"]
    )
    assert job["state"] == "succeeded", job
    assert not signed_by(before, signs), "it is another one, and not the same once more"
